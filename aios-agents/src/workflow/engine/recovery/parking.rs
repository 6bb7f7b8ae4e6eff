//! Runs that left memory because they are waiting.
//!
//! Their wake-up times are noted in the store, so this engine need not keep their timers in memory
//! and the next owner of their shard need not read their journals. Losing a note costs no more than
//! that.
//!
//! ```text
//! a run waits ──► leaves memory ──► 1 s ──► note written ──► its timers leave memory
//!                                                                │
//! shard changes hands ──► runs without a valid note are loaded   │ 60 s before they are due
//!                                                                ▼
//!                           look_ahead reads due notes ──► timers in memory ──► the run is loaded
//! ```
//!
//! A note says: "at this version of its journal, the run waits until this time". It is valid as long as
//! the journal has no later event, which the store compares. So it can be late, lost or refused without
//! harm, and is never corrected when a run resumes: it is outdated then, and removed in time.
//!
//! The timers of a noted run are dropped only if they are due after the time up to which `look_ahead`
//! has read (`known`). Both are decided under one lock; otherwise a timer could fall between the two
//! and fire late.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    Chain,
    event::Timestamp,
    store::{DueRun, Fence, Shard, StoreError, Wait},
};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use crate::workflow::engine::Engine;

/// How long notes are collected. A run that is woken within this time needs no write.
const GATHER: Duration = Duration::from_secs(1);
/// Notes written at once.
const BATCH: usize = 2000;
/// Notes that may wait to be written. Further ones are dropped, which is safe.
const PENDING: usize = 200_000;
/// A run whose timer is due sooner than this is not noted.
const SOON: Duration = Duration::from_secs(20);
/// How far ahead the timers of due runs are kept in memory.
const AHEAD: Duration = Duration::from_secs(60);
/// Interval between reads of due runs.
const LOOKAHEAD_INTERVAL: Duration = Duration::from_secs(20);
/// Interval while more runs are due than fit in memory.
const LOOKAHEAD_RETRY: Duration = Duration::from_secs(1);
/// Timers in memory above which no more due runs are read.
const TIMERS: usize = 200_000;
/// Due runs read at once.
const PAGE: usize = 5000;
/// How long writing the remaining notes may take when the engine stops.
const LAST_NOTES: Duration = Duration::from_secs(5);
/// The greatest id: no run with the same wake-up time sorts after it.
const LAST_ID: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/// A run that is idle until an event or a timer wakes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    /// The fence under which it was owned.
    pub(crate) fence: Fence,
    /// Version of the last event that was applied.
    pub(crate) version: u64,
}

/// Notes to be written, and how far the notes of due runs were read.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// The part that is decided under one lock.
    state: Mutex<State>,
    /// Wakes the task that writes notes.
    noted: Notify,
    /// Wakes the task that reads due runs, after shards were acquired.
    begun: Notify,
}

/// The notes and what is known of due runs, which are compared with each other (see `noted`).
#[derive(Debug, Default)]
struct State {
    /// The note to write for each run; `None` to delete its note.
    pending: BTreeMap<Arc<str>, Option<Wait>>,
    /// Number of notes that were dropped because too many were pending.
    dropped: u64,
    /// For each shard, the time up to which its due runs are in memory.
    known: BTreeMap<Shard, Timestamp>,
}

impl State {
    /// Whether a note is still the last one of its run. `dropped` is the number of dropped notes when it
    /// was taken: a note that was dropped since then may be a later one of the same run.
    fn is_last(&self, run_id: &str, dropped: u64) -> bool {
        self.dropped == dropped && !self.pending.contains_key(run_id)
    }
}

/// Notes to be written at once.
struct Batch {
    /// The note to write for each run; `None` to delete its note.
    notes: Vec<(Arc<str>, Option<Wait>)>,
    /// Number of notes that had been dropped when these were taken.
    dropped: u64,
}

impl Parking {
    /// Sets the note of a run that will be written; the last one counts.
    fn set(&self, run_id: &Arc<str>, note: Option<Wait>) {
        let mut state = self.state.lock();
        // Bounded, for a store that does not answer while many runs come and go.
        if state.pending.len() < PENDING || state.pending.contains_key(run_id) {
            state.pending.insert(Arc::clone(run_id), note);
        } else {
            state.dropped += 1;
        }
        drop(state);
        self.noted.notify_one();
    }

    /// A run was activated, so its note will soon be outdated.
    pub(crate) fn on_activated(&self, run_id: &Arc<str>) {
        self.set(run_id, None);
    }

    /// Forgets what was read of the due runs of shards that were just acquired.
    pub(crate) fn begin(&self, shards: &[Shard]) {
        let mut state = self.state.lock();
        state.known.retain(|shard, _| !shards.contains(shard));
        drop(state);
        self.begun.notify_one();
    }

