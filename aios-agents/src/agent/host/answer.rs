//! Publishes what a task has to say, and settles its delivery.

use aios_core::{
    Chain,
    agent::{TaskAssigned, TaskCompleted, TaskContext, TaskError, TaskFailed, TaskId, TaskResult},
    broker::{BrokerError, Delivery, Mailbox, Publish},
    event::{Event, EventError, Payload},
    failure::Failure,
};

use super::{
    hosted::HostedType,
    ledger::{Answer, Entry},
    running::Running,
};
use crate::agent::backoff::Backoff;

impl HostedType {
    /// The answer of an attempt that ended with `result`.
    pub(super) fn answer(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        result: Result<Payload, TaskError>,
        context: &TaskContext,
    ) -> Result<Answer, EventError> {
        match result {
            Ok(output) => Ok(Answer {
                emitted: emitted(context, parent),
                result: self.completed(assigned, parent, output)?,
            }),
            Err(error) => self.failed(assigned, parent, error),
        }
    }

    fn completed(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        output: Payload,
    ) -> Result<Event, EventError> {
        let task_id = assigned.task_id.clone();
        let data = TaskCompleted { task_id, result: TaskResult::Success, output };
        Ok(self.shared.event(&self.names.completed, &data)?.caused_by(parent))
    }

    fn failed(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        error: TaskError,
    ) -> Result<Answer, EventError> {
        let TaskError { failure, retryable } = error;
        let (task_id, attempt) = (assigned.task_id.clone(), assigned.attempt);
        let data = TaskFailed { task_id, attempt, failure, retryable };
        let result = self.shared.event(&self.names.failed, &data)?.caused_by(parent);
        Ok(Answer { emitted: Vec::new(), result })
    }

    /// Publishes the answer and acknowledges the delivery; what can't be published is released.
    /// An answer that is too large for the broker becomes a failure.
    pub(super) async fn deliver_answer(
        &self,
        answer: Result<Answer, EventError>,
        assigned: &TaskAssigned,
        parent: &Event,
        delivery: Option<Delivery>,
        entry: &Entry<'_>,
    ) {
        let sent = match answer {
            Ok(answer) => self.publish_answer(answer, parent, entry).await,
            Err(error) => {
                return give_back(delivery, &Failure::from_error(error.code(), &error)).await;
            }
        };
        let sent = match sent {
            Err(error @ BrokerError::TooLarge { .. }) => {
                let failure = TaskError::terminal(Failure::from_error(error.code(), &error));
                match self.failed(assigned, parent, failure) {
                    Ok(answer) => Box::pin(self.publish_answer(answer, parent, entry)).await,
                    Err(_) => Err(error),
                }
            }
            sent => sent,
        };
        match (sent, delivery) {
            (Ok(()), Some(delivery)) => log_unsettled(delivery.ack().await),
            (Ok(()), None) => {}
            (Err(error), delivery) => unsent(delivery, &error).await,
        }
    }

    async fn publish_answer(
        &self,
        answer: Answer,
        parent: &Event,
        entry: &Entry<'_>,
    ) -> Result<(), BrokerError> {
        entry.finish(&answer);
        let Answer { emitted, result } = answer;
        if !emitted.is_empty() {
            let emitted = emitted.into_iter().map(Publish::new).collect();
            Box::pin(self.publish(emitted, Some(&entry.running))).await?;
            entry.published_emitted();
        }
        self.publish(vec![reply(result, parent)], Some(&entry.running)).await
    }

    /// Says that a task was given up because it can't be read.
    pub(super) async fn answer_unreadable(
        &self,
        task_id: TaskId,
        attempt: u32,
        failure: Failure,
        parent: &Event,
    ) {
        let data = TaskFailed { task_id, attempt, failure, retryable: false };
        let result = match self.shared.event(&self.names.failed, &data) {
            Ok(event) => event.caused_by(parent),
            Err(error) => return tracing::error!(code = error.code(), "{error}"),
        };
        let publish = reply(result, parent);
        if let Err(error) = self.publish(vec![publish], None).await {
            tracing::error!(code = error.code(), "a refused task could not be answered");
        }
    }

    /// Publishes the answer that an earlier delivery of the same attempt got, and settles this one.
    pub(super) async fn answer_again(&self, answer: Answer, delivery: Delivery) {
        let result = reply(answer.result, &delivery.event);
        let batch = answer.emitted.into_iter().map(Publish::new).chain([result]).collect();
        match self.publish(batch, None).await {
            Ok(()) => log_unsettled(delivery.ack().await),
            Err(error) => unsent(Some(delivery), &error).await,
        }
    }

