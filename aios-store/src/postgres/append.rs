use aios_core::store::{Append, Appended, StoreError};
use tokio::sync::oneshot;

use super::{
    PostgresStore,
    callers::{Caller, Pending, too_late},
};
use crate::admission::admit;

/// An append on its way: what becomes of it, or where to hear of it.
enum Ticket {
    Known(StoreError),
    Waiting(oneshot::Receiver<Result<Appended, StoreError>>),
}

impl PostgresStore {
    pub(super) async fn append_all(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut tickets = Vec::with_capacity(batch.len());
        for append in batch {
            tickets.push(self.enqueue(append).await);
        }
        let mut answers = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            answers.push(match ticket {
                Ticket::Known(error) => Err(error),
                Ticket::Waiting(answer) => answer.await.unwrap_or(Err(StoreError::Closed)),
            });
        }
        answers
    }

    async fn enqueue(&self, append: Append) -> Ticket {
        if let Err(error) = admit(&append, self.0.max_event_bytes) {
            return Ticket::Known(error);
        }
        let Some(queue) = self.queue() else { return Ticket::Known(StoreError::Closed) };
        let timeout = self.0.append_timeout;
        let (caller, answer) = Caller::new(self.0.database.clock().now() + timeout);
        let send = queue.send(Pending { append, caller });
        match self.0.database.within(timeout, send).await {
            Some(Ok(())) => Ticket::Waiting(answer),
            Some(Err(_)) => Ticket::Known(StoreError::Closed),
            None => Ticket::Known(too_late(timeout)),
        }
    }
}
