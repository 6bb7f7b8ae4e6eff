//! The queue in front of a store's writer: jobs in the order in which their callers began.
//!
//! A bounded channel does not keep this order. A sender that waits for room is woken when there is some, and
//! adds its job only when it is polled again; a task may begin another send before that. So the channel is
//! unbounded, and a job is added when its caller is first polled.
//!
//! The callers bound the queue: each waits for the replies to its jobs, which are one append or one batch.
//! Only callers that gave up leave more behind. Once [`ABANDONED`] such jobs are queued, further
//! callers wait before they add theirs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, mpsc};

/// How many jobs of callers that gave up may be queued.
const ABANDONED: usize = 4096;

/// Creates a queue, and the end that the writer takes the jobs from.
pub(crate) fn job_queue<T>() -> (JobQueue<T>, Jobs<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let state = Arc::new(State::default());
    (JobQueue { sender, state: Arc::clone(&state) }, Jobs { receiver, state })
}

#[derive(Debug, Default)]
struct State {
    /// The jobs that the writer has not taken.
    queued: AtomicUsize,
    /// The callers that wait for a reply.
    callers: AtomicUsize,
    /// Signalled when the writer takes a job while callers may wait for room, and when it ends.
    taken: Notify,
}

/// A caller that waits for the reply to its job. It is dropped with the caller.
#[derive(Debug)]
#[must_use = "the job counts as abandoned once this is dropped"]
pub(crate) struct Caller(Arc<State>);

impl Caller {
    fn new(state: &Arc<State>) -> Self {
        state.callers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The writer has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// A job that was not added.
#[derive(Debug)]
pub(crate) enum Unsent<T> {
    /// Too many abandoned jobs are queued.
    Full(T),
    /// The writer has ended.
    Closed,
}

/// The end of the callers.
#[derive(Debug)]
pub(crate) struct JobQueue<T> {
    sender: mpsc::UnboundedSender<T>,
    state: Arc<State>,
}

impl<T> Clone for JobQueue<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), state: Arc::clone(&self.state) }
    }
}

impl<T> JobQueue<T> {
    /// Adds a job, unless too many abandoned ones are queued.
    pub(crate) fn try_send(&self, job: T) -> Result<Caller, Unsent<T>> {
        if self.sender.is_closed() {
            return Err(Unsent::Closed);
        }
        let limit = self.state.callers.load(Ordering::SeqCst) + ABANDONED;
        if self.state.queued.load(Ordering::SeqCst) >= limit {
            return Err(Unsent::Full(job));
        }
        let caller = Caller::new(&self.state);
        self.state.queued.fetch_add(1, Ordering::SeqCst);
        if self.sender.send(job).is_err() {
            self.state.queued.fetch_sub(1, Ordering::SeqCst);
            return Err(Unsent::Closed);
        }
        Ok(caller)
    }

    /// Adds a job at the first poll. Waits first while too many abandoned jobs are queued; callers that wait
    /// add their jobs in any order.
    pub(crate) async fn send(&self, mut job: T) -> Result<Caller, Closed> {
        loop {
            let taken = self.state.taken.notified();
            job = match self.try_send(job) {
                Ok(caller) => return Ok(caller),
                Err(Unsent::Full(job)) => job,
                Err(Unsent::Closed) => return Err(Closed),
            };
            taken.await;
        }
    }
}

/// The end of the writer. Dropping it closes the queue and drops the jobs in it.
#[derive(Debug)]
pub(crate) struct Jobs<T> {
    receiver: mpsc::UnboundedReceiver<T>,
    state: Arc<State>,
}

impl<T> Jobs<T> {
    /// Waits for a job. Returns `None` if all senders were dropped and the queue is empty.
    #[cfg(feature = "postgres")]
    pub(crate) async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// Like [`recv`](Self::recv), as one poll.
    #[cfg(feature = "postgres")]
    pub(crate) fn poll_recv(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.receiver.poll_recv(context).map(|job| self.take(job))
    }

    /// Blocks the thread until there is a job. Returns `None` if all senders were dropped and the queue is
    /// empty.
    #[cfg(feature = "sqlite")]
    pub(crate) fn blocking_recv(&mut self) -> Option<T> {
        let job = self.receiver.blocking_recv();
        self.take(job)
    }

    /// The next job, if there is one.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        let job = self.receiver.try_recv().ok();
        self.take(job)
    }

    /// The number of jobs in the queue.
    #[cfg(feature = "sqlite")]
    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Counts a job as taken.
    fn take(&self, job: Option<T>) -> Option<T> {
        if job.is_some() && self.state.queued.fetch_sub(1, Ordering::SeqCst) >= ABANDONED {
            self.state.taken.notify_waiters();
        }
        job
    }
}

impl<T> Drop for Jobs<T> {
    fn drop(&mut self) {
        self.receiver.close();
        self.state.taken.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::{Pin, pin},
        task::Poll,
    };

    use super::*;

    async fn is_pending<T>(mut future: Pin<&mut impl Future<Output = T>>) -> bool {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn should_add_each_job_at_the_first_poll_however_many_wait() {
        let (queue, mut jobs) = job_queue();
        let mut callers = Vec::new();
        for job in 0..3 * ABANDONED {
            // The budget of a task must not delay it.
            let mut sending = pin!(queue.send(job));
            let sent = poll_fn(|context| Poll::Ready(sending.as_mut().poll(context))).await;
            let Poll::Ready(Ok(caller)) = sent else { panic!("job {job} was not added") };
            callers.push(caller);
        }
        let taken: Vec<_> = std::iter::from_fn(|| jobs.try_recv()).collect();
        assert_eq!(taken, Vec::from_iter(0..3 * ABANDONED));
    }

    #[tokio::test]
    async fn should_wait_while_too_many_abandoned_jobs_are_queued() {
        let (queue, mut jobs) = job_queue();
        for job in 0..ABANDONED {
            drop(queue.try_send(job).unwrap());
        }
        assert!(matches!(queue.try_send(0), Err(Unsent::Full(0))));
        let mut sending = pin!(queue.send(0));
        assert!(is_pending(sending.as_mut()).await);
        jobs.try_recv().unwrap();
        drop(sending.await.unwrap());
        assert!(matches!(queue.try_send(0), Err(Unsent::Full(0))));
    }

    #[tokio::test]
    async fn should_stop_waiting_when_the_writer_ends() {
        let (queue, jobs) = job_queue();
        for job in 0..ABANDONED {
            drop(queue.try_send(job).unwrap());
        }
        let mut sending = pin!(queue.send(0));
        assert!(is_pending(sending.as_mut()).await);
        drop(jobs);
        assert_eq!(sending.await.unwrap_err(), Closed);
    }
}
