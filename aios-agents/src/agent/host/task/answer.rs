//! Publishes the answer of a task and settles its delivery.
//!
//! The order is: events that the agent emitted, the result, the settlement. The result ends the
//! attempt for the engine, so what the agent emitted comes before it. The delivery is settled last,
//! because from then on the broker no longer delivers the task again. After a crash in between,
//! another process does the task again: at least once.
//!
//! | what happens | answer | delivery |
//! |---|---|---|
//! | the broker accepts the answer | as it is | acknowledged |
//! | a failure is too large for the broker | the same failure, shortened | acknowledged |
//! | the broker refuses it permanently, or it can't be encoded | a terminal failure instead | acknowledged |
//! | the broker refuses that failure, too | none | dead letter; the engine reads the reason |
//! | no mailbox receives the answer | none | dead letter |
//! | the host stops, or the broker is closed | none | released |
//!
//! A delivery that was acknowledged early is absent, and there is nothing to settle. Instead of being
//! released, such a task is published again (`hand_back`).

use aios_core::{
    Chain,
    agent::{
        SPAN_ATTRIBUTES, TaskAssigned, TaskCompleted, TaskContext, TaskError, TaskFailed, TaskId,
    },
    broker::{BrokerError, Delivery, Mailbox, Publish},
    event::{Event, EventError, Payload},
    failure::Failure,
};

use super::{
    attempt_cache::{Answer, AttemptGuard},
    publish::Unpublished,
};
use crate::{
    agent::{host::hosted::HostedType, letters::final_reason},
    failing::truncate,
};

impl HostedType {
    /// Builds the answer of an attempt that ended with `result`.
    ///
    /// Events that the agent emitted are part of the answer only if it succeeded.
    pub(crate) fn answer(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        result: Result<Payload, TaskError>,
        context: &TaskContext,
    ) -> Result<Answer, EventError> {
        let mut answer = match result {
            Ok(output) => Answer {
                emitted: emitted(context, parent),
                result: self.completed(assigned, parent, output)?,
            },
            Err(error) => self.failed(assigned, parent, error)?,
        };
        let attributes = context.take_attributes();
        if !attributes.is_empty() {
            answer.result.metadata_mut().extra.insert(SPAN_ATTRIBUTES, &attributes)?;
        }
        Ok(answer)
    }

    /// The event of a successful attempt.
    fn completed(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        output: Payload,
    ) -> Result<Event, EventError> {
        let task_id = assigned.task_id.clone();
        let data = TaskCompleted::new(task_id, output);
        Ok(self.shared.event(&self.names.completed, &data)?.caused_by(parent))
    }

    /// The event of a failed attempt. What the agent emitted is dropped.
    fn failed(
        &self,
        assigned: &TaskAssigned,
        parent: &Event,
        error: TaskError,
    ) -> Result<Answer, EventError> {
        let TaskError { failure, retryable, .. } = error;
        let task_id = assigned.task_id.clone();
        let attempt = assigned.attempt;
        let data = TaskFailed::new(task_id, attempt, failure, retryable);
        let result = self.shared.event(&self.names.failed, &data)?.caused_by(parent);
        Ok(Answer { emitted: Vec::new(), result })
    }

    /// Publishes the answer and acknowledges the delivery. An answer that the broker refuses
    /// permanently becomes a failure. If that is refused as well, the task becomes a dead letter,
    /// and an engine that still waits is notified of it. Only an abandoned delivery is released.
    pub(super) async fn deliver_answer(
        &self,
        answer: Result<Answer, EventError>,
        assigned: &TaskAssigned,
        parent: &Event,
        delivery: Option<Delivery>,
        guard: &AttemptGuard<'_>,
    ) {
        let (unanswered, result) = match answer {
            Ok(mut answer) => {
                // Before the publish, so that a redelivery in the meantime is answered without the
                // work.
                guard.finish(&answer);
                match self.publish_answer(&mut answer, parent, guard).await {
                    Ok(()) => return acknowledge(delivery).await,
                    Err(unpublished) => (unpublished.into(), Some(answer.result)),
                }
            }
            Err(error) => (Unanswered::NotEncodable(error), None),
        };
        let error = match unanswered {
            Unanswered::Abandoned(error) => return self.release(parent, delivery, &error).await,
            // A failure would not find the mailbox either.
            Unanswered::Refused(BrokerError::Unroutable { .. }) => {
                return dead_letter(delivery, "no mailbox receives the answer".to_owned()).await;
            }
            Unanswered::Refused(error) => self
                .shortened(&error, result)
                .unwrap_or_else(|| TaskError::terminal(Failure::from_error(error.code(), &error))),
            Unanswered::NotEncodable(error) => {
                TaskError::terminal(Failure::from_error(error.code(), &error))
            }
        };
        self.fail(error, assigned, parent, delivery, guard).await;
    }

