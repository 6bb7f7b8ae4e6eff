//! A limit of concurrent tasks, across all agents that share it.

use std::sync::Arc;

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use tokio::sync::Semaphore;

use super::{Middleware, unless_cancelled};

/// Limits the number of concurrent tasks. Further tasks wait in FIFO order.
///
/// The wait counts towards the task's timeout. A task that is cancelled while it waits does not begin.
///
/// # Examples
///
/// One limit for two types that share a database:
///
/// ```
/// use aios_agents::{agent::AgentDefinition, middleware::ConcurrencyLimit, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// let connections = ConcurrencyLimit::new(8);
/// let readers = AgentDefinition::instance("reader", Upper).with_layer(connections.clone());
/// let writers = AgentDefinition::instance("writer", Upper).with_layer(connections);
/// # drop((readers, writers));
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit(Arc<Semaphore>);

impl ConcurrencyLimit {
    /// Allows at most `tasks` concurrent tasks; 0 counts as 1.
    #[must_use]
    pub fn new(tasks: u16) -> Self {
        Self(Arc::new(Semaphore::new(tasks.max(1).into())))
    }
}

impl Middleware for ConcurrencyLimit {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        // Nothing closes the semaphore; if it were closed, the task would fail.
        let _permit = unless_cancelled(context, self.0.acquire()).await??;
        agent.process_task(context, parameters).await
    }
}
