//! The dead letters of a group or mailbox, which live in its queue.
//!
//! Each operation is one critical section of the queue, so a listing never shows a letter that a
//! concurrent redrive has moved. A redriven event is appended with a fresh count of attempts and is
//! marked as redelivered. A dead letter counts in the load of its queue: letters that are never purged
//! fill it, and publishing is then refused.

use std::sync::Arc;

use aios_core::broker::{BrokerError, DeadLetter, DeadLetterFilter, DeadLetters};
use async_trait::async_trait;

use super::{connection::Connection, queue::Queue};

/// The dead letters of one queue.
pub(super) struct MemoryDeadLetters {
    /// Refuses the operations once it is closed.
    pub(super) connection: Arc<Connection>,
    /// The queue that has the letters.
    pub(super) queue: Arc<Queue>,
}

impl MemoryDeadLetters {
    /// Fails if the connection was closed, or the queue has expired together with its letters.
    fn check(&self) -> Result<(), BrokerError> {
        self.connection.check_open()?;
        self.queue.check_exists()
    }
}

#[async_trait]
impl DeadLetters for MemoryDeadLetters {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.check()?;
        Ok(self.queue.dead(limit))
    }

    async fn for_each(
        &self,
        visit: &mut (dyn FnMut(DeadLetter) + Send),
    ) -> Result<(), BrokerError> {
        self.list(usize::MAX).await?.into_iter().for_each(visit);
        Ok(())
    }

    async fn redrive(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError> {
        self.check()?;
        Ok(self.queue.take_dead(&selection, true))
    }

    async fn purge(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError> {
        self.check()?;
        Ok(self.queue.take_dead(&selection, false))
    }

    async fn waiting(&self) -> Result<u64, BrokerError> {
        self.check()?;
        let clock = &self.connection.exchange.options.clock;
        Ok(self.queue.waiting(|| clock.elapsed()).try_into().unwrap_or(u64::MAX))
    }
}
