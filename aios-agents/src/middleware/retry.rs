use std::sync::Arc;

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::Payload,
    retry::RetryPolicy,
};

use super::Middleware;
use crate::{
    agent::{AgentError, backoff::chance},
    options::check_retry,
};

/// Tries a failed task again at once, in this process: for faults that pass quickly.
///
/// All tries are one attempt of the task; whoever gave it may try the whole again. What a failed
/// try emitted is forgotten. The delays count towards the task's timeout.
#[derive(Clone, Debug)]
pub struct Retry {
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
}

impl Retry {
    /// Tries again as `policy` says.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, policy: RetryPolicy) -> Self {
        Self { clock, policy }
    }
}

impl Middleware for Retry {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            let error = match agent.process_task(context, parameters.clone()).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let again = error.retryable && self.policy.allows(&error.failure.code);
            match self.policy.delay_after(tries, chance()) {
                Some(delay) if again && !context.is_cancelled() => {
                    drop(context.take_emitted());
                    self.clock.sleep(delay).await;
                }
                _ => return Err(error),
            }
        }
    }

    fn check(&self) -> Result<(), AgentError> {
        check_retry("a retry", &self.policy)
            .map_err(|reason| AgentError::InvalidConfiguration { reason })
    }
}
