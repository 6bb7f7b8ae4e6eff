//! The queue of the writer: each append with the caller that waits for it, and the batch that is built
//! while the previous one is being committed.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    clock::Clock,
    store::{Appended, StoreError},
};
use tokio::sync::oneshot;

use super::{batch::Batch, valid::ValidAppend};
use crate::job_queue::Jobs;

/// The answer to a caller.
type AppendResult = Result<Appended, StoreError>;

/// An append in the queue.
pub(crate) struct Pending {
    pub(crate) valid: ValidAppend,
    pub(crate) waiter: Waiter,
}

/// A caller that waits for an append until a deadline.
pub(crate) struct Waiter {
    /// `None` after a reply was sent.
    reply: Option<oneshot::Sender<AppendResult>>,
    /// When the caller stops waiting for an append that has not been sent, by the monotonic time of the
    /// clock.
    deadline: Duration,
}

impl Waiter {
    /// Creates a waiter, and the end that the caller awaits.
    pub(crate) fn new(deadline: Duration) -> (Self, oneshot::Receiver<AppendResult>) {
        let (reply, result) = oneshot::channel();
        (Self { reply: Some(reply), deadline }, result)
    }

    /// Sends the result to the caller, unless a reply was already sent.
    pub(crate) fn reply(&mut self, result: AppendResult) {
        if let Some(reply) = self.reply.take() {
            // Sending fails if the caller was cancelled.
            let _ = reply.send(result);
        }
    }

