use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    broker::{DeadLetter, Delivery},
    failure::Failure,
    store::{RecordedEvent, Shard},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Engine, driver, inbox::Inbox};
use crate::task::JoinSet;

/// What a run is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody else appended to its stream.
    Nudge,
    /// A timer of this operation is due.
    TimerDue(u64),
    /// An agent answered.
    Answer(Box<Delivery>),
    /// A task could not be given to anybody.
    Undelivered { operation: u64, attempt: u32, failure: Failure, retryable: bool },
    /// The message of a task became a dead letter.
    DeadLettered {
        /// The operation.
        operation: u64,
        /// The attempt.
        attempt: u32,
        /// The dead letter.
        letter: Box<DeadLetter>,
    },
    /// The broker did not take a task now.
    Deferred { operation: u64, attempt: u32 },
    /// This engine no longer owns the run.
    Lost,
}

/// The runs that are in memory.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<Runs>);

#[derive(Debug, Default)]
struct Runs {
    inboxes: HashMap<Arc<str>, Arc<Inbox>>,
    tasks: JoinSet<()>,
    stopped: bool,
}

/// What a driver begins with.
pub(super) struct Activation {
    pub(super) run_id: Arc<str>,
    pub(super) inbox: Arc<Inbox>,
    /// The journal, if it is at hand.
    pub(super) journal: Option<Vec<RecordedEvent>>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Live {
    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inbox of a run; brings the run into memory if need be. `None` once stopped.
    fn inbox(
        &self,
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        journal: Option<Vec<RecordedEvent>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Arc<Inbox>> {
        let mut runs = self.runs();
        if let Some(inbox) = runs.inboxes.get(run_id) {
            return Some(Arc::clone(inbox));
        }
        if runs.stopped {
            return None;
        }
        let inbox = Arc::new(Inbox::default());
        runs.inboxes.insert(Arc::clone(run_id), Arc::clone(&inbox));
        while runs.tasks.try_join_next().is_some() {}
        let (run_id, told) = (Arc::clone(run_id), Arc::clone(&inbox));
        let activation = Activation { run_id, inbox: told, journal, permit };
        runs.tasks.spawn(driver::run(Arc::clone(engine), activation));
        Some(inbox)
    }

    /// A run leaves memory. What it was told and did not read is to be told again.
    pub(super) fn retire(&self, run_id: &str, inbox: &Inbox) -> VecDeque<Message> {
        let mut runs = self.runs();
        runs.inboxes.remove(run_id);
        // Closed under the lock, so that no closed inbox can be found here.
        inbox.close()
    }

    /// The runs of a shard that was lost leave memory.
    pub(super) fn lose(&self, shard: Shard) {
        let runs = self.runs();
        let of_shard = runs.inboxes.iter().filter(|(run_id, _)| Shard::of(run_id) == shard);
        // In the same order in every simulation.
        for inbox in of_shard.collect::<BTreeMap<_, _>>().into_values() {
            // An inbox that is closed belongs to a run that is leaving.
            let _ = inbox.push(Message::Lost);
        }
    }

    pub(super) fn contains(&self, run_id: &str) -> bool {
        self.runs().inboxes.contains_key(run_id)
    }

    /// Drops every run from memory.
    pub(super) async fn stop(&self) {
        self.take().shutdown().await;
    }

    /// Takes every driver, and lets no further one begin.
    pub(super) fn take(&self) -> JoinSet<()> {
        let mut runs = self.runs();
        runs.stopped = true;
        runs.inboxes.clear();
        std::mem::take(&mut runs.tasks)
    }
}

impl Engine {
    /// Tells a run something, without waiting for the run. It is brought into memory if need be; the
    /// message is dropped if another engine owns the run, because that one will find out by itself.
    pub(crate) fn tell(self: &Arc<Self>, run_id: &Arc<str>, message: Message) {
        self.tell_with(run_id, message, None);
    }

    /// As [`tell`](Self::tell), but waits while many runs are being brought into memory.
    pub(super) async fn activate(self: &Arc<Self>, run_id: &Arc<str>, message: Message) {
        let permit = match self.live.contains(run_id) {
            true => None,
            // The semaphore is never closed.
            false => Arc::clone(&self.activations).acquire_owned().await.ok(),
        };
        self.tell_with(run_id, message, permit);
    }

    /// Begins a run that was just started; its journal is at hand.
    pub(crate) fn begin(self: &Arc<Self>, run_id: &Arc<str>, journal: Vec<RecordedEvent>) {
        if self.ownership.fence(Shard::of(run_id)).is_some() {
            self.live.inbox(self, run_id, Some(journal), None);
        }
    }

    fn tell_with(
        self: &Arc<Self>,
        run_id: &Arc<str>,
        mut message: Message,
        mut permit: Option<OwnedSemaphorePermit>,
    ) {
        if self.ownership.fence(Shard::of(run_id)).is_none() {
            return;
        }
        while let Some(inbox) = self.live.inbox(self, run_id, None, permit.take()) {
            match inbox.push(message) {
                Ok(()) => return,
                Err(unsent) => message = unsent,
            }
        }
    }
}
