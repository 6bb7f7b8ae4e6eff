use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use aios_core::{event::EventId, failure::Failure};
use tokio::task::JoinHandle;

use super::Driver;
use crate::{
    task::JoinSet,
    workflow::{
        engine::{Engine, failing::PANICKED},
        journal::Entry,
    },
};

/// The children of a run, and what becomes of them when the run is cancelled.
#[derive(Default)]
pub(super) struct Children {
    /// Those that are to be cancelled with the run and have not ended, by operation.
    running: BTreeMap<u64, Box<str>>,
    /// Whether the run is to be cancelled; what it starts from then on belongs to its compensations.
    doomed: bool,
    /// Those that are being started.
    starting: BTreeMap<u64, JoinHandle<()>>,
    /// A task of its own, since it reads the store as the run does: reads that wait for each other
    /// must not be polled by one task.
    cancelling: JoinSet<Result<(), Failure>>,
    begun: bool,
    /// Why some child will never be cancelled.
    uncancelled: Option<Failure>,
}

impl Children {
    /// Notes what an entry of the journal says about a child.
    pub(super) fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::ChildStarted(child) if !self.doomed && !child.leave_running => {
                self.running.insert(child.operation, child.run_id.clone());
            }
            Entry::ChildEnded(child) => drop(self.running.remove(&child.operation)),
            Entry::OperationFailed(failed) => drop(self.running.remove(&failed.operation)),
            Entry::CancelRequested(_) => self.doomed = true,
            _ => {}
        }
    }

    pub(super) fn starting(&mut self, operation: u64, starting: JoinHandle<()>) {
        self.starting.retain(|_, starting| !starting.is_finished());
        self.starting.insert(operation, starting);
    }

    /// Whether a request to cancel a child is not durable yet. The run must not end before.
    pub(super) fn is_cancelling(&self) -> bool {
        !self.cancelling.is_empty() || self.uncancelled.is_some()
    }

    /// Why the run has to be blocked: a child that should be cancelled keeps running, and the request
    /// can never be recorded.
    pub(super) fn uncancelled(&self) -> Option<&Failure> {
        self.uncancelled.as_ref()
    }

    /// Lets the requests to cancel children go on; ready once, when they are durable.
    pub(super) fn poll_cancelling(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.cancelling.poll_join_next(context) {
            Poll::Ready(Some(asked)) => {
                let asked = asked.unwrap_or_else(|error| {
                    Err(Failure::new(PANICKED, format!("children can't be cancelled: {error}")))
                });
                self.uncancelled = self.uncancelled.take().or(asked.err());
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Driver {
    /// Begins to cancel the children of a run that is to be cancelled, once in every stay in memory:
    /// a crash may have come between the run's cancellation and theirs.
    pub(super) fn cancel_children(&mut self) {
        let children = &mut self.children;
        if children.begun || self.cancel_requested.is_none() {
            return;
        }
        children.begun = true;
        let running = std::mem::take(&mut children.running);
        if running.is_empty() {
            return;
        }
        let starting = std::mem::take(&mut children.starting);
        let (engine, run_id) = (Arc::clone(&self.engine), Arc::clone(&self.run_id));
        let incarnation = self.incarnation.clone();
        children.cancelling.spawn(cancel(engine, run_id, incarnation, running, starting));
    }

    /// As [`cancel_children`](Self::cancel_children), and waits until the requests are durable.
    pub(super) async fn children_cancelled(&mut self) {
        self.cancel_children();
        if !self.children.cancelling.is_empty() {
            poll_fn(|context| self.children.poll_cancelling(context)).await;
        }
    }
}

async fn cancel(
    engine: Arc<Engine>,
    run_id: Arc<str>,
    incarnation: EventId,
    running: BTreeMap<u64, Box<str>>,
    starting: BTreeMap<u64, JoinHandle<()>>,
) -> Result<(), Failure> {
    for start in starting.into_values() {
        // A start that panicked started nothing that could be cancelled.
        let _ = start.await;
    }
    engine.cancel_children(&run_id, &incarnation, running).await
}
