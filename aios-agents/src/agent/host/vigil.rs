use std::{future::Future, pin::pin, task::Poll, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    agent::{TaskAssigned, TaskError, TaskHeartbeat},
    broker::{Delivery, Publish},
    event::{Event, Payload, Timestamp},
};

use super::{
    answer::{log_unsettled, reply_to},
    hosted::HostedType,
    running::{Running, Stop},
};
use crate::task;

/// When a task that still runs shows its first sign of life, at the latest.
pub(crate) const FIRST_BEAT: Duration = Duration::from_secs(1);

/// How the code of a task ended.
pub(super) enum Outcome {
    /// By itself.
    Done(Result<Payload, TaskError>),
    /// It took longer than this.
    TimedOut(Duration),
    /// It was cancelled and did not end in time.
    Cancelled,
    /// The host gave it up.
    Abandoned,
}

/// Watches over a task while its code runs: time-out, cancellation, signs of life and early
/// acknowledgement.
pub(super) struct Vigil<'a> {
    hosted: &'a HostedType,
    running: &'a Running,
    assigned: &'a TaskAssigned,
    event: Event,
    delivery: Option<Delivery>,
    started: Timestamp,
    last_beat: Option<Timestamp>,
    give_up_at: Option<Timestamp>,
}

impl<'a> Vigil<'a> {
    pub(super) fn new(
        hosted: &'a HostedType,
        running: &'a Running,
        assigned: &'a TaskAssigned,
        delivery: Delivery,
    ) -> Self {
        let (started, event) = (hosted.shared.clock.now(), delivery.event.clone());
        let delivery = Some(delivery);
        let (last_beat, give_up_at) = (None, None);
        Self { hosted, running, assigned, event, delivery, started, last_beat, give_up_at }
    }

    /// The delivery, unless it was acknowledged early.
    pub(super) fn into_delivery(mut self) -> Option<Delivery> {
        self.accept_handed();
        self.delivery
    }

    /// Goes on with the delivery that came last. The one before is the same task, so it is done
    /// with this one, or was taken back by the broker already.
    fn accept_handed(&mut self) {
        let Some(handed) = self.running.take_handed() else { return };
        if let Some(older) = self.delivery.replace(handed) {
            task::spawn(async { log_unsettled(older.ack().await) });
        }
    }

    /// Polls `work` until it ends or has to be dropped. Work that is done at once costs no timer.
    pub(super) async fn attend(
        &mut self,
        work: impl Future<Output = Result<Payload, TaskError>>,
    ) -> Outcome {
        let mut work = pin!(work);
        let running = self.running;
        match running.stopped() {
            None => {}
            Some(Stop::Cancelled) => return Outcome::Cancelled,
            Some(Stop::Abandoned) => return Outcome::Abandoned,
        }
        if let Poll::Ready(result) = futures_util::poll!(work.as_mut()) {
            return Outcome::Done(result);
        }
        let mut chore: Option<BoxFuture<'a, ()>> = None;
        loop {
            let mut changed = pin!(running.changed.notified());
            changed.as_mut().enable();
            self.accept_handed();
            if self.hosted.place.is_blocked() {
                // It came while that was found out.
                running.withdraw();
            }
            let now = self.hosted.shared.clock.now();
            if let Some(outcome) = self.ending(now) {
                return outcome;
            }
            if chore.is_none() {
                chore = self.due_chore(now);
            }
            let wake = self.hosted.shared.clock.sleep_until(self.next_wake(chore.is_some()));
            tokio::select! {
                biased;
                result = work.as_mut() => return finish(chore, result).await,
                () = perform(&mut chore) => chore = None,
                () = changed => {}
                () = wake => {}
            }
        }
    }

    /// Whether the work has to be dropped now.
    fn ending(&mut self, now: Timestamp) -> Option<Outcome> {
        match self.running.stopped() {
            Some(Stop::Abandoned) => return Some(Outcome::Abandoned),
            Some(Stop::Cancelled) => {
                let grace = self.hosted.shared.options.cancel_grace;
                if now >= *self.give_up_at.get_or_insert(now + grace) {
                    return Some(Outcome::Cancelled);
                }
            }
            None => {}
        }
        let timeout = self.assigned.timeout()?;
        (now >= self.started + timeout).then_some(Outcome::TimedOut(timeout))
    }

