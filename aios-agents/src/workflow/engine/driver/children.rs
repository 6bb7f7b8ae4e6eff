//! The children of a run: how they are started, and cancelled with it.
//!
//! A child is a run of its own, on whichever engine owns its shard. The order on each side leaves no
//! gap for a crash:
//!
//! 1. `ChildStarted` is durable in the journal of the parent.
//! 2. The child is started with its parent in its first event. If that was done before, the existing
//!    child is recognised by it.
//! 3. The child ends, and its engine appends `ChildEnded` to the journal of the parent, once.
//! 4. In case 3 was missed, the parent checks the child every `child_poll_interval`.
//!
//! Starting and cancelling are tasks beside the driver. A start activates another driver, which may
//! wait for what this one has, and both read the store through the same queue. The two are also kept
//! apart from each other: a cancellation waits for all starts, or it would miss a child that is about
//! to exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use aios_core::{
    event::{EventId, Metadata},
    failure::Failure,
};

use super::Driver;
use crate::{
    task::JoinSet,
    trace::SpanId,
    workflow::{
        engine::{Engine, failing::PANICKED},
        journal::{ChildStarted, Entry},
    },
};

/// The children of a run, and their cancellation.
#[derive(Default)]
pub(super) struct Children {
    /// Running children that must be cancelled with the run, by operation.
    running: BTreeMap<u64, Box<str>>,
    /// Children that the code no longer wants, whose cancellation has not begun.
    unwanted: BTreeSet<u64>,
    /// Whether the cancellation of the run was requested. Children started afterwards belong to its
    /// compensations.
    cancel_requested: bool,
    /// The starts in progress.
    starting: Starts,
    /// A separate task, since it reads the store as the run does: reads that wait for each other
    /// must not be polled by one task.
    cancelling: JoinSet<Result<(), Failure>>,
    /// Whether the children were cancelled because of the run's cancellation, since it was loaded.
    cancel_begun: bool,
    /// Why a child can never be cancelled, if there is one.
    uncancelled: Option<Failure>,
}

/// Children that are being started. A start that has begun is finished, even if the run leaves
/// memory.
#[derive(Default)]
struct Starts(JoinSet<()>);

impl Drop for Starts {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

impl Children {
    /// Applies an entry of the journal that concerns a child.
    pub(super) fn note(&mut self, entry: &Entry) {
        match entry {
            // What is started after the request to cancel belongs to the compensations, which have to
            // finish.
            Entry::ChildStarted(child) if !self.cancel_requested && !child.leave_running => {
                self.running.insert(child.operation, child.run_id.clone());
            }
            Entry::ChildEnded(child) => self.ended(child.operation),
            Entry::OperationFailed(failed) => self.ended(failed.operation),
            Entry::CancelRequested(_) => self.cancel_requested = true,
            _ => {}
        }
    }

    /// Forgets a child that has ended.
    fn ended(&mut self, operation: u64) {
        self.running.remove(&operation);
        self.unwanted.remove(&operation);
    }

    /// Starts a child in a task of its own, because starting a child starts a driver.
    pub(super) fn start(&mut self, starting: impl Future<Output = ()> + Send + 'static) {
        self.starting.0.spawn(starting);
    }

    /// Whether a child is being started. The run must stay in memory until then: a cancellation
    /// would not find a child that does not exist yet.
    pub(super) fn is_starting(&self) -> bool {
        !self.starting.0.is_empty()
    }

    /// Removes the starts that have ended. Ready once the last one has.
    pub(super) fn poll_starting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.starting.0.poll_join_next(context) {
                // A start that panicked started nothing.
                Poll::Ready(Some(_)) if self.starting.0.is_empty() => return Poll::Ready(()),
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether a request to cancel a child is not durable yet. The run must not end before it is.
    pub(super) fn is_cancelling(&self) -> bool {
        !self.cancelling.is_empty() || self.uncancelled.is_some()
    }

    /// Why the run must be blocked: a child that should be cancelled keeps running, and the request
    /// can never be recorded.
    pub(super) fn uncancelled(&self) -> Option<&Failure> {
        self.uncancelled.as_ref()
    }

    /// Polls the requests to cancel children; ready once when they are durable.
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
    /// Starts a child or checks whether it has ended, unless the run no longer waits for it. The trace
    /// context of the child is the span of this operation.
    pub(super) fn start_child(&mut self, child: ChildStarted) {
        if !self.execution.machine().is_active(child.operation) {
            return;
        }
        let check = self.engine.clock.now() + self.engine.options.child_poll_interval;
        self.engine.timers.set(check, &self.run_id, child.operation);
        let engine = Arc::clone(&self.engine);
        let run_id = Arc::clone(&self.run_id);
        let span = SpanId::of_operation(&self.incarnation, child.operation);
        let traceparent = Some(self.trace.with_span(span).to_string().into());
        let metadata = Arc::new(Metadata { traceparent, ..(*self.metadata).clone() });
        let incarnation = self.incarnation.clone();
        self.children.start(engine.start_child(run_id, incarnation, child, metadata));
    }

    /// Starts to cancel the children of a run whose cancellation was requested, once each time the
    /// run is loaded: a crash may have come between the run's cancellation and theirs.
    pub(super) fn cancel_children(&mut self) {
        let children = &mut self.children;
        if children.cancel_begun || self.cancel_requested.is_none() {
            return;
        }
        children.cancel_begun = true;
        let running = std::mem::take(&mut children.running);
        self.begin_cancelling(running, "was cancelled");
    }

    /// Starts to cancel the children that the code no longer wants. After a crash, the code drops
    /// them again.
    pub(super) fn cancel_unwanted(&mut self) {
        let Children { running, unwanted, .. } = &mut self.children;
        unwanted.extend(self.execution.machine().take_unwanted());
        if unwanted.is_empty() {
            return;
        }
        // A child whose start is not durable yet is cancelled when it is.
        let started = unwanted.extract_if(.., |operation| running.contains_key(operation));
        let started: Vec<u64> = started.collect();
        let started = started.into_iter().filter_map(|operation| running.remove_entry(&operation));
        let started = started.collect();
        self.begin_cancelling(started, "no longer needs it");
    }

    /// Begins to cancel children, after all starts in progress have ended.
    fn begin_cancelling(&mut self, running: BTreeMap<u64, Box<str>>, why: &'static str) {
        if running.is_empty() {
            return;
        }
        let starting = std::mem::take(&mut self.children.starting);
        let engine = Arc::clone(&self.engine);
        let run_id = Arc::clone(&self.run_id);
        let incarnation = self.incarnation.clone();
        let cancelling = cancel(engine, run_id, incarnation, running, starting, why);
        self.children.cancelling.spawn(cancelling);
    }

    /// Like [`cancel_children`](Self::cancel_children), but waits until the requests are durable.
    pub(super) async fn children_cancelled(&mut self) {
        self.cancel_children();
        // Those that the code no longer wants are cancelled apart.
        while !self.children.cancelling.is_empty() {
            poll_fn(|context| self.children.poll_cancelling(context)).await;
        }
    }
}

/// Waits for the starts, then requests the cancellation of each child.
async fn cancel(
    engine: Arc<Engine>,
    run_id: Arc<str>,
    incarnation: EventId,
    running: BTreeMap<u64, Box<str>>,
    mut starting: Starts,
    why: &'static str,
) -> Result<(), Failure> {
    // A start that panicked started nothing that could be cancelled.
    while starting.0.join_next().await.is_some() {}
    engine.cancel_children(&run_id, &incarnation, running, why).await
}
