//! Appends on their way to the writer: who waits for each of them, and the batch that is built while
//! the previous one is being committed.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    clock::Clock,
    event::Timestamp,
    store::{Appended, StoreError},
};
use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, ValidAppend};

/// What an append is answered with.
type Answer = Result<Appended, StoreError>;

/// An append in the queue.
pub(crate) struct Pending {
    pub(crate) valid: ValidAppend,
    pub(crate) waiter: Waiter,
}

/// Somebody who waits for an append, until a deadline.
pub(crate) struct Waiter {
    /// `None` once answered.
    reply: Option<oneshot::Sender<Answer>>,
    deadline: Timestamp,
}

impl Waiter {
    pub(crate) fn new(deadline: Timestamp) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply: Some(reply), deadline }, answer)
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits for a cancelled append.
            drop(reply.send(answer));
        }
    }

    /// Whether anybody waits for the answer. If the time is up by then, this is it.
    pub(crate) fn is_waiting(&mut self, by: Timestamp, error: impl Fn() -> StoreError) -> bool {
        if self.deadline <= by {
            self.answer(Err(error()));
        }
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// Answers those whose time is up by then, and returns whether anybody goes on waiting.
pub(crate) fn expire_waiters(
    waiters: &mut [Waiter],
    by: Timestamp,
    error: impl Fn() -> StoreError,
) -> bool {
    let waits = waiters.iter_mut().map(|waiter| waiter.is_waiting(by, &error));
    waits.filter(|waits| *waits).count() > 0
}

/// An append was not even sent in time.
pub(crate) fn timed_out(after: Duration) -> StoreError {
    StoreError::Timeout { operation: "append", after }
}

/// Appends that go to the server together, and who waits for them.
#[derive(Default)]
pub(crate) struct PendingBatch {
    pub(crate) batch: Batch,
    pub(crate) waiters: Vec<Waiter>,
}

impl PendingBatch {
    /// Each append as a load of its own.
    pub(crate) fn split(self) -> impl Iterator<Item = Self> {
        let waiters = self.waiters.into_iter().map(|waiter| vec![waiter]);
        let batches: Vec<Batch> = self.batch.split().collect();
        batches.into_iter().zip(waiters).map(|(batch, waiters)| Self { batch, waiters })
    }

    /// Those appends that are wanted, given for each.
    pub(crate) fn only(self, wanted: &[bool]) -> Self {
        let waiters = self.waiters.into_iter().zip(wanted).filter(|(_, wanted)| **wanted);
        Self {
            batch: self.batch.only(wanted),
            waiters: waiters.map(|(waiter, _)| waiter).collect(),
        }
    }

    pub(crate) fn push(&mut self, Pending { valid, waiter }: Pending) {
        self.batch.push(valid);
        self.waiters.push(waiter);
    }
}

/// Gathers the next load while the last one is on its way.
pub(crate) struct BatchBuilder {
    queue: mpsc::Receiver<Pending>,
    load: PendingBatch,
    /// Did not fit into the load, which is full.
    next: Option<Pending>,
    clock: Arc<dyn Clock>,
    append_timeout: Duration,
}

impl BatchBuilder {
    pub(crate) fn new(
        queue: mpsc::Receiver<Pending>,
        clock: Arc<dyn Clock>,
        append_timeout: Duration,
    ) -> Self {
        Self { queue, load: PendingBatch::default(), next: None, clock, append_timeout }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.load.waiters.is_empty() && self.next.is_none()
    }

    /// Waits for an append; `false` when none will come any more.
    pub(crate) async fn wait(&mut self) -> bool {
        let pending = self.queue.recv().await;
        pending.map(|pending| self.add(pending)).is_some()
    }

    /// What has gathered; empty where nobody waits for an answer any more.
    pub(crate) fn take(&mut self) -> PendingBatch {
        self.take_queued();
        let load = std::mem::take(&mut self.load);
        self.without_unwanted(load)
    }

    /// Gathers until some work is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let done = work.as_mut().poll(context);
            if done.is_pending() {
                self.gather(context);
            }
            done
        })
        .await
    }

    fn gather(&mut self, context: &mut Context<'_>) {
        if self.take_queued() {
            // Those who are just about to append go first, so that they don't wake this task one by one.
            context.waker().wake_by_ref();
        } else if self.next.is_none()
            && let Poll::Ready(Some(pending)) = self.queue.poll_recv(context)
        {
            self.add(pending);
            context.waker().wake_by_ref();
        }
    }

    /// Takes what has queued up as far as there is room, and returns whether there was any.
    fn take_queued(&mut self) -> bool {
        let before = self.load.waiters.len();
        let mut pending = self.next.take();
        while self.next.is_none()
            && let Some(next) = pending.take().or_else(|| self.queue.try_recv().ok())
        {
            self.add(next);
        }
        self.load.waiters.len() > before
    }

    fn add(&mut self, pending: Pending) {
        if self.load.batch.takes(&pending.valid.append) {
            self.load.push(pending);
        } else {
            self.next = Some(pending);
        }
    }

    /// Leaves out whose time is up, and who is gone.
    fn without_unwanted(&self, mut load: PendingBatch) -> PendingBatch {
        let now = self.clock.now();
        let is_wanted =
            |waiter: &mut Waiter| waiter.is_waiting(now, || timed_out(self.append_timeout));
        let wanted: Vec<bool> = load.waiters.iter_mut().map(is_wanted).collect();
        if wanted.iter().all(|wanted| *wanted) { load } else { load.only(&wanted) }
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        clock::VirtualClock,
        event::Event,
        store::{Append, Expected},
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Gathers appends to one stream, each of which expects a version, or nothing.
    fn builder(expected: &[Expected]) -> (BatchBuilder, Vec<impl Drop + use<>>) {
        let (clock, (queue, receiver)) = (VirtualClock::default(), mpsc::channel(10));
        let mut answers = Vec::new();
        for expected in expected {
            let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
            let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(*expected);
            let (waiter, answer) = Waiter::new(clock.now() + TIMEOUT);
            let valid = ValidAppend::new(append, 100).unwrap();
            queue.try_send(Pending { valid, waiter }).unwrap();
            answers.push(answer);
        }
        (BatchBuilder::new(receiver, Arc::new(clock), TIMEOUT), answers)
    }

    fn expected(load: &PendingBatch) -> Vec<Expected> {
        load.batch.appends().map(|(append, _)| append.expected).collect()
    }

    #[test]
    fn should_begin_the_next_load_with_what_did_not_fit() {
        let appends = [Expected::Empty, Expected::Any, Expected::Exact(2), Expected::Any];
        let (mut builder, _answers) = builder(&appends);
        assert_eq!(expected(&builder.take()), [Expected::Empty, Expected::Any]);
        assert!(!builder.is_empty());
        assert_eq!(expected(&builder.take()), [Expected::Exact(2), Expected::Any]);
        assert!(builder.is_empty());
    }

    #[test]
    fn should_leave_out_who_is_gone() {
        let (mut builder, mut answers) = builder(&[Expected::Empty, Expected::Any]);
        answers.remove(0);
        let load = builder.take();
        assert_eq!((expected(&load), load.waiters.len()), (vec![Expected::Any], 1));
    }

    #[test]
    fn should_dismiss_whose_time_is_up_and_wait_for_the_others() {
        let at = Timestamp::from_micros;
        let ((early, mut answer), (late, waiting)) = (Waiter::new(at(1)), Waiter::new(at(3)));
        let mut waiters = [early, late];
        let error = || timed_out(Duration::from_secs(1));
        assert!(expire_waiters(&mut waiters, at(2), error));
        assert_eq!(answer.try_recv().unwrap().unwrap_err().code(), "STORE_TIMEOUT");
        drop(waiting);
        assert!(!expire_waiters(&mut waiters, at(2), error));
    }
}