    /// Publishes all events in order, again and again while the failure may pass and the task is
    /// not abandoned. A mailbox that is missing may be declared in a moment, after the server has lost
    /// its data; if it stays away, nobody is left who wants the answer there.
    async fn publish(
        &self,
        batch: Vec<Publish>,
        running: Option<&Running>,
    ) -> Result<(), BrokerError> {
        match first_failure(self.shared.broker.publish(batch.clone()).await) {
            None => Ok(()),
            Some(failure) => Box::pin(self.publish_again(batch, failure, running)).await,
        }
    }

    async fn publish_again(
        &self,
        mut batch: Vec<Publish>,
        mut failure: (usize, BrokerError),
        running: Option<&Running>,
    ) -> Result<(), BrokerError> {
        let mut backoff = Backoff::new(&self.shared.options.backoff);
        let given_up_at = self.shared.clock.now() + self.shared.options.answer_patience;
        loop {
            let (failed, error) = failure;
            let is_unroutable = matches!(error, BrokerError::Unroutable { .. });
            let is_late = is_unroutable && self.shared.clock.now() >= given_up_at;
            if !error.is_retryable() || is_late {
                return Err(error);
            }
            tracing::warn!(error = %Chain(&error), "an answer was not published; trying again");
            batch.drain(..failed);
            tokio::select! {
                biased;
                () = abandoned(running) => return Err(error),
                () = backoff.wait(&*self.shared.clock) => {}
            }
            match first_failure(self.shared.broker.publish(batch.clone()).await) {
                None => return Ok(()),
                Some(again) => failure = again,
            }
        }
    }
}

/// The first event of a batch that was not published, and why.
fn first_failure(answers: Vec<Result<(), BrokerError>>) -> Option<(usize, BrokerError)> {
    let numbered = answers.into_iter().enumerate();
    numbered.filter_map(|(index, answer)| Some((index, answer.err()?))).next()
}

async fn abandoned(running: Option<&Running>) {
    match running {
        Some(running) => running.abandoned().await,
        None => std::future::pending().await,
    }
}

/// An answer on its way to the mailbox that wants it, which has to be there.
fn reply(answer: Event, task: &Event) -> Publish {
    let to = reply_to(task);
    Publish { require_route: to.is_some(), event: answer, to }
}

/// The mailbox that wants the answer to `event`.
pub(super) fn reply_to(event: &Event) -> Option<Mailbox> {
    let name = event.metadata.reply_to.as_deref()?;
    Mailbox::new(name)
        .inspect_err(
            |error| tracing::warn!(event_id = %event.id, "reply_to is no mailbox: {error}"),
        )
        .ok()
}

/// Settles a task whose answer was not published. Without a mailbox for the answer the task becomes a
/// dead letter, of which the engine hears if it still waits; else it is delivered again.
async fn unsent(delivery: Option<Delivery>, error: &BrokerError) {
    let failure = Failure::from_error(error.code(), error);
    match (error, delivery) {
        (BrokerError::Unroutable { .. }, Some(delivery)) => {
            tracing::error!(%failure, "an answer finds no mailbox; its task becomes a dead letter");
            log_unsettled(delivery.dead_letter("no mailbox takes the answer").await);
        }
        (_, delivery) => give_back(delivery, &failure).await,
    }
}

/// Lets the broker deliver a task again whose answer could not be published.
async fn give_back(delivery: Option<Delivery>, failure: &Failure) {
    tracing::error!(%failure, "an answer can't be published");
    if let Some(delivery) = delivery {
        log_unsettled(delivery.release().await);
    }
}

/// A delivery that was not settled comes again, and is recognised then.
pub(super) fn log_unsettled(settled: Result<(), BrokerError>) {
    if let Err(error) = settled {
        tracing::warn!(
            code = error.code(),
            error = %Chain(&error),
            "a delivery was not settled"
        );
    }
}

/// What an agent emitted; the task is the cause, unless it named another one.
fn emitted(context: &TaskContext, task: &Event) -> Vec<Event> {
    let mut emitted = context.take_emitted();
    let ours = emitted.iter_mut().filter(|event| event.metadata.causation_id.is_none());
    ours.for_each(|event| event.metadata.causation_id = Some(task.id.to_string().into()));
    emitted
}
