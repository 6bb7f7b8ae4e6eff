//! The children of a run: how they are started, and cancelled with it.
//!
//! A child is a run of its own, on whichever engine owns its shard. The order on each side leaves no
//! gap for a crash:
//!
//! 1. `ChildStarted` is durable in the journal of the parent.
//! 2. The child is started with its parent in its first event. If that was done before, the existing
//!    child is recognised by it. The parent does not end before this.
//! 3. The child ends, and its engine appends `ChildEnded` to the journal of the parent, once.
//! 4. In case 3 was missed, the parent checks the child every `child_poll_interval`.
//!
//! Steps 2 to 4 are effects of the operation while the code waits for it. The code may drop the call
//! after step 1; the driver then starts the child by itself.
//!
//! Starting and cancelling are tasks beside the driver. A start activates another driver, which may
//! wait for what this one has, and both read the store through the same queue. A cancellation waits for
//! all starts of its driver. A start by an engine that had the run before may still come, so a child
//! that does not exist is started as a cancelled one, which such a start finds.
//!
//! A run that continues as another one names its children that have not ended in the start of that run,
//! which cancels them with itself. A run does not continue before all of them exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
};

use aios_core::{catalog::codes, event::Metadata, failure::Failure};
use futures_util::FutureExt;

use super::Driver;
use crate::{
    task::JoinSet,
    trace::SpanId,
    workflow::{
        engine::{Engine, children::Child},
        journal::{ChildStarted, Entry, InheritedChild, JournalError, Parent},
    },
};

/// The children of a run, and their cancellation.
#[derive(Default)]
pub(super) struct Children {
    /// Children that have not ended, and whose cancellation has not begun, by operation.
    running: BTreeMap<u64, Arc<ChildStarted>>,
    /// Children of earlier runs of the chain, which are cancelled with this one.
    inherited: Vec<InheritedChild>,
    /// Children that may not exist: no start of them has succeeded since the run was loaded.
    unstarted: BTreeMap<u64, Arc<ChildStarted>>,
    /// Children that the code no longer wants, whose cancellation has not begun.
    unwanted: BTreeSet<u64>,
    /// Whether the cancellation of the run was requested. Only its compensations start children
    /// afterwards.
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
struct Starts {
    /// Each returns its operation, and whether the child exists.
    tasks: JoinSet<(u64, bool)>,
    /// The operations whose start is in progress or, after a failed one, waits for a timer.
    pending: BTreeSet<u64>,
}

impl Drop for Starts {
    fn drop(&mut self) {
        self.tasks.detach_all();
    }
}

impl Children {
    /// Applies an entry of the journal that concerns a child.
    pub(super) fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::Started(started) => self.inherited.clone_from(&started.children),
            // What is recorded after the request to cancel belongs to the compensations, or to calls that
            // the cancellation has dropped, whose children are not started.
            Entry::ChildStarted(child) if child.compensates || !self.cancel_requested => {
                let child = Arc::new(child.clone());
                self.running.insert(child.operation, Arc::clone(&child));
                self.unstarted.insert(child.operation, child);
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
        self.unstarted.remove(&operation);
    }

    /// Starts a child in a task of its own, because starting a child starts a driver.
    fn start(&mut self, operation: u64, starting: impl Future<Output = bool> + Send + 'static) {
        self.starting.pending.insert(operation);
        let starting = AssertUnwindSafe(starting).catch_unwind();
        // One that panicked is repeated like one that failed.
        self.starting.tasks.spawn(async move { (operation, starting.await.unwrap_or(false)) });
    }

    /// Whether a child is being started. The run stays in memory until then.
    pub(super) fn is_starting(&self) -> bool {
        !self.starting.tasks.is_empty()
    }

    /// Whether the run may end: every child whose start is recorded exists, and those to be cancelled
    /// have been asked to end.
    pub(super) fn allow_end(&self) -> bool {
        self.unstarted.is_empty() && !self.is_cancelling()
    }

    /// Permits the start of a child again after one that failed: its timer is due, or was cleared.
    pub(super) fn retry_start(&mut self, operation: u64) {
        self.starting.pending.remove(&operation);
    }