    /// The failure of an attempt whose event is too large for the broker, without its details and the
    /// end of its message.
    fn shortened(&self, error: &BrokerError, result: Option<Event>) -> Option<TaskError> {
        let result = result.filter(|result| result.event_type == self.names.failed)?;
        let BrokerError::TooLarge { .. } = error else { return None };
        let failed: TaskFailed = result.data().ok()?;
        let failure = truncate(&failed.failure);
        Some(match failed.retryable {
            true => TaskError::retryable(failure),
            false => TaskError::terminal(failure),
        })
    }

    /// Ends an attempt whose answer will never be accepted with a failure that says so.
    async fn fail(
        &self,
        error: TaskError,
        assigned: &TaskAssigned,
        parent: &Event,
        delivery: Option<Delivery>,
        guard: &AttemptGuard<'_>,
    ) {
        let failure = &error.failure;
        tracing::warn!(%failure, task_id = %assigned.task_id, "failed to publish an answer; publishing a failure instead");
        let reason = final_reason(failure);
        let Ok(mut answer) = self.failed(assigned, parent, error) else {
            return dead_letter(delivery, reason).await;
        };
        match Box::pin(self.publish_answer(&mut answer, parent, guard)).await {
            Ok(()) => {
                guard.finish(&answer);
                acknowledge(delivery).await;
            }
            Err(Unpublished::Abandoned(error)) => self.release(parent, delivery, &error).await,
            Err(Unpublished::Refused(_)) => dead_letter(delivery, reason).await,
        }
    }

    /// Publishes the emitted events and then the result. If the engine that waits has changed
    /// during the publish, the result is sent to the new one as well; engines recognise a repeated
    /// answer by its event id.
    async fn publish_answer(
        &self,
        answer: &mut Answer,
        parent: &Event,
        guard: &AttemptGuard<'_>,
    ) -> Result<(), Unpublished> {
        let Answer { emitted, result } = answer;
        if !emitted.is_empty() {
            let emitted = std::mem::take(emitted).into_iter().map(Publish::new).collect();
            // Boxed: few tasks emit events, and the future of every attempt would be larger.
            Box::pin(self.publish(emitted, Some(&guard.state))).await?;
            guard.published_emitted();
        }
        // The run may move to another engine during the publish, and that engine needs the answer too.
        loop {
            let to = self.shared.reply_to(parent);
            self.publish(vec![reply(result.clone(), to.clone())], Some(&guard.state)).await?;
            if self.shared.reply_to(parent) == to {
                return Ok(());
            }
        }
    }

    /// Releases a task whose answer was abandoned, so that the broker delivers it again.
    async fn release(&self, task: &Event, delivery: Option<Delivery>, error: &BrokerError) {
        tracing::warn!(error = %Chain(error), "abandoned an answer before it was published");
        Box::pin(self.hand_back(task, delivery)).await;
    }

    /// Publishes the answer of an attempt that has ended for an engine that asks for it.
    pub(super) async fn answer_again(&self, answer: Event, task: &Event) {
        let publish = reply(answer, self.shared.reply_to(task));
        if let Err(Unpublished::Refused(error) | Unpublished::Abandoned(error)) =
            self.publish(vec![publish], None).await
        {
            tracing::warn!(error = %Chain(&error), "failed to publish an answer again");
        }
    }

    /// Publishes that a task failed because it can't be decoded.
    ///
    /// The task becomes a dead letter in any case; the answer only tells a caller sooner.
    pub(super) async fn answer_unreadable(
        &self,
        task_id: TaskId,
        attempt: u32,
        failure: Failure,
        parent: &Event,
    ) {
        let data = TaskFailed::new(task_id, attempt, failure, false);
        let result = match self.shared.event(&self.names.failed, &data) {
            Ok(event) => event.caused_by(parent),
            Err(error) => {
                return tracing::warn!(
                    code = error.code(),
                    "failed to encode the answer to an undecodable task; it becomes a dead letter"
                );
            }
        };
        let publish = reply(result, self.shared.reply_to(parent));
        if let Err(Unpublished::Refused(error) | Unpublished::Abandoned(error)) =
            self.publish(vec![publish], None).await
        {
            tracing::warn!(
                code = error.code(),
                "failed to answer an undecodable task; it becomes a dead letter"
            );
        }
    }
}

/// Addresses an answer to a mailbox, which must exist.
///
/// Without a mailbox, the answer goes to subscribers only, and it is not an error if there are
/// none.
fn reply(answer: Event, to: Option<Mailbox>) -> Publish {
    Publish { require_route: to.is_some(), event: answer, to }
}

/// Why an attempt has no answer.
enum Unanswered {
    /// The broker refuses the answer permanently.
    Refused(BrokerError),
    /// The host stopped waiting for the broker.
    Abandoned(BrokerError),
    /// The answer can't be encoded as an event.
    NotEncodable(EventError),
}

