//! The runs in memory, each with an inbox and the task of its driver.
//!
//! `Engine::send` is the way to reach a run. It activates a run that is not in memory, which then reads
//! its journal. A run leaves memory when it waits; messages that its inbox got in that moment are sent
//! again, so none is lost between the two.
//!
//! - A run has at most one driver: an inbox is added and removed under one lock, and a closed inbox is
//!   never found.
//! - Messages for runs of other engines are dropped, because their owners find the causes themselves.
//!   Answers are recorded for the owner (see `answers`). A run that is leaving gets what concerns its
//!   steps and tasks, as it may stay.
//! - A run counts for its shard until its clean-up is complete, so a shard is not handed over too early.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map::Entry},
    sync::Arc,
};

use aios_core::store::{RecordedEvent, Shard};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::{blocked::Polled, inbox::Inbox, message::Message};
use crate::{
    task::JoinSet,
    workflow::{
        engine::{Engine, driver},
        polling::Polling,
    },
};

/// The runs that are in memory.
#[derive(Debug, Default)]
pub(crate) struct ActiveRuns(Mutex<Runs>);

/// The table of runs, behind one lock. The lock is never held across an await.
#[derive(Debug, Default)]
struct Runs {
    /// The runs in memory, by id.
    inboxes: HashMap<Arc<str>, Resident>,
    /// The runs that callers of this process are starting.
    starting: HashMap<Arc<str>, Starts>,
    /// Number of runs per shard that have left memory and whose clean-up is in progress.
    departing: BTreeMap<Shard, usize>,
    /// The tasks of the drivers.
    tasks: JoinSet<()>,
    /// Whether no run is activated any more.
    stopped: bool,
}

/// A run in memory.
#[derive(Debug)]
struct Resident {
    /// The inbox, shared with the driver.
    inbox: Arc<Inbox>,
    /// The shard that it belonged to when it was activated.
    shard: Shard,
    /// Its workflow, and whether its code is being polled; `None` while it is loaded.
    polling: Option<(Arc<str>, Arc<Polling>)>,
}

/// The callers that are starting a run in this process.
#[derive(Debug, Default)]
struct Starts {
    /// Number of callers.
    count: usize,
    /// Whether another caller found the start of the run and activated it. It may have progressed
    /// since, so the journal that its starter holds may be outdated.
    is_overtaken: bool,
}

/// Announces that a run is about to be started, until it is dropped.
#[derive(Debug)]
pub(crate) struct Starting {
    /// To unregister when it is dropped.
    engine: Arc<Engine>,
    /// The run that is being started.
    run_id: Arc<str>,
}