    /// The next start that has ended: its operation, and whether the child exists.
    fn poll_started(&mut self, context: &mut Context<'_>) -> Poll<(u64, bool)> {
        loop {
            match self.starting.tasks.poll_join_next(context) {
                Poll::Ready(Some(Ok(started))) => return Poll::Ready(started),
                // Its executor dropped it. The run is loaded again elsewhere.
                Poll::Ready(Some(Err(_))) => {}
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
                    Err(Failure::new(
                        codes::ENGINE_PANICKED,
                        format!("children can't be cancelled: {error}"),
                    ))
                });
                self.uncancelled = self.uncancelled.take().or(asked.err());
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Driver {
    /// Starts a child or checks whether it has ended, unless the code no longer waits for it.
    pub(super) fn start_child(&mut self, child: ChildStarted) {
        if self.execution.machine().is_active(child.operation) {
            self.begin_start(Arc::new(child));
        }
    }

    /// Starts the children whose calls the code has dropped after their starts were recorded, and that
    /// may not exist. Those that will be cancelled are not started.
    pub(super) fn start_dropped(&mut self) {
        if self.children.unstarted.is_empty() || self.is_paused() || self.is_leaving {
            return;
        }
        let Children { unstarted, unwanted, starting, .. } = &self.children;
        let machine = self.execution.machine();
        let is_due = |operation: &u64| {
            !machine.is_active(*operation)
                && !unwanted.contains(operation)
                && !starting.pending.contains(operation)
        };
        let due = unstarted.iter().filter(|(operation, _)| is_due(operation));
        let due: Vec<Arc<ChildStarted>> = due.map(|(_, child)| Arc::clone(child)).collect();
        drop(machine);
        due.into_iter().for_each(|child| self.begin_start(child));
    }

    /// Whether a child whose call the code has dropped may not exist. The run stays in memory until it
    /// does.
    pub(super) fn has_unstarted_dropped(&self) -> bool {
        let machine = self.execution.machine();
        self.children.unstarted.keys().any(|operation| !machine.is_active(*operation))
    }

    /// Begins to start or to check a child.
    fn begin_start(&mut self, started: Arc<ChildStarted>) {
        let operation = started.operation;
        let check = self.engine.clock.now() + self.engine.options.child_poll_interval;
        self.engine.timers.set(check, &self.run_id, operation);
        let child = self.child(started);
        self.children.start(operation, Arc::clone(&self.engine).start_child(child));
    }

    /// Takes the results of starts that have ended. Whether the last one has ended now.
    pub(super) fn poll_starting(&mut self, context: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        while let Poll::Ready((operation, exists)) = self.children.poll_started(context) {
            has_ended = true;
            let Children { starting, unstarted, .. } = &mut self.children;
            if !exists && unstarted.contains_key(&operation) {
                // It stays pending until this timer: `retry_start`.
                let retry = self.engine.clock.now() + self.engine.options.backoff.max_delay;
                self.engine.timers.set(retry, &self.run_id, operation);
            } else {
                starting.pending.remove(&operation);
                unstarted.remove(&operation);
            }
        }
        has_ended && !self.children.is_starting()
    }

    /// A child of this run. The trace context of the child is the span of its operation.
    fn child(&self, started: Arc<ChildStarted>) -> Child {
        let span = SpanId::of_operation(&self.origin.incarnation, started.operation);
        let traceparent = Some(self.origin.trace.with_span(span).to_string().into());
        Child {
            parent: self.as_parent(started.operation),
            metadata: Arc::new(Metadata { traceparent, ..(*self.origin.metadata).clone() }),
            started,
        }
    }

    /// Starts to cancel the children of a run whose cancellation was requested, once each time the
    /// run is loaded: a crash may have come between the run's cancellation and theirs.
    pub(super) fn cancel_children(&mut self) {
        let children = &mut self.children;
        if children.cancel_begun || self.cancel_requested.is_none() {
            return;
        }
        children.cancel_begun = true;
        let ending = children.running.extract_if(.., |_, child| ends_with_parent(child));
        let ending: Vec<_> = ending.map(|(_, child)| child).collect();
        let inherited = std::mem::take(&mut children.inherited);
        self.begin_cancelling(ending, inherited, "was cancelled");
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
        let started = started.into_iter().filter_map(|operation| running.remove(&operation));
        let started: Vec<Arc<ChildStarted>> = started.collect();
        self.begin_cancelling(started, Vec::new(), "no longer needs it");
    }

    /// The children that are cancelled with the run that continues this one.
    pub(super) async fn inheritance(&mut self) -> Result<Vec<InheritedChild>, JournalError> {
        let mut open = Vec::new();
        for child in &self.children.inherited {
            // The ends of these are not reported to this run.
            match self.engine.journals.outcome_of((*child.run_id).into()).await {
                // Retention removes only runs that have ended.
                Ok(Some(_)) | Err(JournalError::UnknownRun { .. }) => {}
                Err(error) if !error.is_unreadable() => return Err(error),
                // One that can't be read may be running.
                Ok(None) | Err(_) => open.push(child.clone()),
            }
        }
        let own = self.children.running.values().filter(|child| ends_with_parent(child));
        open.extend(own.map(|child| {
            let parent = self.as_parent(child.operation);
            InheritedChild::new(child.run_id.clone(), parent)
        }));
        Ok(open)
    }

    /// How a child of an operation names this run.
    fn as_parent(&self, operation: u64) -> Parent {
        Parent::new(self.run_id.to_string(), Some(self.origin.incarnation.clone()), operation)
    }

    /// Begins to cancel children, after all starts in progress have ended.
    fn begin_cancelling(
        &mut self,
        running: impl IntoIterator<Item = Arc<ChildStarted>>,
        inherited: Vec<InheritedChild>,
        why: &'static str,
    ) {
        let children: Vec<Child> = running.into_iter().map(|child| self.child(child)).collect();
        if children.is_empty() && inherited.is_empty() {
            return;
        }
        for child in &children {
            self.children.unstarted.remove(&child.started.operation);
        }
        let starting = std::mem::take(&mut self.children.starting);
        let engine = Arc::clone(&self.engine);
        self.children.cancelling.spawn(cancel(engine, children, inherited, starting, why));
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
    children: Vec<Child>,
    inherited: Vec<InheritedChild>,
    mut starting: Starts,
    why: &'static str,
) -> Result<(), Failure> {
    while starting.tasks.join_next().await.is_some() {}
    engine.cancel_children(children, inherited, why).await
}

/// Whether a child is cancelled with its parent. Compensations have to finish, those of a failure and
/// those of a cancellation.
fn ends_with_parent(child: &ChildStarted) -> bool {
    !child.leave_running && !child.compensates
}
