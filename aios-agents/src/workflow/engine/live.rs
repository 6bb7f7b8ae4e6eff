use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map::Entry},
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
    /// The broker may have lost the tasks that no agent has begun.
    Suspect,
    /// The run is about to move to another engine: it begins nothing, and leaves memory as soon as
    /// none of its steps runs.
    Leave,
    /// It does not move after all.
    Stay,
    /// This engine no longer owns the run.
    Lost,
}

/// The runs that are in memory.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<Runs>);

#[derive(Debug, Default)]
struct Runs {
    inboxes: HashMap<Arc<str>, Resident>,
    starting: HashMap<Arc<str>, Starts>,
    /// How many runs have left memory of which something is still to be done.
    departing: BTreeMap<Shard, usize>,
    tasks: JoinSet<()>,
    stopped: bool,
}

/// A run in memory.
#[derive(Debug)]
struct Resident {
    inbox: Arc<Inbox>,
    /// The shard that it belonged to when it was brought here.
    shard: Shard,
}

/// Those who are starting a run in this process.
#[derive(Debug, Default)]
struct Starts {
    count: usize,
    /// Whether the run was brought into memory meanwhile, by somebody who found its start. It may
    /// have gone on since, and what its starter knows of its journal is old.
    is_overtaken: bool,
}

/// Somebody who is about to start a run.
#[derive(Debug)]
pub(crate) struct Starting {
    engine: Arc<Engine>,
    run_id: Arc<str>,
}

impl Starting {
    /// The run was started: its journal is at hand.
    pub(crate) fn begin(self, journal: Vec<RecordedEvent>) {
        if self.engine.ownership.fence_of(&self.run_id).is_some() {
            self.engine.live.inbox(&self.engine, &self.run_id, Some(journal), None);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut runs = self.engine.live.runs();
        if let Some(starts) = runs.starting.get_mut(&self.run_id) {
            starts.count -= 1;
            if starts.count == 0 {
                runs.starting.remove(&self.run_id);
            }
        }
    }
}

/// What a driver begins with.
pub(super) struct Activation {
    pub(super) run_id: Arc<str>,
    pub(super) inbox: Arc<Inbox>,
    /// The journal, if it is at hand.
    pub(super) journal: Option<Vec<RecordedEvent>>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Runs {
    /// The journal that a run begins with, unless the run was begun without it before.
    fn usable(
        &mut self,
        run_id: &str,
        journal: Option<Vec<RecordedEvent>>,
    ) -> Option<Vec<RecordedEvent>> {
        let Some(starts) = self.starting.get_mut(run_id) else { return journal };
        let is_overtaken = std::mem::replace(&mut starts.is_overtaken, true);
        journal.filter(|_| !is_overtaken)
    }
}

impl Live {
    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inbox of a run, and whether the run was brought into memory for it. `None` once stopped.
    fn inbox(
        &self,
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        journal: Option<Vec<RecordedEvent>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<(Arc<Inbox>, bool)> {
        let is_start = journal.is_some();
        let inbox = {
            let mut runs = self.runs();
            if let Some(resident) = runs.inboxes.get(run_id) {
                return Some((Arc::clone(&resident.inbox), false));
            }
            if runs.stopped {
                return None;
            }
            let journal = runs.usable(run_id, journal);
            let inbox = Arc::new(Inbox::default());
            let shard = engine.ownership.shard_of(run_id).unwrap_or(Shard::of(run_id));
            let resident = Resident { inbox: Arc::clone(&inbox), shard };
            runs.inboxes.insert(Arc::clone(run_id), resident);
            while runs.tasks.try_join_next().is_some() {}
            let (run_id, told) = (Arc::clone(run_id), Arc::clone(&inbox));
            let activation = Activation { run_id, inbox: told, journal, permit };
            runs.tasks.spawn(driver::run(Arc::clone(engine), activation));
            inbox
        };
        if !is_start {
            engine.parking.stirred(run_id);
        }
        Some((inbox, true))
    }

    /// Does something that concerns a run which is not in memory, and does not get there meanwhile.
    pub(super) fn unless_live(&self, run_id: &str, act: impl FnOnce()) {
        let runs = self.runs();
        if !runs.inboxes.contains_key(run_id) {
            act();
        }
    }

    /// A run leaves memory. What it was told and did not read is to be told again. Returns its shard
    /// too, to be passed to [`departed`](Self::departed).
    pub(super) fn retire(&self, run_id: &str, inbox: &Inbox) -> (Shard, VecDeque<Message>) {
        let mut runs = self.runs();
        let resident = runs.inboxes.remove(run_id);
        let shard = resident.map_or_else(|| Shard::of(run_id), |resident| resident.shard);
        *runs.departing.entry(shard).or_default() += 1;
        // Closed under the lock, so that no closed inbox can be found here.
        (shard, inbox.close())
    }

    /// What was to be done for a run that left memory is done.
    pub(super) fn departed(&self, shard: Shard) {
        if let Entry::Occupied(mut departing) = self.runs().departing.entry(shard) {
            *departing.get_mut() -= 1;
            if *departing.get() == 0 {
                departing.remove();
            }
        }
    }

    /// The runs of shards that were lost leave memory.
    pub(super) fn lose(&self, shards: &BTreeSet<Shard>) {
        self.tell(shards, || Message::Lost);
    }

    /// Tells every run of these shards something.
    pub(super) fn tell(&self, shards: &BTreeSet<Shard>, message: impl Fn() -> Message) {
        let runs = self.runs();
        let of_shards = runs.inboxes.iter().filter(|(_, it)| shards.contains(&it.shard));
        // In the same order in every simulation.
        for resident in of_shards.collect::<BTreeMap<_, _>>().into_values() {
            // An inbox that is closed belongs to a run that is leaving.
            let _ = resident.inbox.push(message());
        }
    }

    /// The shards of the runs in memory, and of those that are just leaving it.
    pub(super) fn shards(&self) -> BTreeSet<Shard> {
        let runs = self.runs();
        let departing = runs.departing.keys().copied();
        runs.inboxes.values().map(|resident| resident.shard).chain(departing).collect()
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
    /// Tells a run something, without waiting for the run. It is brought into memory if need be. If
    /// another engine owns the run, an answer is recorded for it; whatever else it finds out by itself.
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

    /// Announces that a run is about to be started, before anything is appended.
    pub(crate) fn starting(self: &Arc<Self>, run_id: &Arc<str>) -> Starting {
        self.live.runs().starting.entry(Arc::clone(run_id)).or_default().count += 1;
        Starting { engine: Arc::clone(self), run_id: Arc::clone(run_id) }
    }

    fn tell_with(
        self: &Arc<Self>,
        run_id: &Arc<str>,
        mut message: Message,
        mut permit: Option<OwnedSemaphorePermit>,
    ) {
        if self.ownership.fence_of(run_id).is_none() {
            return self.tell_owner(message);
        }
        while let Some((inbox, is_new)) = self.live.inbox(self, run_id, None, permit.take()) {
            if is_new && matches!(message, Message::Nudge) {
                // Its journal is read after this.
                return;
            }
            match inbox.push(message) {
                Ok(()) => return,
                Err(unsent) => message = unsent,
            }
        }
    }

    fn tell_owner(self: &Arc<Self>, message: Message) {
        if let Message::Answer(delivery) = message {
            self.record_for_owner(*delivery);
        }
    }
}
