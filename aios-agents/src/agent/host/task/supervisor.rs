//! Watches one attempt while its code runs: timeout, cancellation, early acknowledgement, heartbeats.
//!
//! The supervisor polls the agent's code itself, in the task of the attempt. So dropping it at a
//! timeout needs no abort, and the code never runs when the attempt has been answered. Around the
//! code it runs at most one side task at a time: a heartbeat, or the early acknowledgement.
//!
//! | event | effect |
//! |---|---|
//! | the code ends | its result, after the side task in progress has ended |
//! | timeout | the code is dropped; a retryable failure |
//! | cancellation | the code has `cancel_grace` to end, and is then dropped |
//! | abandonment | the code is dropped at once; no answer |
//! | redelivery | the older delivery is acknowledged, and the new one kept |
//! | `early_ack_after` | the delivery is acknowledged; from then on the engine watches heartbeats |
//!
//! Deadlines are compared with the monotonic time of the clock at each turn, so a clock that is set does
//! not move them. The loop sleeps until the earliest of them, or until `TaskState` changes.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    agent::{TaskAssigned, TaskError, TaskHeartbeat},
    broker::{Delivery, Publish},
    event::{Event, Payload},
};

use super::{
    answer::log_unsettled,
    task_state::{StopReason, TaskState},
};
use crate::{agent::host::hosted::HostedType, task};

/// The maximum delay of the first heartbeat of a running task.
pub(crate) const FIRST_BEAT: Duration = Duration::from_secs(1);

/// How the code of a task ended.
pub(crate) enum Outcome {
    /// By itself.
    Done(Result<Payload, TaskError>),
    /// It took longer than this.
    TimedOut(Duration),
    /// It was cancelled and did not end within the grace period.
    Cancelled,
    /// The host abandoned it.
    Abandoned,
}

/// Supervises a task while its code runs: timeout, cancellation, heartbeats and early
/// acknowledgement.
pub(super) struct TaskSupervisor<'a> {
    /// Type whose agent does the task.
    hosted: &'a HostedType,
    /// Shared with the code and with the rest of the host.
    running: &'a TaskState,
    assigned: &'a TaskAssigned,
    /// The event that assigned the task; cause of its heartbeats.
    event: Event,
    /// `None` after the early acknowledgement.
    delivery: Option<Delivery>,
    /// When the code began; timeout and early acknowledgement count from here.
    started: Duration,
    /// When the last heartbeat was due; `None` before the first.
    last_beat: Option<Duration>,
    /// When a cancelled task is dropped; `None` while it is not cancelled.
    cancel_deadline: Option<Duration>,
}

impl<'a> TaskSupervisor<'a> {
    /// Starts the timeout of the attempt.
    pub(crate) fn new(
        hosted: &'a HostedType,
        running: &'a TaskState,
        assigned: &'a TaskAssigned,
        delivery: Delivery,
    ) -> Self {
        let started = hosted.shared.clock.elapsed();
        let event = delivery.event.clone();
        let delivery = Some(delivery);
        Self {
            hosted,
            running,
            assigned,
            event,
            delivery,
            started,
            last_beat: None,
            cancel_deadline: None,
        }
    }

    /// The delivery, unless it was acknowledged early.
    pub(super) fn into_delivery(mut self) -> Option<Delivery> {
        self.adopt_redelivery();
        self.delivery
    }

    /// Continues with the latest delivery. The previous one is of the same attempt, so
    /// acknowledging it is safe; the broker may have taken it back already.
    fn adopt_redelivery(&mut self) {
        let Some(redelivered) = self.running.take_redelivered() else { return };
        if let Some(older) = self.delivery.replace(redelivered) {
            task::spawn(async { log_unsettled(older.ack().await) });
        }
    }

    /// Polls `work` until it ends or must be dropped. Work that is ready immediately needs no
    /// timer.
    pub(super) async fn supervise(
        &mut self,
        work: impl Future<Output = Result<Payload, TaskError>>,
    ) -> Outcome {
        // Dropped when this function returns, in whichever way.
        let mut work = pin!(work);
        let running = self.running;
        // Cancelled before it arrived, or stopped while the engine was asked: the code never
        // begins.
        match running.stopped() {
            None => {}
            Some(StopReason::Cancelled) => return Outcome::Cancelled,
            Some(StopReason::Abandoned) => return Outcome::Abandoned,
        }
        // Most tasks of tests and many small ones end at the first poll: no timer is needed for
        // them.
        if let Poll::Ready(result) = futures_util::poll!(work.as_mut()) {
            return Outcome::Done(result);
        }
        let mut side_task: Option<BoxFuture<'a, ()>> = None;
        loop {
            let mut changed = pin!(running.changed.notified());
            // Before the state is read, so that a change in between is not missed.
            changed.as_mut().enable();
            self.adopt_redelivery();
            if self.hosted.place.is_blocked() {
                // The task may have been queued after the watchdog withdrew the others.
                running.withdraw();
            }
            let clock = &self.hosted.shared.clock;
            let now = clock.elapsed();
            if let Some(outcome) = self.ending(now) {
                return outcome;
            }
            if side_task.is_none() {
                side_task = self.next_side_task(now);
            }
            let next_wake = self.next_wake(side_task.is_some());
            let wake = clock.sleep(next_wake.saturating_sub(now));
            tokio::select! {
                biased;
                // First, so that a result wins over a timeout at the same moment.
                result = work.as_mut() => return finish(side_task, result).await,
                () = perform(&mut side_task) => side_task = None,
                () = changed => {}
                () = wake => {}
            }
        }
    }

