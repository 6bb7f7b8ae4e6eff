//! Asks the engine whether an attempt is still to be done, before its code begins.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_core::{
    agent::{TaskAssigned, TaskControl, TaskHeartbeat},
    broker::Delivery,
    event::{Event, Payload},
};
use tokio::sync::oneshot;

use super::{FIRST_BEAT, answer::log_unsettled, hosted::HostedType, running::Running};

/// How long a task waits for an answer before it goes back to the broker.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause between two questions, and the greatest age of an answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether an attempt is still to be done.
enum Standing {
    Open,
    /// It has ended, or its run has.
    Ended,
    /// No engine answers.
    Unknown,
    /// The task was cancelled or given up meanwhile.
    Stopped,
}

/// The questions that wait for an answer, by the id of the event that asks.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<Arc<str>, oneshot::Sender<bool>>>);

impl Questions {
    /// Hands an answer to whoever waits for it. One that comes too late is of no use.
    pub(super) fn answer(&self, answer: &Event, is_open: bool) {
        let Some(question) = &answer.metadata.causation_id else { return };
        if let Some(asked) = self.waiting().remove(question) {
            // Whoever asked may have stopped waiting just now.
            let _ = asked.send(is_open);
        }
    }

    fn ask(&self, question: &Event) -> Asked<'_> {
        let id: Arc<str> = question.id.to_string().into();
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(Arc::clone(&id), sender);
        Asked { questions: self, id, answer }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Arc<str>, oneshot::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that waits for its answer. Dropping it forgets the question.
struct Asked<'a> {
    questions: &'a Questions,
    id: Arc<str>,
    answer: oneshot::Receiver<bool>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.questions.waiting().remove(&self.id);
    }
}

impl HostedType {
    /// The delivery of an attempt whose code may begin, or that was stopped. Any other is settled: it is
    /// acknowledged if the attempt has ended, and goes back to the broker if nobody says.
    pub(super) async fn cleared(
        &self,
        assigned: &TaskAssigned,
        delivery: Delivery,
        running: &Running,
    ) -> Option<Delivery> {
        if !self.must_ask(assigned, &delivery) {
            return Some(delivery);
        }
        // Until then it is given back when the host stops or is blocked.
        let queued = running.queued();
        let (task_id, attempt) = (&assigned.task_id, assigned.attempt);
        match Box::pin(self.standing(assigned, &delivery.event, running)).await {
            Standing::Open => {
                // If it was withdrawn just now, it is stopped.
                let _ = queued.begin();
                Some(delivery)
            }
            Standing::Stopped => Some(delivery),
            Standing::Ended => {
                tracing::debug!(%task_id, attempt, "a delivered attempt has ended; it is not done");
                for delivery in [Some(delivery), running.take_handed()].into_iter().flatten() {
                    log_unsettled(delivery.ack().await);
                }
                None
            }
            Standing::Unknown => {
                tracing::warn!(
                    %task_id, attempt,
                    "no engine says within {PATIENCE:?} whether an attempt that was delivered again is \
                     still to be done; it goes back to the broker"
                );
                None
            }
        }
    }

    /// Whether somebody may have begun the attempt before, or the engine may have ended it: it was
    /// delivered before, or is older than it may take. A task without a run has one attempt, which nobody
    /// but the broker gives again.
    fn must_ask(&self, assigned: &TaskAssigned, delivery: &Delivery) -> bool {
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("an attempt begins unasked") {
            return false;
        }
        let Event { metadata, timestamp, .. } = &delivery.event;
        let is_of_run = metadata.incarnation.is_some() && metadata.reply_to.is_some();
        let now = self.shared.clock.now();
        let is_old = || assigned.timeout().is_some_and(|timeout| *timestamp + timeout < now);
        is_of_run && (delivery.redelivered || is_old())
    }

    /// Asks until there is an answer to the latest question that is not old: one that was on its way for
    /// long, or that this process read late, says nothing about now.
    async fn standing(&self, assigned: &TaskAssigned, task: &Event, running: &Running) -> Standing {
        let (clock, options) = (&self.shared.clock, &self.shared.options);
        let pause = (options.heartbeat_interval / 2).clamp(FIRST_BEAT, LONGEST_PAUSE);
        let mut stopped = pin!(running.cancelled());
        let given_up_at = clock.elapsed() + PATIENCE;
        loop {
            let asked_at = clock.elapsed();
            if asked_at >= given_up_at {
                return Standing::Unknown;
            }
            let answer = tokio::select! {
                biased;
                () = &mut stopped => return Standing::Stopped,
                answer = self.ask(assigned, task) => answer,
                () = clock.sleep(pause) => continue,
            };
            match answer {
                Some(is_open) if clock.elapsed() <= asked_at + pause => {
                    return if is_open { Standing::Open } else { Standing::Ended };
                }
                Some(_) => {}
                None => return Standing::Unknown,
            }
        }
    }

    /// Asks once, and returns the answer; `None` if the question can't be written.
    async fn ask(&self, assigned: &TaskAssigned, task: &Event) -> Option<bool> {
        let beat = TaskHeartbeat {
            task_id: assigned.task_id.clone(),
            attempt: assigned.attempt,
            progress: Payload::null(),
            waits: true,
            asks: true,
        };
        let question = self.beat(task, &beat)?;
        let mut asked = self.shared.questions.ask(&question);
        self.send_heartbeat(question, task, &beat).await;
        // The sender is dropped with the question only.
        (&mut asked.answer).await.ok()
    }
}
