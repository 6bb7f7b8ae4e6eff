//! The tasks of this process that wait for runs to end.
//!
//! A driver notifies them of the outcome. If another engine ended the run, it makes them read
//! the store instead (`recheck`).
//!
//! A waiter is registered before its caller reads the state of the run from the store, so that an end
//! between the two is not missed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aios_core::{event::Payload, failure::Failure, store::RunStatus};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How a run ended, or why it is blocked.
#[derive(Clone, Debug)]
pub(crate) struct RunOutcome {
    /// The last status, or `Blocked`.
    pub(crate) status: RunStatus,
    /// The result of a completed run.
    pub(crate) result: Option<Payload>,
    /// Why it failed, was cancelled or is blocked.
    pub(crate) failure: Option<Failure>,
    /// The run that it continued as, if that is known.
    pub(crate) continued_as: Option<Arc<str>>,
}

/// The tasks of this process that wait for runs to end.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Waiting>);

/// The waiters of each run.
#[derive(Debug, Default)]
struct Waiting {
    /// The key of the latest waiter. Keys distinguish waiters of the same run.
    last: u64,
    /// The channel of each waiter, by run and key.
    by_run: HashMap<Arc<str>, BTreeMap<u64, oneshot::Sender<RunOutcome>>>,
}

impl Waiters {
    /// Registers a waiter. Dropping it removes it.
    pub(crate) fn wait(&self, run_id: &Arc<str>) -> Waiter<'_> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock();
        waiting.last += 1;
        let key = waiting.last;
        waiting.by_run.entry(Arc::clone(run_id)).or_default().insert(key, sender);
        Waiter { waiters: self, run_id: Arc::clone(run_id), key, receiver }
    }

    /// Sends the outcome of a run to all of its waiters.
    pub(crate) fn notify(&self, run_id: &str, ended: &RunOutcome) {
        let of_run = self.0.lock().by_run.remove(run_id).unwrap_or_default();
        for waiter in of_run.into_values() {
            // The waiter may have been dropped.
            let _ = waiter.send(ended.clone());
        }
    }

    /// Makes the waiters of a run check its state in the store.
    pub(crate) fn recheck(&self, run_id: &str) {
        drop(self.0.lock().by_run.remove(run_id));
    }

    /// Removes a waiter that was dropped.
    fn remove(&self, run_id: &str, key: u64) {
        let mut waiting = self.0.lock();
        if let Some(of_run) = waiting.by_run.get_mut(run_id) {
            of_run.remove(&key);
            if of_run.is_empty() {
                waiting.by_run.remove(run_id);
            }
        }
    }
}

/// Waits for a run to end.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    /// Where it is registered.
    waiters: &'a Waiters,
    /// The run that it waits for.
    run_id: Arc<str>,
    /// Its key among the waiters of the run.
    key: u64,
    /// Gets the outcome; closed if the state must be checked.
    receiver: oneshot::Receiver<RunOutcome>,
}

impl Waiter<'_> {
    /// How the run ended; `None` if its state must be checked in the store.
    pub(crate) async fn ended(&mut self) -> Option<RunOutcome> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiters.remove(&self.run_id, self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> RunOutcome {
        RunOutcome { status: RunStatus::Completed, result: None, failure: None, continued_as: None }
    }

    fn count(waiters: &Waiters) -> usize {
        waiters.0.lock().by_run.len()
    }

    #[test]
    fn should_forget_callers_that_stopped_waiting() {
        let waiters = Waiters::default();
        let run_id = Arc::from("a");
        for _ in 0..3 {
            drop(waiters.wait(&run_id));
            assert_eq!(count(&waiters), 0);
        }
        let first = waiters.wait(&run_id);
        let second = waiters.wait(&run_id);
        drop(first);
        assert_eq!(count(&waiters), 1);
        drop(second);
        assert_eq!(count(&waiters), 0);
    }

    #[tokio::test]
    async fn should_notify_all_waiting_callers_and_forget_them() {
        let waiters = Waiters::default();
        let run_id = Arc::from("a");
        let mut first = waiters.wait(&run_id);
        let mut second = waiters.wait(&run_id);
        waiters.notify("a", &ended());
        assert_eq!(count(&waiters), 0);
        assert!(first.ended().await.is_some());
        let later = waiters.wait(&run_id);
        assert!(second.ended().await.is_some());
        assert_eq!(count(&waiters), 1, "an earlier waiter removes only itself");
        drop(later);
        assert_eq!(count(&waiters), 0);
    }
}
