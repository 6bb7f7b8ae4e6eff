//! Default values and limits, which Python reads from here.
//!
//! Python has no copies of them, so its signatures and its documentation can't differ from the
//! native code.

use std::time::Duration;

use aios_agents::{
    agent::{AgentDefinition, HostOptions, TaskClient},
    projection,
    runtime::EngineOptions,
};
use aios_core::{
    retry::RetryPolicy,
    store::{MAX_PAGE, PageRequest, RunStatus},
};
use aios_llm::{LlmAgent, model::ModelErrorKind, tool::Tool};
use aios_store::Retention;
use pyo3::prelude::*;

/// `aios._aios.DEFAULTS`. Durations are in seconds.
#[pyclass(frozen, get_all, module = "aios._aios")]
pub(crate) struct Defaults {
    retry_max_attempts: u32,
    retry_initial_delay: f64,
    retry_factor: f64,
    retry_max_delay: f64,
    retry_jitter: f64,
    /// Concurrent tasks of an `async def` agent.
    concurrency: u16,
    max_concurrency: u16,
    call_timeout: f64,
    tool_timeout: f64,
    max_tool_result_bytes: usize,
    max_argument_bytes: usize,
    /// Codes of the errors of models.
    model_errors: Vec<&'static str>,
    /// Those that another request may not have.
    retryable_model_errors: Vec<&'static str>,
    lease_time: f64,
    blocked_after: Option<f64>,
    projection_batch_size: usize,
    projection_lease_time: f64,
    expire_batch_size: u16,
    expire_pause: f64,
    max_expire_batch_size: u16,
    page_limit: usize,
    max_page_limit: usize,
    run_statuses: Vec<&'static str>,
}

impl Defaults {
    pub(crate) fn new() -> Self {
        let retry = RetryPolicy::new();
        Self {
            retry_max_attempts: retry.max_attempts,
            retry_initial_delay: retry.initial_delay.as_secs_f64(),
            retry_factor: retry.factor,
            retry_max_delay: retry.max_delay.as_secs_f64(),
            retry_jitter: retry.jitter,
            concurrency: AgentDefinition::DEFAULT_CONCURRENCY,
            max_concurrency: u16::MAX,
            call_timeout: TaskClient::DEFAULT_TIMEOUT.as_secs_f64(),
            tool_timeout: Tool::DEFAULT_TIMEOUT.as_secs_f64(),
            max_tool_result_bytes: Tool::DEFAULT_MAX_RESULT_BYTES,
            max_argument_bytes: LlmAgent::DEFAULT_MAX_ARGUMENT_BYTES,
            model_errors: ModelErrorKind::ALL.map(ModelErrorKind::code).to_vec(),
            retryable_model_errors: ModelErrorKind::ALL
                .into_iter()
                .filter(|kind| kind.is_retryable())
                .map(ModelErrorKind::code)
                .collect(),
            lease_time: EngineOptions::default().lease_time.as_secs_f64(),
            blocked_after: HostOptions::new().blocked_after.as_ref().map(Duration::as_secs_f64),
            projection_batch_size: projection::DEFAULT_BATCH_SIZE,
            projection_lease_time: projection::DEFAULT_LEASE_TIME.as_secs_f64(),
            expire_batch_size: Retention::DEFAULT_BATCH_SIZE,
            expire_pause: Retention::DEFAULT_PAUSE.as_secs_f64(),
            max_expire_batch_size: u16::MAX,
            page_limit: PageRequest::default().limit,
            max_page_limit: MAX_PAGE,
            run_statuses: RunStatus::ALL.iter().map(|status| status.as_str()).collect(),
        }
    }
}
