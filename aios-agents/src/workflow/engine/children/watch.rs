//! The regular checks of children whose parent is not in memory.
//!
//! A parent that waits for children leaves memory. Its engine keeps their ids, and answers the question
//! whether one of them has ended with an indexed read of the table of runs. The parent is loaded, and its
//! code replayed, only if that read does not find all of them open.
//!
//! ```text
//! the parent leaves memory ──► its children are noted here ──► the timer of a check is due
//!                                        ▲                              │
//!                                        │        all children are open │ otherwise: the parent is loaded
//!                                        └──── next timer, new note ◄───┘
//! ```
//!
//! The notes here are lost with the engine. The next one loads the parent at its first check.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    event::Timestamp,
    store::{PageRequest, ReadModels, RunFilter, StoreError},
};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::workflow::engine::{
    Engine, Message,
    recovery::{OPEN, Parked},
    runs::WHOLE_RUN,
};

/// Children of one run above which they are not noted: its journal is read at each check.
const MAX_CHILDREN: usize = 1000;
/// Runs read at once.
const PAGE: usize = 500;

/// A child that a run waits for: the operation that started it, and its id.
pub(crate) type AwaitedChild = (u64, Box<str>);

/// The runs that wait for children and are not in memory.
#[derive(Debug, Default)]
pub(crate) struct ChildWatch(Mutex<BTreeMap<Arc<str>, Watched>>);

/// A run that waits for children.
#[derive(Clone, Debug)]
struct Watched {
    /// The note of the run, which is written again with each check.
    parked: Parked,
    /// The children.
    children: Arc<[AwaitedChild]>,
    /// When the run must be loaded for another reason.
    other_at: Option<Timestamp>,
}

impl ChildWatch {
    /// Forgets a run that is in memory again, or has ended.
    pub(crate) fn forget(&self, run_id: &str) {
        self.0.lock().remove(run_id);
    }

    /// The run, if a timer of it is due only in order to check its children.
    fn due(&self, run_id: &str, operation: u64, now: Timestamp) -> Option<Watched> {
        let runs = self.0.lock();
        let watched = runs.get(run_id)?;
        let checks = |(child, _): &AwaitedChild| *child == operation;
        let is_check = operation == WHOLE_RUN || watched.children.iter().any(checks);
        let is_only_check = is_check && watched.other_at.is_none_or(|at| at > now);
        is_only_check.then(|| watched.clone())
    }
}

impl Engine {
    /// Notes the children of a run that has left memory, unless it is there again.
    pub(crate) fn watch_children(
        &self,
        run_id: &Arc<str>,
        parked: Parked,
        children: Vec<AwaitedChild>,
    ) {
        if children.is_empty() || children.len() > MAX_CHILDREN {
            return;
        }
        let of_children: BTreeSet<u64> = children.iter().map(|(operation, _)| *operation).collect();
        let other_at = self.timers.earliest_except(run_id, &of_children);
        let watched = Watched { parked, children: children.into(), other_at };
        self.live.unless_live(run_id, || {
            self.children.0.lock().insert(Arc::clone(run_id), watched);
        });
    }

    /// Begins to check the children of a run that is not in memory, if that is why its timer is due.
    /// Returns `false` if the run must be loaded instead.
    pub(crate) async fn check_children(
        self: &Arc<Self>,
        run_id: &Arc<str>,
        operation: u64,
    ) -> bool {
        let Some(watched) = self.children.due(run_id, operation, self.clock.now()) else {
            return false;
        };
        if self.ownership.fence_of(run_id).is_none() {
            self.children.forget(run_id);
            return false;
        }
        // The semaphore is never closed.
        let permit = Arc::clone(&self.activations).acquire_owned().await.ok();
        // One check for all of them.
        self.live.unless_live(run_id, || self.timers.clear_run(run_id));
        let checking = check(Arc::clone(self), Arc::clone(run_id), watched, permit);
        self.background.spawn(checking);
        true
    }

    /// Whether all the children are open. One that continued as another run is, if that one is.
    async fn are_open(&self, run_id: &str, children: &[AwaitedChild]) -> Result<bool, StoreError> {
        let mut missing: BTreeSet<&str> = children.iter().map(|(_, child)| &**child).collect();
        let filter = RunFilter {
            parent_run_id: Some(run_id.to_owned()),
            statuses: OPEN.to_vec(),
            ..RunFilter::default()
        };
        let mut request = PageRequest::first(PAGE);
        loop {
            let page = self.store.runs(&filter, &request).await?;
            for run in &page.rows {
                missing.remove(run.first_run_id.as_deref().unwrap_or(&run.id));
            }
            match page.next {
                _ if missing.is_empty() => return Ok(true),
                Some(next) => request = next,
                None => return Ok(false),
            }
        }
    }

    /// Sets the timers of a run whose children need not be checked before `pause` is over.
    fn check_children_later(&self, run_id: &Arc<str>, watched: &Watched, pause: Duration) {
        let check_at = self.clock.now() + pause;
        let Some((operation, _)) = watched.children.first() else { return };
        let mut is_waiting = false;
        self.live.unless_live(run_id, || {
            self.timers.set(check_at, run_id, *operation);
            if let Some(other_at) = watched.other_at {
                self.timers.set_wake_up(other_at, run_id);
            }
            is_waiting = true;
        });
        if is_waiting {
            let wake_at = watched.other_at.map_or(check_at, |at| at.min(check_at));
            self.note_wait(run_id, watched.parked, Some(wake_at));
        }
    }
}

/// Checks the children of a run, and loads the run unless all of them are open.
async fn check(
    engine: Arc<Engine>,
    run_id: Arc<str>,
    watched: Watched,
    permit: Option<OwnedSemaphorePermit>,
) {
    let pause = match engine.are_open(&run_id, &watched.children).await {
        Ok(true) => engine.options.child_poll_interval,
        Err(error) if error.is_retryable() => {
            engine.store_failed(&error);
            engine.options.backoff.max_delay
        }
        // The load reports an error that does not pass.
        Ok(false) | Err(_) => {
            drop(permit);
            return engine.activate(&run_id, Message::Wake).await;
        }
    };
    engine.check_children_later(&run_id, &watched, pause);
}