    /// Takes some of the notes that must be written.
    fn take(&self, limit: usize) -> Batch {
        let mut state = self.state.lock();
        let taken: Vec<Arc<str>> = state.pending.keys().take(limit).cloned().collect();
        let remove = |run_id| state.pending.remove_entry(&run_id);
        let notes = taken.into_iter().filter_map(remove).collect();
        Batch { notes, dropped: state.dropped }
    }

    /// Puts back notes that were not written, unless there are newer ones.
    fn put_back(&self, notes: Vec<(Arc<str>, Option<Wait>)>) {
        let mut state = self.state.lock();
        for (run_id, note) in notes {
            state.pending.entry(run_id).or_insert(note);
        }
    }

    /// Whether all notes are written.
    fn is_empty(&self) -> bool {
        self.state.lock().pending.is_empty()
    }
}

impl Engine {
    /// Notes that a run has left memory until an event or a timer wakes it.
    pub(crate) fn park(&self, run_id: &Arc<str>, parked: Parked) {
        let wake_at = self.timers.earliest(run_id);
        if wake_at.is_some_and(|at| at <= self.clock.now() + SOON) {
            return;
        }
        let Parked { fence, version } = parked;
        if !fence.shard.is_share() {
            // The owner of the run's shard takes back a moved run when necessary.
            return;
        }
        let wait = Wait { run_id: Arc::clone(run_id), fence, version, wake_at };
        self.parking.set(run_id, Some(wait));
    }

    /// Drops the timers of a noted run, which are read again before they fall due. They stay if a later
    /// note of the run is pending or may have been dropped.
    fn noted(&self, wait: &Wait, dropped: u64) {
        let state = self.parking.state.lock();
        // Nothing of the shard was read yet, so its timers stay.
        let Some(known) = state.known.get(&wait.fence.shard) else { return };
        let is_known = wait.wake_at.is_some_and(|at| at <= *known);
        if !is_known && state.is_last(&wait.run_id, dropped) {
            // Under the lock, so that no further due runs are read before the timers are gone.
            self.live.unless_live(&wait.run_id, || self.timers.clear_run(&wait.run_id));
        }
    }
}

/// Writes the notes of waiting runs, a while after the runs left memory.
pub(crate) async fn note(engine: Arc<Engine>) {
    let mut backoff = engine.options.backoff.initial_delay;
    loop {
        tokio::select! {
            biased;
            () = engine.parking.noted.notified() => {}
            () = engine.stopped() => return,
        }
        tokio::select! {
            biased;
            () = engine.clock.sleep(GATHER) => {}
            () = engine.stopped() => return,
        }
        while !engine.parking.is_empty() {
            match write(&engine).await {
                Ok(()) => backoff = engine.options.backoff.initial_delay,
                Err(error) => {
                    engine.store_failed(&error);
                    engine.clock.sleep(backoff).await;
                    backoff = engine.options.backoff.next(backoff);
                }
            }
        }
    }
}