impl Starting {
    /// Activates the run with the journal that its start produced.
    ///
    /// Does nothing if another engine owns the run: that one finds the start in the log.
    pub(crate) fn activate_new(self, journal: Vec<RecordedEvent>) {
        if self.engine.ownership.fence_of(&self.run_id).is_some() {
            self.engine.live.inbox_for(&self.engine, &self.run_id, Some(journal), None);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut runs = self.engine.live.0.lock();
        if let Some(starts) = runs.starting.get_mut(&self.run_id) {
            starts.count -= 1;
            if starts.count == 0 {
                runs.starting.remove(&self.run_id);
            }
        }
    }
}

/// The initial state of a driver.
pub(crate) struct Activation {
    /// The run to load.
    pub(crate) run_id: Arc<str>,
    /// Its inbox, which may already have messages.
    pub(crate) inbox: Arc<Inbox>,
    /// The journal, if it was read already.
    pub(crate) journal: Option<Vec<RecordedEvent>>,
    /// Limits the runs that are loaded at the same time; released when the run waits. `None` for a run
    /// that must not wait for others.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Runs {
    /// The journal to activate a run with, unless the run was already activated without it.
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

impl ActiveRuns {
    /// The inbox of a run, and whether the run was activated by this call. `None` once stopped.
    fn inbox_for(
        &self,
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        journal: Option<Vec<RecordedEvent>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<(Arc<Inbox>, bool)> {
        let is_start = journal.is_some();
        let inbox = {
            let mut runs = self.0.lock();
            if let Some(resident) = runs.inboxes.get(run_id) {
                return Some((Arc::clone(&resident.inbox), false));
            }
            if runs.stopped {
                return None;
            }
            let journal = runs.usable(run_id, journal);
            let inbox = Arc::new(Inbox::default());
            let shard = engine.ownership.shard_of(run_id).unwrap_or(Shard::of(run_id));
            let resident = Resident { inbox: Arc::clone(&inbox), shard, polling: None };
            runs.inboxes.insert(Arc::clone(run_id), resident);
            // Drivers that have ended are removed here, so that the set does not grow.
            while runs.tasks.try_join_next().is_some() {}
            let run_id = Arc::clone(run_id);
            let inbox_of_run = Arc::clone(&inbox);
            let activation = Activation { run_id, inbox: inbox_of_run, journal, permit };
            // Spawned under the lock, so that `stop` finds either no run or its task.
            runs.tasks.spawn(driver::run(Arc::clone(engine), activation));
            inbox
        };
        // A new run has no note that would be outdated.
        if !is_start {
            engine.parking.on_activated(run_id);
        }
        Some((inbox, true))
    }

    /// Calls `act` if a run is not in memory. It can't be activated during the call.
    pub(crate) fn unless_live(&self, run_id: &str, act: impl FnOnce()) {
        let runs = self.0.lock();
        if !runs.inboxes.contains_key(run_id) {
            act();
        }
    }

    /// Removes a run from memory, and returns its unread messages, which must be sent again, and
    /// its shard, which must be passed to [`departed`](Self::departed).
    pub(crate) fn remove(&self, run_id: &str, inbox: &Inbox) -> (Shard, VecDeque<Message>) {
        let mut runs = self.0.lock();
        let resident = runs.inboxes.remove(run_id);
        let shard = resident.map_or_else(|| Shard::of(run_id), |resident| resident.shard);
        *runs.departing.entry(shard).or_default() += 1;
        // Closed under the lock, so a lookup never finds a closed inbox.
        (shard, inbox.close())
    }

    /// The clean-up of a run that left memory is complete.
    pub(crate) fn departed(&self, shard: Shard) {
        if let Entry::Occupied(mut departing) = self.0.lock().departing.entry(shard) {
            *departing.get_mut() -= 1;
            if *departing.get() == 0 {
                departing.remove();
            }
        }
    }

    /// Removes the runs of lost shards from memory.
    pub(crate) fn lose(&self, shards: &BTreeSet<Shard>) {
        self.broadcast(shards, || Message::Lost);
    }

    /// Sends a message to every run of these shards that is in memory.
    pub(crate) fn broadcast(&self, shards: &BTreeSet<Shard>, message: impl Fn() -> Message) {
        let runs = self.0.lock();
        let of_shards = runs.inboxes.iter().filter(|(_, it)| shards.contains(&it.shard));
        // Ordered, so that simulations are reproducible.
        for resident in of_shards.collect::<BTreeMap<_, _>>().into_values() {
            // A closed inbox belongs to a run that is leaving memory.
            let _ = resident.inbox.push(message());
        }
    }

    /// The shards of the runs that are in memory or just leaving it.
    pub(crate) fn shards(&self) -> BTreeSet<Shard> {
        let runs = self.0.lock();
        let departing = runs.departing.keys().copied();
        runs.inboxes.values().map(|resident| resident.shard).chain(departing).collect()
    }

    /// Sends a message to a run, unless it is not in memory.
    fn push(&self, run_id: &str, message: Message) {
        if let Some(resident) = self.0.lock().inboxes.get(run_id) {
            // A closed inbox belongs to a run that is leaving memory.
            let _ = resident.inbox.push(message);
        }
    }

    /// Whether a run is in memory.
    pub(crate) fn contains(&self, run_id: &str) -> bool {
        self.0.lock().inboxes.contains_key(run_id)
    }

    /// Makes visible whether the code of a run is being polled.
    pub(crate) fn watch_polls(&self, run_id: &str, workflow: &str, polling: &Arc<Polling>) {
        if let Some(resident) = self.0.lock().inboxes.get_mut(run_id) {
            resident.polling = Some((workflow.into(), Arc::clone(polling)));
        }
    }

    /// The runs whose code is being polled.
    pub(super) fn polled(&self) -> BTreeMap<Arc<str>, Polled> {
        let runs = self.0.lock();
        let polled = runs.inboxes.iter().filter_map(|(run_id, resident)| {
            let (workflow, polling) = resident.polling.as_ref()?;
            let poll = polling.current()?;
            let workflow = Arc::clone(workflow);
            let requested = polling.requested();
            Some((Arc::clone(run_id), Polled { workflow, requested, poll }))
        });
        polled.collect()
    }

    /// Drops every run from memory.
    pub(crate) async fn stop(&self) {
        self.take().shutdown().await;
    }

    /// Takes all drivers, and prevents new ones.
    pub(crate) fn take(&self) -> JoinSet<()> {
        let mut runs = self.0.lock();
        runs.stopped = true;
        runs.inboxes.clear();
        std::mem::take(&mut runs.tasks)
    }
}

impl Engine {
    /// Sends a message to a run without waiting for the run, which is activated if necessary. If
    /// another engine owns the run, or is about to, an answer is recorded for it. Other messages reach
    /// only a run that is still in memory, because the owner detects their causes itself.
    pub(crate) fn send(self: &Arc<Self>, run_id: &Arc<str>, message: Message) {
        self.send_with(run_id, message, None);
    }

    /// Like [`send`](Self::send), but waits while many runs are being activated.
    ///
    /// For recovery, timers and appends of others, which may concern thousands of runs. A caller that
    /// waits for one run uses `send`.
    pub(crate) async fn activate(self: &Arc<Self>, run_id: &Arc<str>, message: Message) {
        let permit = match self.live.contains(run_id) {
            true => None,
            // The semaphore is never closed.
            false => Arc::clone(&self.activations).acquire_owned().await.ok(),
        };
        self.send_with(run_id, message, permit);
    }

    /// Announces that a run is about to be started, before anything is appended.
    pub(crate) fn starting(self: &Arc<Self>, run_id: &Arc<str>) -> Starting {
        self.live.0.lock().starting.entry(Arc::clone(run_id)).or_default().count += 1;
        Starting { engine: Arc::clone(self), run_id: Arc::clone(run_id) }
    }

    /// The loop ends: an inbox that is closed is not in the table any more, so the next look-up
    /// activates the run.
    fn send_with(
        self: &Arc<Self>,
        run_id: &Arc<str>,
        mut message: Message,
        mut permit: Option<OwnedSemaphorePermit>,
    ) {
        if self.ownership.fence_of(run_id).is_none() {
            return match message {
                Message::Answer(delivery) => self.record_for_owner(*delivery),
                // Commands reach the next owner through the journal.
                Message::Wake => {}
                // What a leaving run waits for may be over, and the run may stay.
                message => self.live.push(run_id, message),
            };
        }
        while let Some((inbox, is_new)) = self.live.inbox_for(self, run_id, None, permit.take()) {
            if is_new && matches!(message, Message::Wake) {
                // A new run reads its journal anyway.
                return;
            }
            match inbox.push(message) {
                Ok(()) => return,
                Err(unsent) => message = unsent,
            }
        }
    }
}
