//! The queue between one run and the dispatcher of the engine.
//!
//! The dispatcher has one bounded queue for all runs. A run must not wait for it: it has answers to
//! record. So a task that finds no place stays with its run, and the driver polls for a place beside
//! its other work. Tasks of one run keep their order.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use aios_core::BoxFuture;
use tokio::sync::mpsc::{OwnedPermit, Sender, error::TrySendError};

use crate::workflow::engine::tasks::Dispatch;

/// A place in the dispatcher's queue; `None` if the dispatcher has ended.
type Slot = Option<OwnedPermit<Dispatch>>;

/// Tasks of a run that wait for the dispatcher. The run polls for a place in the dispatcher's queue
/// itself, concurrently with its other work.
#[derive(Default)]
pub(in super::super) struct Outgoing {
    /// Events that found no place, the oldest first.
    waiting: VecDeque<Dispatch>,
    /// The reservation of a place for the first of them.
    slot: Option<BoxFuture<'static, Slot>>,
}

impl Outgoing {
    /// Passes an event on, or keeps it. None overtakes one that waits.
    pub(in super::super) fn push(&mut self, dispatch: Dispatch, dispatcher: &Sender<Dispatch>) {
        if !self.waiting.is_empty() {
            return self.waiting.push_back(dispatch);
        }
        // The dispatcher is closed only when this run is stopped as well.
        if let Err(TrySendError::Full(dispatch)) = dispatcher.try_send(dispatch) {
            self.waiting.push_back(dispatch);
        }
    }

    /// Whether nothing waits.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Releases the reserved place in the dispatcher's queue, which would block others while this
    /// is not polled.
    pub(in super::super) fn release_slot(&mut self) {
        self.slot = None;
    }

    /// Drops the tasks that were not dispatched; the run dispatches them again if it waits for
    /// them.
    pub(in super::super) fn keep_notices(&mut self) {
        self.waiting.retain(|dispatch| dispatch.task.is_none());
    }

    /// Sends the waiting tasks; ready once there are none.
    pub(in super::super) fn poll(
        &mut self,
        dispatcher: &Sender<Dispatch>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        while !self.waiting.is_empty() {
            let reserve = || -> BoxFuture<'static, Slot> {
                let dispatcher = dispatcher.clone();
                Box::pin(async move { dispatcher.reserve_owned().await.ok() })
            };
            let Poll::Ready(slot) = self.slot.get_or_insert_with(reserve).as_mut().poll(context)
            else {
                return Poll::Pending;
            };
            self.slot = None;
            match (slot, self.waiting.pop_front()) {
                (Some(slot), Some(dispatch)) => drop(slot.send(dispatch)),
                _ => self.waiting.clear(),
            }
        }
        Poll::Ready(())
    }
}
