//! A span and a log line for each task.

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use tracing::{Instrument, Span, field};

use super::Middleware;

/// Runs every task within a span `task` of level `INFO`, with the fields `task_id`, `agent_type`,
/// `agent_id`, `attempt`, `traceparent` and, if it fails, `code`.
///
/// The message of a failure is not logged, because it may hold data of the task.
///
/// The span is that of the `tracing` crate; a program decides with its subscriber what becomes of
/// it.
///
/// # Examples
///
/// ```
/// use aios_agents::{agent::AgentDefinition, middleware::Trace, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// let definition = AgentDefinition::instance("upper", Upper).with_layer(Trace::new());
/// # drop(definition);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace;

impl Trace {
    /// Same as [`Trace::default`].
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Middleware for Trace {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let span = span(context);
        let result = agent.process_task(context, parameters).instrument(span.clone()).await;
        if let Err(error) = &result {
            let code = error.failure.code.as_str();
            span.record("code", code);
            span.in_scope(|| tracing::warn!(code, retryable = error.retryable, "a task failed"));
        }
        result
    }
}

/// The field `code` is recorded only if the task fails.
fn span(context: &TaskContext) -> Span {
    tracing::info_span!(
        "task",
        task_id = context.task_id().as_str(),
        agent_type = context.agent_type(),
        agent_id = context.agent_id(),
        attempt = context.attempt(),
        traceparent = context.metadata().traceparent.as_deref(),
        code = field::Empty,
    )
}