impl From<Unpublished> for Unanswered {
    fn from(unpublished: Unpublished) -> Self {
        match unpublished {
            Unpublished::Refused(error) => Self::Refused(error),
            Unpublished::Abandoned(error) => Self::Abandoned(error),
        }
    }
}

/// Acknowledges an answered task, unless it was acknowledged early.
async fn acknowledge(delivery: Option<Delivery>) {
    if let Some(delivery) = delivery {
        log_unsettled(delivery.ack().await);
    }
}

/// Dead-letters a task that can't be answered. If it was acknowledged early, the engine receives no
/// more heartbeats of it, which ends the attempt as well.
async fn dead_letter(delivery: Option<Delivery>, reason: String) {
    tracing::warn!(reason, "failed to answer a task; it becomes a dead letter");
    if let Some(delivery) = delivery {
        log_unsettled(delivery.dead_letter(reason).await);
    }
}

/// Logs a failed settlement. The broker delivers the task again, and the host recognises it.
pub(crate) fn log_unsettled(settled: Result<(), BrokerError>) {
    if let Err(error) = settled {
        tracing::warn!(
            code = error.code(),
            error = %Chain(&error),
            "failed to settle a delivery"
        );
    }
}

/// Takes the events that an agent emitted. Their cause is the task, unless the agent set another
/// one.
fn emitted(context: &TaskContext, task: &Event) -> Vec<Event> {
    let mut emitted = context.take_emitted();
    let ours = emitted.iter_mut().filter(|event| event.metadata.causation_id.is_none());
    ours.for_each(|event| event.metadata_mut().causation_id = Some(task.id.to_string().into()));
    emitted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aios_broker::memory::MemoryBroker;
    use aios_core::{
        agent::{Agent, Name},
        broker::{Broker, BrokerExt, Group, Subscription},
        clock::SystemClock,
    };

    use super::*;
    use crate::agent::{
        AgentDefinition, HostOptions,
        host::{
            Parts, Shared,
            place::{Place, RuntimePulse},
            task::attempt_cache::{Key, Lookup},
        },
    };

    struct Idle;

    impl Agent for Idle {
        type Parameters = ();
        type Output = ();

        async fn process_task(&self, _: &TaskContext, (): ()) -> Result<(), TaskError> {
            Ok(())
        }
    }

    fn hosted(broker: Arc<dyn Broker>) -> Arc<HostedType> {
        let (clock, source) = (Arc::new(SystemClock), "test".into());
        let parts = Parts { broker, clock, store: None, source };
        let shared = Arc::new(Shared::new(parts, HostOptions::new()));
        let definition = AgentDefinition::instance("idle", Idle);
        let place = Place::new(Arc::new(RuntimePulse::new().0));
        HostedType::new(&shared, Name::new("idle").unwrap(), definition, place).unwrap()
    }

    /// No result of an agent can cause this today.
    #[tokio::test]
    async fn should_fail_a_task_whose_answer_is_not_an_event() {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let subscribe = |name: &str, action: &str| {
            let pattern = format!("agents.idle.{action}").parse().unwrap();
            broker.subscribe(Subscription::group(Group::new(name).unwrap(), [pattern]))
        };
        let mut tasks = subscribe("tasks", "task_assigned").await.unwrap();
        let mut failures = subscribe("failures", "task_failed").await.unwrap();
        let data = serde_json::json!({ "task_id": "t1", "attempt": 1, "parameters": null });
        let hosted = hosted(Arc::clone(&broker));
        let task = Event::new(hosted.names.assigned.clone(), "test", &data).unwrap();
        broker.publish_event(task.clone()).await.unwrap();
        let delivery = tasks.next().await.unwrap().unwrap();
        let assigned: TaskAssigned = task.data().unwrap();
        let Lookup::New(guard) =
            hosted.shared.attempt_cache.begin(Key::new(&assigned, &task.metadata))
        else {
            panic!("it is new")
        };
        let not_encodable = Err(EventError::InvalidId { bytes: 0 });
        hosted.deliver_answer(not_encodable, &assigned, &task, Some(delivery), &guard).await;
        let failed: TaskFailed = failures.next().await.unwrap().unwrap().event.data().unwrap();
        assert_eq!((&*failed.failure.code, failed.retryable), ("INVALID_EVENT_ID", false));
        let group = Group::new("tasks").unwrap().into();
        drop(tasks);
        let letters = broker.dead_letters(&group).await.unwrap();
        assert_eq!(letters.waiting().await.unwrap(), 0, "it is acknowledged");
        drop(guard);
        let again = hosted.shared.attempt_cache.begin(Key::new(&assigned, &task.metadata));
        assert!(matches!(again, Lookup::Finished(..)), "the code is not run again");
    }
}
