use std::sync::Arc;

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use tokio::sync::Semaphore;

use super::Middleware;

/// Limits the number of concurrent tasks. Further tasks wait in FIFO order.
///
/// The wait counts towards the task's timeout.
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
        let _permit = self.0.acquire().await?;
        agent.process_task(context, parameters).await
    }
}
