//! Retries within one attempt.
//!
//! The engine's own retries are durable, and may run in another process. This layer saves the round
//! trip for failures that last for a moment. It holds the slot of the task while it waits.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::{Event, Payload},
    retry::RetryPolicy,
};
use futures_util::future::join;

use super::Middleware;
use crate::{
    agent::{AgentError, backoff::jitter},
    options::check_retry,
};

/// How long the next try waits for the store to take the output of the failed one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Retries a failed task within this process. Use it for short transient failures.
///
/// All tries belong to one attempt of the task; the caller's retry policy may still start another
/// attempt. Events emitted by a failed try are discarded; those that the layers around it emitted before
/// are kept. Readers of an output stream get a reset before what the next try writes. The delays count
/// towards the task's timeout.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::{agent::AgentDefinition, middleware::Retry};
/// use aios_core::{clock::SystemClock, retry::RetryPolicy};
/// # use aios_agents::prelude::*;
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
///
/// let policy = RetryPolicy::fixed(3, Duration::from_millis(50));
/// let definition = AgentDefinition::instance("upper", Upper)
///     .with_layer(Retry::new(Arc::new(SystemClock), policy));
/// # drop(definition);
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
}

impl Retry {
    /// Retries according to `policy`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, policy: RetryPolicy) -> Self {
        Self { clock, policy }
    }

    /// Waits for the delay, and until the output of the failed try is stored. The next try then
    /// opens its streams again, as another attempt does.
    async fn pause(&self, context: &TaskContext, delay: Duration) {
        let storing = async {
            tokio::select! {
                biased;
                // A failure was logged, and is not one of the task.
                _ = context.flush_streams() => {}
                () = self.clock.sleep(PATIENCE) => {}
            }
        };
        join(storing, self.clock.sleep(delay)).await;
    }
}

/// How many events the layers around this one have emitted.
fn count_emitted(context: &TaskContext) -> usize {
    let emitted = context.take_emitted();
    let count = emitted.len();
    restore(context, emitted);
    count
}

/// Emits events again that were taken from the same task.
fn restore(context: &TaskContext, events: impl IntoIterator<Item = Event>) {
    for event in events {
        // It was accepted before.
        let _ = context.emit(event);
    }
}

impl Middleware for Retry {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let earlier = count_emitted(context);
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            let error = match agent.process_task(context, parameters.clone()).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            // `delay_after` returns `None` when the policy allows no further try.
            let again = error.retryable && self.policy.allows(&error.failure.code);
            match self.policy.delay_after(tries, jitter()) {
                Some(delay) if again && !context.is_cancelled() => {
                    // Otherwise the events of all tries would be published.
                    restore(context, context.take_emitted().into_iter().take(earlier));
                    tokio::select! {
                        biased;
                        () = context.cancelled() => return Err(error),
                        () = self.pause(context, delay) => {}
                    }
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
