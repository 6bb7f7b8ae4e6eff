//! The end of a run because of one of several calls.

use std::{
    future::poll_fn,
    task::{Poll, Waker},
};

use parking_lot::Mutex;

/// Tells the calls of a response that one of them ends the run, so that those which wait for a person
/// do not begin.
#[derive(Debug, Default)]
pub(in crate::agent) struct Ending(Mutex<State>);

/// The content of the lock.
#[derive(Debug, Default)]
struct State {
    /// Whether the run ends.
    has_begun: bool,
    /// Calls that wait for it.
    waiting: Vec<Waker>,
}

impl Ending {
    /// The run ends.
    pub(in crate::agent) fn begin(&self) {
        let mut state = self.0.lock();
        state.has_begun = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the run ends.
    pub(in crate::agent) fn has_begun(&self) -> bool {
        self.0.lock().has_begun
    }

    /// Waits until the run ends.
    pub(in crate::agent) async fn begun(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock();
            if state.has_begun {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
