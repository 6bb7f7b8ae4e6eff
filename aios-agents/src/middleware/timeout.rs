//! A time limit for each task.
//!
//! When it is over, the future of the agent's code is dropped, as with the task's own timeout. Code
//! on another thread is not stopped by this.
//!
//! The task's own timeout is enforced elsewhere: by the agent host (`agent/host/task/supervisor.rs`)
//! and, `task_grace` later, by the engine (`workflow/engine/driver/assignment.rs`).

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    catalog::codes,
    clock::Clock,
    event::Payload,
    failure::Failure,
};

use super::Middleware;
use crate::{agent::AgentError, options::check_span};

/// Fails a task after a time, with [`TASK_TIMEOUT`](codes::TASK_TIMEOUT), which is retryable.
///
/// A task's own timeout also applies.
///
/// # Examples
///
/// A limit that applies to every caller, including callers that set no timeout:
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::{agent::AgentDefinition, middleware::Timeout, prelude::*};
/// use aios_core::clock::SystemClock;
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// let limit = Timeout::new(Arc::new(SystemClock), Duration::from_secs(30));
/// let definition = AgentDefinition::instance("upper", Upper).with_layer(limit);
/// # drop(definition);
/// ```
#[derive(Clone, Debug)]
pub struct Timeout {
    clock: Arc<dyn Clock>,
    after: Duration,
}

impl Timeout {
    /// Fails tasks that take longer than `after`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, after: Duration) -> Self {
        Self { clock, after }
    }
}

impl Middleware for Timeout {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        tokio::select! {
            biased;
            // First, so that a result wins over a timeout at the same moment.
            result = agent.process_task(context, parameters) => result,
            () = self.clock.sleep(self.after) => {
                let message = format!("the task took longer than {:?}", self.after);
                Err(TaskError::retryable(Failure::new(codes::TASK_TIMEOUT, message)))
            }
        }
    }

    fn check(&self) -> Result<(), AgentError> {
        check_span("a timeout", self.after, Duration::from_millis(1))
            .map_err(|reason| AgentError::InvalidConfiguration { reason })
    }
}