/// Writes the remaining notes when the engine stops.
pub(crate) async fn note_rest(engine: &Engine) {
    let rest = async {
        while !engine.parking.is_empty() {
            if let Err(error) = write(engine).await {
                warn!(error = %Chain(&error), "could not write notes of waiting runs; their next owner reads their journals");
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = rest => {}
        () = engine.clock.sleep(LAST_NOTES) => {
            warn!("timed out writing notes of waiting runs; their next owner reads their journals");
        }
    }
}

/// Writes a batch of notes. It is put back if the store fails for now.
async fn write(engine: &Engine) -> Result<(), StoreError> {
    let batch = engine.parking.take(BATCH);
    if !engine.store.takes_notes() {
        return Ok(());
    }
    // Checked again by the store, under the lock of the lease.
    let owned = |fence: Fence| engine.ownership.has(fence);
    let mut waits = Vec::new();
    let mut forgotten = Vec::new();
    for (run_id, note) in &batch.notes {
        match note {
            Some(wait) if owned(wait.fence) && !engine.holds(run_id) => waits.push(wait.clone()),
            Some(_) => {}
            None => {
                let fence = engine.ownership.held(Shard::of(run_id));
                forgotten.extend(fence.map(|fence| (Arc::clone(run_id), fence)));
            }
        }
    }
    match save(engine, &waits, &forgotten).await {
        // Only now: until then the timers here are all that wakes the run.
        Ok(()) => waits.iter().for_each(|wait| engine.noted(wait, batch.dropped)),
        Err(error) if error.is_retryable() => {
            engine.parking.put_back(batch.notes);
            return Err(error);
        }
        Err(error) => {
            // Without a note, a run's timers stay in memory here, and its next owner reads its journal.
            counter!("aios_waits_refused_total", "code" => error.code())
                .increment(waits.len().try_into().unwrap_or(u64::MAX));
            warn!(
                error = %Chain(&error), code = error.code(), runs = waits.len(),
                "the store refuses notes of waiting runs; their next owner reads their journals"
            );
        }
    }
    Ok(())
}

/// Removes outdated notes before it writes new ones: a run that resumed and waits again has one of
/// each.
async fn save(
    engine: &Engine,
    waits: &[Wait],
    forgotten: &[(Arc<str>, Fence)],
) -> Result<(), StoreError> {
    if !forgotten.is_empty() {
        engine.store.forget_waits(forgotten).await?;
    }
    match waits.is_empty() {
        true => Ok(()),
        false => engine.store.note_waits(waits).await,
    }
}

/// Reads the runs that fall due soon and sets their timers.
pub(crate) async fn look_ahead(engine: Arc<Engine>) {
    loop {
        let pause = match read_due(&engine).await {
            Ok(true) => LOOKAHEAD_INTERVAL,
            Ok(false) => LOOKAHEAD_RETRY,
            Err(error) => {
                if !engine.survives("read due runs", error) {
                    return;
                }
                engine.options.backoff.max_delay
            }
        };
        tokio::select! {
            biased;
            () = engine.clock.sleep(pause) => {}
            () = engine.parking.begun.notified() => {}
            () = engine.stopped() => return,
        }
    }
}

/// Reads the due runs of every owned shard; `false` if more are due than fit in memory.
async fn read_due(engine: &Engine) -> Result<bool, StoreError> {
    let up_to = engine.clock.now() + AHEAD;
    let mut is_all = true;
    // Claimed before they are read: a note that is written in the meantime keeps its timers.
    for (from, shards) in claim(engine, up_to) {
        match read(engine, &shards, from, up_to).await {
            Ok(None) => {}
            Ok(Some(reached)) => {
                is_all = false;
                unclaim(engine, &shards, up_to, Some(reached));
            }
            Err(error) => {
                unclaim(engine, &shards, up_to, from);
                return Err(error);
            }
        }
    }
    Ok(is_all)
}

/// Marks due runs up to a time as known, so that timers of noted runs stay in memory up to then.
/// Returns the shards to read, grouped by the time up to which they were read before.
fn claim(engine: &Engine, up_to: Timestamp) -> BTreeMap<Option<Timestamp>, Vec<Shard>> {
    let owned: BTreeSet<Shard> = engine.ownership.staying();
    let mut state = engine.parking.state.lock();
    state.known.retain(|shard, _| owned.contains(shard));
    let mut unread: BTreeMap<Option<Timestamp>, Vec<Shard>> = BTreeMap::new();
    for shard in owned {
        let known = state.known.get(&shard).copied();
        if known.is_none_or(|known| known < up_to) {
            state.known.insert(shard, up_to);
            unread.entry(known).or_default().push(shard);
        }
    }
    unread
}

/// Reverts [`claim`] for shards that were not read, or were read only up to a time.
fn unclaim(engine: &Engine, shards: &[Shard], claimed: Timestamp, reached: Option<Timestamp>) {
    let mut state = engine.parking.state.lock();
    for shard in shards {
        // A shard that was lost and acquired again in the meantime has nothing known.
        if state.known.get(shard) == Some(&claimed) {
            match reached {
                Some(reached) => drop(state.known.insert(*shard, reached)),
                None => drop(state.known.remove(shard)),
            }
        }
    }
}

/// Sets timers for the due runs of shards. Returns the time up to which they were read, unless all
/// were read.
async fn read(
    engine: &Engine,
    shards: &[Shard],
    from: Option<Timestamp>,
    up_to: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    // After all runs of that time: they were read before.
    let mut last = from.map(|wake_at| DueRun { wake_at, run_id: LAST_ID.to_owned() });
    loop {
        let page = engine.store.due_runs(shards, last.as_ref(), up_to, PAGE).await?;
        let is_last = page.len() < PAGE;
        for due in &page {
            let run_id: Arc<str> = due.run_id.as_str().into();
            if !engine.holds(&run_id) {
                engine.timers.set_wake_up(due.wake_at, &run_id);
            }
        }
        last = page.into_iter().last().or(last);
        if is_last {
            return Ok(None);
        }
        if engine.timers.len() > TIMERS {
            // More runs may be due at the same time.
            return Ok(last.map(|last| last.wake_at - Duration::from_micros(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_keep_the_timers_of_a_run_whose_next_note_was_dropped() {
        for is_full in [false, true] {
            let parking = Parking::default();
            let run: Arc<str> = "r".into();
            parking.on_activated(&run);
            let batch = parking.take(1);
            assert_eq!(batch.notes.len(), 1);
            if is_full {
                (0..PENDING).for_each(|other| parking.on_activated(&other.to_string().into()));
                // The run has continued and waits again.
                parking.on_activated(&run);
            }
            assert_eq!(parking.state.lock().is_last(&run, batch.dropped), !is_full);
        }
    }
}
