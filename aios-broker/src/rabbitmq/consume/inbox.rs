//! The deliveries between the task of a subscription and its stream.
//!
//! The task pushes, and the stream polls. One waker is enough, because a stream has one reader. The
//! lock is released before the waker is called.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use aios_core::{broker::BrokerError, event::Event};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{session::Session, settle::RawDelivery};

/// Deliveries that a subscription has received and its reader has not taken, at most its prefetch.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Never held while a waker is called.
    state: Mutex<State>,
    /// Notified when the reader drops the subscription.
    dropped: Notify,
}

/// An event that arrived on a session.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The decoded event.
    pub(crate) event: Event,
    /// Where it has to be settled.
    pub(super) session: Arc<Session>,
    /// The rest of the delivery.
    pub(super) raw: RawDelivery,
}

#[derive(Debug, Default)]
struct State {
    /// Events in the order of their arrival.
    arrivals: VecDeque<Arrival>,
    /// The reader, if it waits.
    waker: Option<Waker>,
    /// Whether the stream ends when it is empty.
    ended: bool,
    /// Why the stream has ended, until the reader takes it.
    error: Option<BrokerError>,
}

impl Inbox {
    /// Adds arrivals, unless the inbox has ended.
    pub(crate) fn push(&self, arrivals: &mut Vec<Arrival>) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        state.arrivals.extend(arrivals.drain(..));
        wake(state);
    }

    /// How many arrivals the reader has not taken.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().arrivals.len()
    }

    /// Takes the arrivals of a session that has ended. The server delivers them again.
    pub(crate) fn take(&self) -> Vec<Arrival> {
        self.state.lock().arrivals.drain(..).collect()
    }

    /// Ends the stream and returns the deliveries that were not taken.
    pub(crate) fn end(&self) -> Vec<Arrival> {
        let mut state = self.state.lock();
        state.ended = true;
        let rest = state.arrivals.drain(..).collect();
        wake(state);
        rest
    }

    /// Ends the stream with an error, however late the reader polls. Arrivals were taken before.
    pub(super) fn fail(&self, error: BrokerError) {
        let mut state = self.state.lock();
        state.ended = true;
        state.error = Some(error);
        wake(state);
    }

    /// Takes the next arrival, or leaves the reader's waker.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Arrival, BrokerError>>> {
        let mut state = self.state.lock();
        if let Some(arrival) = state.arrivals.pop_front() {
            return Poll::Ready(Some(Ok(arrival)));
        }
        if state.ended {
            return Poll::Ready(state.error.take().map(Err));
        }
        let replaced = state.waker.replace(context.waker().clone());
        // A waker may own the reader, whose destructor takes the lock.
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Called when the reader drops the subscription.
    pub(crate) fn close(&self) {
        self.dropped.notify_one();
    }

    /// Completes when the reader has dropped the subscription.
    pub(super) async fn dropped(&self) {
        self.dropped.notified().await;
    }
}

/// Unlocks the state and wakes the reader.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
