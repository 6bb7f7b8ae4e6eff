//! How a process without an engine learns that runs have ended.
//!
//! One task follows the log for all callers of the process, and only while at least one waits. It
//! reads the events that end or block a run and wakes the callers of that run, who read its row. So
//! any number of callers cost one reader of the log.
//!
//! | change | effect |
//! |---|---|
//! | the first caller waits | the task is spawned |
//! | the last caller is gone | the task ends |
//! | the store fails for a moment | the task continues after a pause |
//! | the store fails permanently | the task ends and is not spawned again; callers poll |
//!
//! `follows` is checked and changed under its lock together with the number of callers, so a new
//! caller either finds the task or spawns one. A caller checks its run after it has registered, and
//! once more when the task has begun, because the run may have ended before the task knew the head
//! of the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_core::{
    Chain,
    catalog::{EventKind, agent, system, workflow},
    event::{EventError, Pattern},
    failure::Failure,
    store::{EventStore, StoreError},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    task,
    workflow::{
        engine::{Waiter, Waiters, read_range},
        journal::{JournalError, Journals},
    },
};

/// How many positions of the log are read at once.
const RANGE: u64 = 2048;
/// Pause between two reads of the log: normally, and while it grows fast.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// The log grows fast if it has grown by more than this many positions since the last read.
const FAST: u64 = 64;
/// Initial and maximum delay after a failure of the store.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Logged after a permanent failure of the store.
const NOT_FOLLOWED: &str = "stopped following the ends of runs; waiting callers poll instead";

/// Follows the ends of runs in a process without an engine, while callers wait for one.
#[derive(Debug)]
pub(super) struct Ends {
    /// The callers, by run.
    waiters: Waiters,
    /// How many callers wait.
    waiting: watch::Sender<usize>,
    /// How many times following the log has begun.
    begun: watch::Sender<u64>,
    /// Whether the task exists, or has failed permanently.
    follows: Mutex<bool>,
    /// Whether the outage was logged.
    is_store_down: AtomicBool,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            waiters: Waiters::default(),
            waiting: watch::Sender::new(0),
            begun: watch::Sender::new(0),
            follows: Mutex::new(false),
            is_store_down: AtomicBool::new(false),
        }
    }
}

/// A registered caller that waits for the end of a run. It must check the run after registering.
pub(super) struct Watch<'a> {
    /// Woken when the log has an end of the run.
    waiter: Waiter<'a>,
    /// Woken when the task has begun.
    begun: watch::Receiver<u64>,
    _waiting: Waiting<'a>,
}

impl Watch<'_> {
    /// Completes when the run should be checked again.
    pub(super) async fn changed(mut self) {
        tokio::select! {
            biased;
            _ = self.waiter.ended() => {}
            // The sender lives as long as `Ends`.
            _ = self.begun.changed() => {}
        }
    }
}

/// Counts a waiting caller until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    /// Counts the caller.
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Ends {
    /// Registers a caller that waits for a run, and makes sure that the log is followed.
    pub(super) fn watch(self: &Arc<Self>, journals: &Journals, run_id: &Arc<str>) -> Watch<'_> {
        let waiting = Waiting::new(&self.waiting);
        let waiter = self.waiters.wait(run_id);
        let begun = self.begun.subscribe();
        let mut follows = self.follows.lock();
        if !*follows {
            *follows = true;
            task::spawn(follow(Arc::clone(self), journals.clone()));
        }
        Watch { waiter, begun, _waiting: waiting }
    }

    /// Logs that the store fails, once until it answers again.
    pub(super) fn store_failed(&self, error: &JournalError) {
        if !self.is_store_down.swap(true, Ordering::AcqRel) {
            let failure = Failure::from_error("STORE", error);
            warn!(
                error = failure.message,
                "failed to read the ends of runs; waiting for the store"
            );
        }
    }

    /// Logs that the store answers again, if it had failed. Reads before it writes, because it is called
    /// often.
    pub(super) fn store_answered(&self) {
        if self.is_store_down.load(Ordering::Acquire)
            && self.is_store_down.swap(false, Ordering::AcqRel)
        {
            info!("the store answers again");
        }
    }

    /// Whether any caller waits. If not, the log is no longer followed.
    fn is_wanted(&self) -> bool {
        let mut follows = self.follows.lock();
        *follows = *self.waiting.borrow() > 0;
        *follows
    }

    /// Completes when no caller waits any more.
    async fn unwanted(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|count| *count == 0).await;
    }
}

/// Matches the events that neither end nor block a run.
fn others() -> Result<Vec<Pattern>, EventError> {
    let domains =
        [agent::DOMAIN, system::DOMAIN].iter().map(|domain| format!("{domain}.#").parse());
    let is_other = |kind: &&EventKind| {
        kind.action != workflow::BLOCKED && !workflow::FINAL.contains(&kind.action)
    };
    domains.chain(workflow::EVENTS.iter().filter(is_other).map(EventKind::pattern)).collect()
}

/// Follows the log while callers wait.
async fn follow(ends: Arc<Ends>, journals: Journals) {
    let others = match others() {
        Ok(others) => others,
        Err(error) => return warn!(%error, "{NOT_FOLLOWED}"),
    };
    let mut position = None;
    let mut backoff = BACK_OFF.0;
    while ends.is_wanted() {
        match notify_ended(&ends, &journals, &mut position, &others).await {
            Ok(positions) => {
                backoff = BACK_OFF.0;
                // A busy log is read in larger parts.
                let pause = if positions > FAST { PAUSE.1 } else { PAUSE.0 };
                journals.clock.sleep(pause).await;
            }
            // `follows` stays true, so that no other caller tries again.
            Err(error) if !error.is_retryable() => {
                return warn!(error = %Chain(&error), code = error.code(), "{NOT_FOLLOWED}");
            }
            Err(error) => {
                ends.store_failed(&error.into());
                journals.clock.sleep(backoff).await;
                backoff = (backoff * 2).min(BACK_OFF.1);
            }
        }
    }
}

/// Waits until the log has grown, and notifies the callers that wait for runs that ended. Returns
/// by how many positions it has grown.
async fn notify_ended(
    ends: &Ends,
    journals: &Journals,
    position: &mut Option<u64>,
    others: &[Pattern],
) -> Result<u64, StoreError> {
    let store = &journals.store;
    let mut read = match *position {
        Some(read) => read,
        None => {
            let head = store.head().await?;
            // Waiting callers check once more: a run may have ended before.
            ends.begun.send_modify(|begun| *begun += 1);
            *position.insert(head)
        }
    };
    let head = tokio::select! {
        biased;
        () = ends.unwanted() => return Ok(0),
        head = store.wait_for(read) => head?,
    };
    let grown = head.saturating_sub(read);
    while read < head {
        let up_to = head.min(read.saturating_add(RANGE));
        let found = read_range(&**store, read, up_to, others).await?;
        for run_id in found.events.iter().filter_map(|recorded| recorded.stream.run_id()) {
            ends.waiters.recheck(run_id);
        }
        if !found.unreadable.is_empty() {
            // The end of any run may be among them.
            ends.begun.send_modify(|begun| *begun += 1);
        }
        read = up_to;
        *position = Some(read);
    }
    Ok(grown)
}