    /// What to do beside the work now.
    fn due_chore(&mut self, now: Timestamp) -> Option<BoxFuture<'a, ()>> {
        if self.early_ack_at().is_some_and(|at| now >= at) {
            let delivery = self.delivery.take()?;
            return Some(Box::pin(async { log_unsettled(delivery.ack().await) }));
        }
        let due = now >= self.next_beat() || (self.running.has_progress() && self.may_beat(now));
        if due {
            self.last_beat = Some(now);
        }
        // What is blocked gives no sign of life, so that its tasks are given to others.
        (due && !self.hosted.place.is_blocked()).then(|| self.heartbeat())
    }

    fn heartbeat(&self) -> BoxFuture<'a, ()> {
        let beat = TaskHeartbeat {
            task_id: self.assigned.task_id.clone(),
            attempt: self.assigned.attempt,
            progress: self.running.take_progress(),
            waits: false,
            asks: false,
        };
        let (hosted, parent) = (self.hosted, self.event.clone());
        Box::pin(async move { hosted.publish_heartbeat(&parent, &beat).await })
    }

    /// The first sign of life comes early: it tells that the task has left the queue.
    fn next_beat(&self) -> Timestamp {
        let interval = self.hosted.shared.options.heartbeat_interval;
        match self.last_beat {
            Some(last) => last + interval,
            None => self.started + interval.min(FIRST_BEAT),
        }
    }

    /// Whether the interval since the last sign of life allows another.
    fn may_beat(&self, now: Timestamp) -> bool {
        self.last_beat.is_none() || now >= self.next_beat()
    }

    fn early_ack_at(&self) -> Option<Timestamp> {
        self.delivery.as_ref()?;
        Some(self.started + self.hosted.shared.options.early_ack_after?)
    }

    /// When to look again, if nothing changes before.
    fn next_wake(&self, busy: bool) -> Timestamp {
        let chores =
            if busy { [None, None] } else { [Some(self.next_beat()), self.early_ack_at()] };
        let timeout = self.assigned.timeout().map(|timeout| self.started + timeout);
        let all = chores.into_iter().chain([timeout, self.give_up_at]).flatten();
        all.min().unwrap_or(Timestamp::MAX)
    }
}

/// Does the chore, if there is one; else never completes.
async fn perform(chore: &mut Option<BoxFuture<'_, ()>>) {
    match chore {
        Some(chore) => chore.await,
        None => std::future::pending().await,
    }
}

/// Lets the chore end before the answer, so that a delivery is not settled by halves.
async fn finish(chore: Option<BoxFuture<'_, ()>>, result: Result<Payload, TaskError>) -> Outcome {
    if let Some(chore) = chore {
        chore.await;
    }
    Outcome::Done(result)
}

impl HostedType {
    pub(super) async fn publish_heartbeat(&self, parent: &Event, beat: &TaskHeartbeat) {
        if let Some(event) = self.beat(parent, beat) {
            self.send_heartbeat(event, parent, beat).await;
        }
    }

    /// The event of a sign of life.
    pub(super) fn beat(&self, parent: &Event, beat: &TaskHeartbeat) -> Option<Event> {
        self.shared
            .event(&self.names.heartbeat, beat)
            .inspect_err(|error| tracing::error!(code = error.code(), "{}", Chain(error)))
            .ok()
            .map(|event| event.caused_by(parent))
    }

    pub(super) async fn send_heartbeat(&self, event: Event, parent: &Event, beat: &TaskHeartbeat) {
        let publish = Publish { event, to: reply_to(parent), require_route: false };
        let answers = self.shared.broker.publish(vec![publish]).await;
        for error in answers.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %Chain(&error), task_id = %beat.task_id, "a heartbeat was not sent");
        }
    }
}
