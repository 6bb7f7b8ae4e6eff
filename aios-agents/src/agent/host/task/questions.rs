//! Asks the engine whether an attempt is still open, before its code begins.
//!
//! The broker delivers a task again when it loses the connection of its consumer. By then the
//! engine may have ended the attempt, and only the engine knows. The order of messages:
//!
//! ```text
//! host    task_heartbeat {asks}          ──►  mailbox of the engine
//! engine  attempt_confirmed              ──►  every process of the type: the attempt may begin
//!         or attempt_cancelled           ──►  … it has ended: the delivery is acknowledged
//! ```
//!
//! The answer names the question as its cause. Only an answer to the latest question counts, and
//! only if it comes within the pause after the question: an engine that was frozen may answer from
//! an old state. The pause doubles while no answer comes.
//!
//! The first delivery of an attempt never asks, so nothing is slower while nothing fails. Nothing
//! is settled while a question is open. If this process dies, the broker delivers the task to
//! another one, which asks again.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use aios_core::{
    agent::{TaskAssigned, TaskControl, TaskHeartbeat},
    broker::Delivery,
    event::Event,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{answer::log_unsettled, hand_back::is_handed_back, task_state::TaskState};
use crate::agent::host::{FIRST_BEAT, hosted::HostedType};

/// How long a task waits for an answer before it is released to the broker.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between two questions is half a heartbeat interval, but not longer than this. It
/// doubles while no answer comes, so that questions never arrive faster than they are answered.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between two questions, and the greatest age of an answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Whether an attempt is still open.
enum Standing {
    Open,
    /// The attempt or its run has ended.
    Ended,
    /// No engine answers.
    Unknown,
    /// The task was cancelled or abandoned while waiting.
    Stopped,
}

/// The questions that wait for an answer, by the id of the event that asks.
#[derive(Debug, Default)]
pub(crate) struct Questions(Mutex<HashMap<Arc<str>, oneshot::Sender<bool>>>);

impl Questions {
    /// Passes an answer to the attempt that waits for it. Ignores late answers.
    pub(crate) fn answer(&self, answer: &Event, is_open: bool) {
        let Some(question) = &answer.metadata.causation_id else { return };
        if let Some(asked) = self.0.lock().remove(question) {
            // The receiver may have been dropped just now.
            let _ = asked.send(is_open);
        }
    }

    /// Registers a question before it is sent, so that its answer always finds it.
    fn ask(&self, question: &Event) -> Asked<'_> {
        let id: Arc<str> = question.id.to_string().into();
        let (sender, answer) = oneshot::channel();
        self.0.lock().insert(Arc::clone(&id), sender);
        Asked { questions: self, id, answer }
    }
}

/// A question that waits for its answer. Dropping it forgets the question.
struct Asked<'a> {
    questions: &'a Questions,
    /// Id of the event that asks.
    id: Arc<str>,
    /// Completed by the listener of `cancel`.
    answer: oneshot::Receiver<bool>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.questions.0.lock().remove(&self.id);
    }
}

impl HostedType {
    /// Returns the delivery if the attempt may begin or was stopped. Otherwise settles it:
    /// acknowledges it if the attempt has ended, and releases it if no engine answers.
    pub(super) async fn cleared(
        &self,
        assigned: &TaskAssigned,
        delivery: Delivery,
        running: &TaskState,
    ) -> Option<Delivery> {
        if !self.must_ask(assigned, &delivery) {
            return Some(delivery);
        }
        // Until the answer, the task can be withdrawn when the host stops or is blocked.
        let queued = running.queued();
        let task_id = &assigned.task_id;
        let attempt = assigned.attempt;
        match Box::pin(self.standing(assigned, &delivery.event, running)).await {
            Standing::Open => {
                // If it was withdrawn just now, it has been stopped, too.
                // The code counts as begun from here on.
                let _ = queued.begin();
                Some(delivery)
            }
            Standing::Stopped => Some(delivery),
            Standing::Ended => {
                tracing::debug!(%task_id, attempt, "the attempt of a redelivered task has ended; it does not run");
                // Redeliveries that came in the meantime are of the same attempt.
                for delivery in [Some(delivery), running.take_redelivered()].into_iter().flatten() {
                    log_unsettled(delivery.ack().await);
                }
                None
            }
            Standing::Unknown => {
                tracing::warn!(
                    %task_id, attempt,
                    "no engine answered within {PATIENCE:?} whether the attempt of a redelivered task is \
                     still open; releasing it to the broker"
                );
                None
            }
        }
    }

    /// Whether another process may have begun the attempt, or the engine may have ended it: it was
    /// delivered or handed back before, or is older than its timeout. A task without a run has a single attempt,
    /// which only the broker redelivers.
    fn must_ask(&self, assigned: &TaskAssigned, delivery: &Delivery) -> bool {
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("an attempt begins unasked") {
            return false;
        }
        if !self.shared.options.confirm_redelivered {
            return false;
        }
        let Event { metadata, timestamp, .. } = &delivery.event;
        let is_of_run = metadata.incarnation.is_some() && metadata.reply_to.is_some();
        let now = self.shared.clock.now();
        let is_old = || assigned.timeout().is_some_and(|timeout| *timestamp + timeout < now);
        let may_have_begun = delivery.redelivered || is_handed_back(&delivery.event);
        is_of_run && (may_have_begun || is_old())
    }

    /// Asks until the latest question has a recent answer. An answer that was delayed in transit,
    /// or that this process read late, may be outdated.
    async fn standing(
        &self,
        assigned: &TaskAssigned,
        task: &Event,
        running: &TaskState,
    ) -> Standing {
        let clock = &self.shared.clock;
        let options = &self.shared.options;
        let mut pause = (options.heartbeat_interval / 2).clamp(FIRST_BEAT, FIRST_PAUSE);
        let mut stopped = pin!(running.cancelled());
        let deadline = clock.elapsed() + PATIENCE;
        loop {
            let asked_at = clock.elapsed();
            if asked_at >= deadline {
                return Standing::Unknown;
            }
            let is_open = tokio::select! {
                biased;
                () = &mut stopped => return Standing::Stopped,
                answer = self.ask(assigned, task) => match answer {
                    Some(is_open) => Some(is_open),
                    None => return Standing::Unknown,
                },
                () = clock.sleep(pause.min(deadline - asked_at)) => None,
            };
            // Late answers are dropped and asked for again.
            if let Some(is_open) = is_open.filter(|_| clock.elapsed() <= asked_at + pause) {
                return if is_open { Standing::Open } else { Standing::Ended };
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks once and returns the answer, or `None` if the question can't be encoded.
    async fn ask(&self, assigned: &TaskAssigned, task: &Event) -> Option<bool> {
        let mut beat = TaskHeartbeat::new(assigned.task_id.clone(), assigned.attempt);
        beat.waits = true;
        beat.asks = true;
        let question = self.beat(task, &beat)?;
        let mut asked = self.shared.questions.ask(&question);
        self.send_heartbeat(question, task, &beat).await;
        // The sender is dropped only together with the question.
        (&mut asked.answer).await.ok()
    }
}
