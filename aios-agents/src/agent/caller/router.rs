//! The reader of a client's mailbox.
//!
//! One spawned task owns the deliveries. It ends in one of two ways:
//!
//! - The last clone of the client is dropped. The tasks whose calls ended without an answer are
//!   cancelled while the subscription, and with it the mailbox, still exists.
//! - The broker is closed or refuses permanently. All waiting calls fail, and so does every later
//!   one.
//!
//! A transient error is followed by a new subscription to the same mailbox. The mailbox is
//! temporary, so answers that a broken connection took with it are lost; their calls time out.

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::{TaskCompleted, TaskError, TaskFailed, TaskId},
    broker::{Broker, BrokerError, Publish},
    catalog::agent,
    clock::Clock,
    event::{Event, EventError, EventType},
};

use tokio::sync::watch;

use super::{Answer, call::refused, pending::Pending};
use crate::{agent::subscriber::Subscriber, workflow::journal::TaskCancelled};

/// Reads the mailbox and passes each answer to the call that waits for it.
pub(super) struct Router {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) source: Arc<str>,
    pub(super) pending: Arc<Pending>,
}

impl Router {
    /// Reads until the client is dropped, the broker is closed, or it refuses permanently.
    pub(super) async fn run(self, mut subscriber: Subscriber, mut is_open: watch::Receiver<()>) {
        // Nothing is ever sent: waiting fails when the sender is dropped.
        let dropped = async { while is_open.changed().await.is_ok() {} };
        let error = tokio::select! {
            biased;
            // First, so that a dropped client wins over a steady flow of answers.
            () = dropped => None,
            error = self.route_until_refused(&mut subscriber) => Some(error),
        };
        let Some(error) = error else {
            // Keep the mailbox until its tasks are cancelled, so that publishing an answer does not
            // fail.
            return self.cancel_unanswered().await;
        };
        if !matches!(error, BrokerError::Closed) {
            tracing::error!(
                code = error.code(), error = %Chain(&error), mailbox = %subscriber.address(),
                "the broker permanently refuses to deliver answers; all further calls fail"
            );
        }
        self.pending.close(&refused(&error));
    }

    /// Reads until a permanent error.
    async fn route_until_refused(&self, subscriber: &mut Subscriber) -> BrokerError {
        loop {
            let delivery = match subscriber.next().await {
                Ok(delivery) => delivery,
                Err(error) => return error,
            };
            self.route(&delivery.event);
            if let Err(error) = delivery.ack().await {
                tracing::warn!(error = %Chain(&error), "failed to acknowledge an answer");
            }
        }
    }

    /// Cancels the tasks whose answers have no receiver any more, so that their agents do not keep
    /// running them.
    async fn cancel_unanswered(&self) {
        let unanswered = self.pending.take_unanswered();
        let events = unanswered.into_iter().map(|task| self.cancellation(task));
        let batch: Vec<Publish> = match events.collect::<Result<_, _>>() {
            Ok(batch) => batch,
            Err(error) => {
                return tracing::warn!(error = %Chain(&error), "failed to encode the cancellation of tasks");
            }
        };
        if batch.is_empty() {
            return;
        }
        for error in self.broker.publish(batch).await.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %Chain(&error), "failed to cancel a task of a dropped client");
        }
    }

    /// The event that cancels a task at every agent process of its type.
    fn cancellation(&self, task: (TaskId, EventType)) -> Result<Publish, EventError> {
        let (task_id, assigned) = task;
        let event_type = EventType::new(agent::DOMAIN, assigned.entity(), agent::TASK_CANCELLED)?;
        let event = Event::new(event_type, Arc::clone(&self.source), &TaskCancelled::new(task_id))?;
        Ok(Publish::new(event.with_timestamp(self.clock.now())))
    }

    /// Passes an answer to the call that waits for it. Ignores other events and answers to calls
    /// that have ended.
    fn route(&self, event: &Event) {
        let routed = match event.event_type.action() {
            agent::TASK_COMPLETED => {
                event.data().map(|TaskCompleted { task_id, output, .. }| {
                    self.complete(event, &task_id, Ok(output));
                })
            }
            agent::TASK_FAILED => {
                event.data().map(|TaskFailed { task_id, failure, retryable, .. }| {
                    let error = TaskError::retryable(failure).with_retryable(retryable);
                    self.complete(event, &task_id, Err(error));
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = routed {
            tracing::warn!(error = %Chain(&error), event_id = %event.id, "failed to decode an answer");
        }
    }

    /// Accepts an answer only from the agent type that was assigned the task, and only if it names
    /// the assignment as its cause.
    fn complete(&self, event: &Event, task_id: &TaskId, answer: Answer) {
        if !self.pending.complete(task_id, event, answer) {
            tracing::warn!(
                event_id = %event.id, event_type = %event.event_type, %task_id,
                "rejected an answer that does not name the assignment of its task as its cause"
            );
        }
    }
}
