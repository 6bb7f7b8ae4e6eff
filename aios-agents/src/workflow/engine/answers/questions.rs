//! Answers to agents that ask whether an attempt is still open.
//!
//! A process that receives the delivery of an attempt a second time does not know whether the attempt
//! has ended: only the engine that owns the run does. It asks with a heartbeat, and begins only if the
//! answer confirms the attempt. The answer is an event to all processes of the type, which names the
//! question as its cause.
//!
//! "Ended" is an answer that can't be taken back: the process acknowledges the delivery. So it is given
//! only if the journal says so, or if the driver says so and the store has confirmed that this engine
//! owns the run (`answers`). "Open" is given at once: if it is wrong, an attempt runs twice, which
//! delivery allows.

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::{Name, TaskHeartbeat},
    broker::{BrokerExt, Delivery, Publish},
    catalog::agent,
    event::{Event, EventError, EventType, Timestamp},
    store::{EventStore, RecordedEvent, StreamId},
};
use tracing::warn;

use crate::workflow::{
    engine::{Engine, driver::acknowledge},
    journal::{Entry, JournalError, decode},
};

/// Events of a journal read at once.
const PAGE: usize = 1000;

/// Whether an event asks if the attempt that it names is still open.
pub(crate) fn asks(event: &Event) -> bool {
    event.event_type.action() == agent::TASK_HEARTBEAT
        && event.data().is_ok_and(|beat: TaskHeartbeat| beat.asks)
}

impl Engine {
    /// Answers a question in the background.
    pub(crate) fn answer_soon(self: &Arc<Self>, question: Delivery, is_open: bool) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move { engine.answer(question, is_open).await });
    }

    /// Answers a question. If the broker does not take the answer, the agent asks again.
    ///
    /// An agent that discards an attempt which has ended moves its queue, so that the tasks behind it
    /// count as queued. Otherwise their attempts would time out as well, and the queue would fill with
    /// ended attempts faster than agents can ask about them.
    pub(crate) async fn answer(&self, question: Delivery, is_open: bool) {
        if !is_open && let Ok(agent_type) = Name::new(question.event.event_type.entity()) {
            self.activity.record(&agent_type, self.clock.now(), Timestamp::MIN);
        }
        match self.answer_to(&question.event, is_open) {
            Ok(answer) => {
                if let Err(error) = self.broker.publish_one(Publish::new(answer)).await {
                    warn!(
                        error = %Chain(&error),
                        "could not tell an agent whether an attempt is still open; it asks again"
                    );
                }
            }
            Err(error) => {
                warn!(error = %Chain(&error), "could not encode the answer to a question about an attempt")
            }
        }
        acknowledge(question).await;
    }

    /// The event that answers a question.
    fn answer_to(&self, question: &Event, is_open: bool) -> Result<Event, EventError> {
        let TaskHeartbeat { task_id, attempt, .. } = question.data()?;
        let action = if is_open { agent::ATTEMPT_CONFIRMED } else { agent::ATTEMPT_CANCELLED };
        let event_type = EventType::new(agent::DOMAIN, question.event_type.entity(), action)?;
        let data = agent::Attempt::new(task_id, attempt);
        let answer = Event::new(event_type, Arc::clone(&self.journals.source), &data)?;
        Ok(answer.with_timestamp(self.clock.now()).caused_by(question))
    }

    /// Whether an attempt has ended according to the journal of a run that can't continue.
    ///
    /// The journal is read in pages until the answer is known. A run that is blocked is rarely asked
    /// about.
    pub(crate) async fn has_ended(
        &self,
        run_id: &str,
        operation: u64,
        attempt: u32,
    ) -> Result<bool, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        let mut after = 0;
        loop {
            let page = self.store.read_stream(&stream, after, PAGE).await?;
            if page.iter().any(|it| ends(it, operation, attempt)) {
                return Ok(true);
            }
            match page.last() {
                Some(last) if page.len() >= PAGE => after = last.version,
                _ => return Ok(false),
            }
        }
    }
}

/// Whether an event of a journal ends an attempt.
fn ends(recorded: &RecordedEvent, operation: u64, attempt: u32) -> bool {
    let Ok(entry) = decode(&recorded.event) else { return false };
    if entry.is_final() {
        return true;
    }
    if entry.operation() != Some(operation) {
        return false;
    }
    match entry {
        Entry::TaskCompleted(_) | Entry::TaskCancelled(_) | Entry::OperationFailed(_) => true,
        Entry::TaskFailed(task) => task.data.attempt >= attempt,
        Entry::RetryScheduled(retry) => retry.attempt > attempt,
        _ => false,
    }
}
