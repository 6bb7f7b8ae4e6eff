use std::sync::Arc;

use aios_core::{
    Chain,
    agent::{TaskCompleted, TaskError, TaskFailed, TaskId},
    broker::{Broker, BrokerError, Deliveries, Subscription},
    clock::Clock,
    event::Event,
    retry::RetryPolicy,
};

use super::{Answer, pending::Pending};
use crate::agent::backoff::Backoff;

/// Reads the mailbox and hands answers to the calls that wait for them.
pub(super) struct Router {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) subscription: Subscription,
    pub(super) pending: Arc<Pending>,
}

impl Router {
    pub(super) async fn run(self, mut deliveries: Deliveries) {
        let mut backoff = Backoff::new(&RetryPolicy::default());
        while let Some(error) = self.route_all(&mut deliveries).await {
            match self.subscribe_again(error, &mut backoff).await {
                Some(again) => deliveries = again,
                None => break,
            }
        }
        self.pending.clear();
    }

    /// Subscribes until it succeeds; `None` once the broker is closed.
    async fn subscribe_again(
        &self,
        mut error: BrokerError,
        backoff: &mut Backoff,
    ) -> Option<Deliveries> {
        while !matches!(error, BrokerError::Closed) {
            tracing::warn!(error = %Chain(&error), "answers can't be read; subscribing again");
            backoff.wait(&*self.clock).await;
            match self.broker.subscribe(self.subscription.clone()).await {
                Ok(deliveries) => return Some(deliveries),
                Err(again) => error = again,
            }
        }
        None
    }

    async fn route_all(&self, deliveries: &mut Deliveries) -> Option<BrokerError> {
        while let Some(item) = deliveries.next().await {
            let delivery = match item {
                Ok(delivery) => delivery,
                Err(error) => return Some(error),
            };
            self.route(&delivery.event);
            if let Err(error) = delivery.ack().await {
                tracing::warn!(error = %Chain(&error), "an answer was not acknowledged");
            }
        }
        None
    }

    /// Hands an answer to the call that waits for it. Other events, and answers to calls that have
    /// ended, are ignored.
    fn route(&self, event: &Event) {
        let routed = match event.event_type.action() {
            "task_completed" => event.data().map(|TaskCompleted { task_id, output, .. }| {
                self.complete(event, &task_id, Ok(output));
            }),
            "task_failed" => {
                event.data().map(|TaskFailed { task_id, failure, retryable, .. }| {
                    self.complete(event, &task_id, Err(TaskError { failure, retryable }));
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = routed {
            tracing::warn!(error = %Chain(&error), event_id = %event.id, "an answer is unreadable");
        }
    }

    /// An answer is accepted from the agent type that was assigned the task, if it names the
    /// assignment as its cause.
    fn complete(&self, event: &Event, task_id: &TaskId, answer: Answer) {
        if !self.pending.complete(task_id, event, answer) {
            tracing::warn!(
                event_id = %event.id, event_type = %event.event_type, %task_id,
                "refused an answer that does not name the assignment of its task as its cause"
            );
        }
    }
}
