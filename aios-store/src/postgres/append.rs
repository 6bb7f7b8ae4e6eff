use aios_core::store::{Append, Appended, StoreError};
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{
    PostgresStore,
    batch::Admitted,
    callers::{Caller, Pending, too_late},
};

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
        let admitted = match Admitted::new(append, self.0.max_event_bytes) {
            Ok(admitted) => admitted,
            Err(error) => return Ticket::Known(error),
        };
        let Some(queue) = self.queue() else { return Ticket::Known(StoreError::Closed) };
        let timeout = self.0.append_timeout;
        let (caller, answer) = Caller::new(self.0.database.clock().now() + timeout);
        match queue.try_send(Pending { admitted, caller }) {
            Ok(()) => Ticket::Waiting(answer),
            Err(TrySendError::Closed(_)) => Ticket::Known(StoreError::Closed),
            Err(TrySendError::Full(pending)) => {
                match self.0.database.within(timeout, queue.send(pending)).await {
                    Some(Ok(())) => Ticket::Waiting(answer),
                    Some(Err(_)) => Ticket::Known(StoreError::Closed),
                    None => Ticket::Known(too_late(timeout)),
                }
            }
        }
    }
}
