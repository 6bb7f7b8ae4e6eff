use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use aios_core::BoxFuture;
use tokio::sync::mpsc::{OwnedPermit, Sender, error::TrySendError};

use crate::workflow::engine::dispatch::Dispatch;

type Slot = Option<OwnedPermit<Dispatch>>;

/// Tasks of a run on their way to the dispatcher. A run waits for a place there itself, beside all
/// else that it does.
#[derive(Default)]
pub(super) struct Outgoing {
    waiting: VecDeque<Dispatch>,
    slot: Option<BoxFuture<'static, Slot>>,
}

impl Outgoing {
    pub(super) fn push(&mut self, dispatch: Dispatch, dispatcher: &Sender<Dispatch>) {
        if !self.waiting.is_empty() {
            return self.waiting.push_back(dispatch);
        }
        // Once the dispatcher is gone, so is this run.
        if let Err(TrySendError::Full(dispatch)) = dispatcher.try_send(dispatch) {
            self.waiting.push_back(dispatch);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives up the place in the dispatcher's queue, which would hold up others while this is not
    /// polled.
    pub(super) fn rest(&mut self) {
        self.slot = None;
    }

    /// Drops the tasks that were not handed over; a run that waits for them gives them again.
    pub(super) fn keep_notices(&mut self) {
        self.waiting.retain(|dispatch| dispatch.task.is_none());
    }

    /// Hands over what waits; ready once nothing does.
    pub(super) fn poll(
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