    /// Whether the caller still waits. If the deadline is not after `by`, the caller gets the error and no
    /// longer waits.
    pub(crate) fn is_waiting(&mut self, by: Duration, error: impl Fn() -> StoreError) -> bool {
        if self.deadline <= by {
            self.reply(Err(error()));
        }
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// Replies to the callers whose deadline is not after `by`, and returns whether any caller still waits.
pub(crate) fn expire_waiters(
    waiters: &mut [Waiter],
    by: Duration,
    error: impl Fn() -> StoreError,
) -> bool {
    let mut any_waits = false;
    for waiter in waiters {
        any_waits |= waiter.is_waiting(by, &error);
    }
    any_waits
}

/// The error for an append that was not sent to the server before its deadline.
pub(crate) fn timed_out(after: Duration) -> StoreError {
    StoreError::Timeout { operation: "append", after }
}

/// A batch of appends, with the callers that wait for them.
///
/// Both have the same length and order.
#[derive(Default)]
pub(crate) struct PendingBatch {
    pub(crate) batch: Batch,
    pub(crate) waiters: Vec<Waiter>,
}

impl PendingBatch {
    /// Splits the batch into batches of one append.
    pub(crate) fn split(self) -> impl Iterator<Item = Self> {
        let waiters = self.waiters.into_iter().map(|waiter| vec![waiter]);
        let batches: Vec<Batch> = self.batch.split().collect();
        batches.into_iter().zip(waiters).map(|(batch, waiters)| Self { batch, waiters })
    }

    /// Keeps the appends whose flag in `keep` is set.
    pub(crate) fn retain(self, keep: &[bool]) -> Self {
        let waiters = self.waiters.into_iter().zip(keep).filter(|(_, keep)| **keep);
        Self {
            batch: self.batch.retain(keep),
            waiters: waiters.map(|(waiter, _)| waiter).collect(),
        }
    }

    /// Adds an append that the batch accepts.
    pub(crate) fn push(&mut self, Pending { valid, waiter }: Pending) {
        self.batch.push(valid);
        self.waiters.push(waiter);
    }
}

/// Builds the next batch from the queue while the previous batch is being committed.
///
/// Building a batch early matters because its arguments are encoded as appends are added: the next
/// statement is ready as soon as the commit is done.
pub(crate) struct BatchBuilder {
    /// Where appends come from, in order.
    queue: Jobs<Pending>,
    /// The batch so far.
    pending: PendingBatch,
    /// The append that did not fit into the batch. It begins the next batch, which keeps the order.
    next: Option<Pending>,
    /// Decides which deadlines have passed.
    clock: Arc<dyn Clock>,
    /// Shown in the error of an append that was not sent in time.
    append_timeout: Duration,
}

impl BatchBuilder {
    /// A builder whose batch is empty.
    pub(crate) fn new(
        queue: Jobs<Pending>,
        clock: Arc<dyn Clock>,
        append_timeout: Duration,
    ) -> Self {
        Self { queue, pending: PendingBatch::default(), next: None, clock, append_timeout }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.waiters.is_empty() && self.next.is_none()
    }

    /// Waits for an append. Returns `false` if the queue is closed and empty.
    pub(crate) async fn wait(&mut self) -> bool {
        let append = self.queue.recv().await;
        append.map(|append| self.add(append)).is_some()
    }

    /// Returns the batch, without the appends whose callers no longer wait. It may be empty.
    pub(crate) fn take(&mut self) -> PendingBatch {
        self.take_queued();
        let pending = std::mem::take(&mut self.pending);
        self.without_abandoned(pending)
    }

    /// Builds the batch until `work` is done.
    ///
    /// `work` is polled first. When it is ready, its result is handled before further appends are
    /// taken.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let output = work.as_mut().poll(context);
            if output.is_pending() {
                self.poll_queue(context);
            }
            output
        })
        .await
    }

    /// Takes what is queued, or registers to be woken by the next append. A full batch registers
    /// for nothing: only the end of the commit matters then.
    fn poll_queue(&mut self, context: &mut Context<'_>) {
        if self.take_queued() {
            // Yields to the tasks that are about to append before the queue is polled. Otherwise each of
            // them would wake this task separately.
            context.waker().wake_by_ref();
        } else if self.next.is_none()
            && let Poll::Ready(Some(append)) = self.queue.poll_recv(context)
        {
            self.add(append);
            context.waker().wake_by_ref();
        }
    }

    /// Moves queued appends into the batch until it is full. Returns whether any was added.
    fn take_queued(&mut self) -> bool {
        let before = self.pending.waiters.len();
        let mut first = self.next.take();
        while self.next.is_none()
            && let Some(append) = first.take().or_else(|| self.queue.try_recv())
        {
            self.add(append);
        }
        self.pending.waiters.len() > before
    }

    /// Adds an append to the batch, or keeps it for the next one.
    fn add(&mut self, append: Pending) {
        if self.pending.batch.accepts(&append.valid) {
            self.pending.push(append);
        } else {
            self.next = Some(append);
        }
    }

    /// Removes the appends whose deadline has passed or whose caller was cancelled.
    fn without_abandoned(&self, mut pending: PendingBatch) -> PendingBatch {
        let now = self.clock.elapsed();
        let keep: Vec<bool> = pending
            .waiters
            .iter_mut()
            .map(|waiter| waiter.is_waiting(now, || timed_out(self.append_timeout)))
            .collect();
        if keep.iter().all(|keep| *keep) { pending } else { pending.retain(&keep) }
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
    use crate::job_queue::job_queue;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// A builder whose queue has an append to the stream `a` for each of the expected versions.
    fn builder(expected: &[Expected]) -> (BatchBuilder, Vec<impl Sized + use<>>) {
        builder_with(&VirtualClock::default(), expected)
    }

    /// The same, with a clock of the test.
    fn builder_with(
        clock: &VirtualClock,
        expected: &[Expected],
    ) -> (BatchBuilder, Vec<impl Sized + use<>>) {
        let (queue, receiver) = job_queue();
        let mut results = Vec::new();
        for expected in expected {
            let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
            let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(*expected);
            let (waiter, result) = Waiter::new(clock.elapsed() + TIMEOUT);
            let valid = ValidAppend::new(append, 100).unwrap();
            let caller = queue.try_send(Pending { valid, waiter }).ok();
            results.push((result, caller));
        }
        (BatchBuilder::new(receiver, Arc::new(clock.clone()), TIMEOUT), results)
    }

    fn expected(pending: &PendingBatch) -> Vec<Expected> {
        pending.batch.appends().map(|(append, _)| append.expected).collect()
    }

    #[test]
    fn should_begin_the_next_batch_with_the_append_that_did_not_fit() {
        let appends = [Expected::Empty, Expected::Any, Expected::Exact(2), Expected::Any];
        let (mut builder, _results) = builder(&appends);
        assert_eq!(expected(&builder.take()), [Expected::Empty, Expected::Any]);
        assert!(!builder.is_empty());
        assert_eq!(expected(&builder.take()), [Expected::Exact(2), Expected::Any]);
        assert!(builder.is_empty());
    }

    #[test]
    fn should_drop_cancelled_appends() {
        let (mut builder, mut results) = builder(&[Expected::Empty, Expected::Any]);
        results.remove(0);
        let pending = builder.take();
        assert_eq!((expected(&pending), pending.waiters.len()), (vec![Expected::Any], 1));
    }

    #[test]
    fn should_keep_appends_when_the_clock_is_set_forward() {
        let clock = VirtualClock::default();
        let (mut builder, _results) = builder_with(&clock, &[Expected::Any]);
        clock.set(clock.now() + TIMEOUT * 3600);
        assert_eq!(expected(&builder.take()), [Expected::Any]);
    }

    #[test]
    fn should_expire_waiters_past_their_deadline_and_keep_the_others() {
        let at = Duration::from_micros;
        let (early, mut early_result) = Waiter::new(at(1));
        let (late, late_result) = Waiter::new(at(3));
        let mut waiters = [early, late];
        let error = || timed_out(Duration::from_secs(1));
        assert!(expire_waiters(&mut waiters, at(2), error));
        assert_eq!(early_result.try_recv().unwrap().unwrap_err().code(), "STORE_TIMEOUT");
        drop(late_result);
        assert!(!expire_waiters(&mut waiters, at(2), error));
    }
}