    /// Returns the outcome if the work must be dropped now.
    fn ending(&mut self, now: Duration) -> Option<Outcome> {
        match self.running.stopped() {
            Some(StopReason::Abandoned) => return Some(Outcome::Abandoned),
            Some(StopReason::Cancelled) => {
                let grace = self.hosted.shared.options.cancel_grace;
                if now >= *self.cancel_deadline.get_or_insert(now.saturating_add(grace)) {
                    return Some(Outcome::Cancelled);
                }
            }
            None => {}
        }
        let timeout = self.assigned.timeout()?;
        (now >= self.started.saturating_add(timeout)).then_some(Outcome::TimedOut(timeout))
    }

    /// The side task that is due, if any: an early acknowledgement or a heartbeat.
    fn next_side_task(&mut self, now: Duration) -> Option<BoxFuture<'a, ()>> {
        // Before a heartbeat: the broker's timeout does not wait.
        if self.early_ack_at().is_some_and(|at| now >= at) {
            let delivery = self.delivery.take()?;
            return Some(Box::pin(async { log_unsettled(delivery.ack().await) }));
        }
        let due = now >= self.next_beat() || (self.running.has_progress() && self.may_beat(now));
        // Also if the place is blocked, so that the loop does not spin.
        if due {
            self.last_beat = Some(now);
        }
        // A blocked place sends no heartbeats, so that its tasks are reassigned.
        (due && !self.hosted.place.is_blocked()).then(|| self.heartbeat())
    }

    /// The heartbeat to send now, with the latest progress.
    fn heartbeat(&self) -> BoxFuture<'a, ()> {
        let TaskAssigned { task_id, attempt, .. } = self.assigned;
        let mut beat = TaskHeartbeat::new(task_id.clone(), *attempt);
        beat.progress = self.running.take_progress();
        let hosted = self.hosted;
        let parent = self.event.clone();
        Box::pin(async move { hosted.publish_heartbeat(&parent, &beat).await })
    }

    /// When the next heartbeat is due. The first one comes early, to show that the task has left
    /// the queue.
    fn next_beat(&self) -> Duration {
        let interval = self.hosted.shared.options.heartbeat_interval;
        match self.last_beat {
            Some(last) => last.saturating_add(interval),
            None => self.started.saturating_add(interval.min(FIRST_BEAT)),
        }
    }

    /// Whether the interval since the last heartbeat has passed.
    fn may_beat(&self, now: Duration) -> bool {
        self.last_beat.is_none() || now >= self.next_beat()
    }

    /// When the delivery is acknowledged early; `None` if that is disabled or was done.
    fn early_ack_at(&self) -> Option<Duration> {
        self.delivery.as_ref()?;
        Some(self.started.saturating_add(self.hosted.shared.options.early_ack_after?))
    }

    /// When to wake up if nothing changes before.
    fn next_wake(&self, busy: bool) -> Duration {
        // A side task in progress wakes the loop when it ends.
        let side_tasks =
            if busy { [None, None] } else { [Some(self.next_beat()), self.early_ack_at()] };
        let timeout = self.assigned.timeout().map(|timeout| self.started.saturating_add(timeout));
        let all = side_tasks.into_iter().chain([timeout, self.cancel_deadline]).flatten();
        all.min().unwrap_or(Duration::MAX)
    }
}

/// Runs the side task, if there is one; otherwise never completes.
async fn perform(side_task: &mut Option<BoxFuture<'_, ()>>) {
    match side_task {
        Some(side_task) => side_task.await,
        None => std::future::pending().await,
    }
}

/// Waits for the side task before returning the result, so that a settlement is never abandoned
/// midway.
async fn finish(
    side_task: Option<BoxFuture<'_, ()>>,
    result: Result<Payload, TaskError>,
) -> Outcome {
    if let Some(side_task) = side_task {
        side_task.await;
    }
    Outcome::Done(result)
}

impl HostedType {
    /// Publishes a heartbeat for a task. A failure is only logged, because the next one follows.
    ///
    /// If the broker refuses it permanently, for example because the progress is too large, it is
    /// published without the progress: the engine must learn that the task is alive.
    pub(super) async fn publish_heartbeat(&self, parent: &Event, beat: &TaskHeartbeat) {
        let Some(event) = self.beat(parent, beat) else { return };
        let is_refused = self.send_heartbeat(event, parent, beat).await;
        if !is_refused || beat.progress == Payload::null() {
            return;
        }
        let mut without = beat.clone();
        without.progress = Payload::null();
        if let Some(event) = self.beat(parent, &without) {
            self.send_heartbeat(event, parent, &without).await;
        }
    }

    /// Builds the event of a heartbeat.
    pub(crate) fn beat(&self, parent: &Event, beat: &TaskHeartbeat) -> Option<Event> {
        self.shared
            .event(&self.names.heartbeat, beat)
            .inspect_err(|error| tracing::error!(code = error.code(), "{}", Chain(error)))
            .ok()
            .map(|event| event.caused_by(parent))
    }

    /// Sends a heartbeat to the engine that waits for the task, and to subscribers. Not an error
    /// without a listener. Returns whether the broker refuses it permanently.
    pub(super) async fn send_heartbeat(
        &self,
        event: Event,
        parent: &Event,
        beat: &TaskHeartbeat,
    ) -> bool {
        let to = self.shared.reply_to(parent);
        let publish = Publish { event, to, require_route: false };
        let answers = self.shared.broker.publish(vec![publish]).await;
        let mut is_refused = false;
        for error in answers.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %Chain(&error), task_id = %beat.task_id, "failed to publish a heartbeat");
            is_refused |= !error.is_retryable();
        }
        is_refused
    }
}
