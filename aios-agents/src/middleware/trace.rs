use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use tracing::{Instrument, Span, field};

use super::Middleware;

/// Runs every task within a span `task` of level `INFO`, with the fields `task_id`, `agent_type`,
/// `agent_id`, `attempt`, `traceparent` and, if it fails, `code`.
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
            span.record("code", error.failure.code.as_str());
            span.in_scope(|| tracing::warn!(%error, retryable = error.retryable, "a task failed"));
        }
        result
    }
}

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
