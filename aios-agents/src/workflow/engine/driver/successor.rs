//! The run that a run continues as, and the signals that it inherits.
//!
//! The successor is started first, so that no crash loses it, and waits. The end of its predecessor
//! closes the predecessor's journal and lists the signals that were not taken. Only then does the
//! successor copy those signals into its own journal, in parts of bounded size, and begin.
//!
//! | the process dies after | what the journals say | who continues |
//! |---|---|---|
//! | the start of the successor | the predecessor is open | its owner, which finds the successor by its predecessor and ends the run |
//! | the end of the predecessor | the successor has not begun | the owner of the successor, which reads that end |
//! | a part of the copy | the successor has some of the signals | the owner of the successor, which copies the others |
//! | the copy of the signals | the successor has all of them | the owner of the successor, which does not copy again |
//!
//! A run that continues as new without requesting an operation could do so as fast as the store permits.
//! After [`FREE_RUNS`] such runs in a row, each successor is delayed, and the log says so.
//!
//! A successor that waits checks at half of the lease time. One whose predecessor ends in another way,
//! such as by a cancellation that came first, is cancelled with `NOT_CONTINUED`. One that is cancelled itself
//! before it has its signals ends without them: the store may refuse them for good.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::{
    catalog::codes,
    event::{Event, EventId, Metadata, Timestamp},
    failure::Failure,
    retry::Backoff,
    store::{Append, Fence, RecordedEvent, RunRecord, RunStatus, StoreError, StreamId},
};
use metrics::counter;
use tracing::{info, warn};

use super::{
    Driver, Exit,
    entries::{exit, read, run_metadata},
    oversize::too_large,
};
use crate::workflow::{
    engine::{Engine, RunOutcome, Starting},
    journal::{Continued, Entry, Failed, JournalError, Predecessor, Signaled, Started, decode},
    run_id,
};

/// Number of runs in a row that may continue without requesting an operation before the next one is delayed.
const FREE_RUNS: u32 = 16;
/// The delays of the runs after that: 10 ms at first, doubled for each run up to 1 s.
const DELAYS: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// The most bytes of signals that are copied in one append, unless one signal is larger.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// The most signals that are copied in one append.
const PART_SIGNALS: usize = 1000;

/// The place of a run in its chain, and the run that follows it.
#[derive(Debug)]
pub(super) struct Succession {
    /// The first run of the chain, from whose id those of all successors derive.
    first: Arc<str>,
    /// Number of the run that this one continues as.
    next: u64,
    /// Number of runs directly before this one that continued without requesting an operation.
    idle_runs: u32,
    /// The successor, once it is started.
    started: Option<Begun>,
    /// Whether this run is known to have continued without signals to be inherited.
    may_begin: bool,
}

/// The start of the successor's journal if this engine started it; `None` if it must be read.
type Begun = Option<(Starting, Vec<RecordedEvent>)>;

/// A run that was started to continue another one.
#[derive(Debug)]
pub(super) struct Successor {
    /// Id of the successor.
    pub(super) run_id: Arc<str>,
    /// Its journal, if it may be activated with it.
    pub(super) begun: Begun,
}

impl Succession {
    /// The place of a run in its chain, according to its start.
    pub(super) fn new(run_id: &Arc<str>, started: &Started) -> Self {
        let (first, number) = match (&started.predecessor, &started.first_run_id) {
            (Some(_), Some(first)) => {
                (first.as_str().into(), run_id::number_in_chain(run_id).unwrap_or(1))
            }
            _ => (Arc::clone(run_id), 1),
        };
        Self {
            first,
            next: number.saturating_add(1),
            idle_runs: started.idle_runs,
            started: None,
            may_begin: false,
        }
    }

    /// Id of the run that follows.
    fn successor_id(&self) -> String {
        run_id::of_successor(&self.first, self.next)
    }

    /// The successor, if it was started.
    pub(super) fn take_successor(&mut self) -> Option<Successor> {
        let begun = self.started.take()?.filter(|_| self.may_begin);
        Some(Successor { run_id: self.successor_id().into(), begun })
    }

    /// The run has ended. A successor without signals to inherit may begin at once; any other must
    /// check how its predecessor ended.
    pub(super) fn note_end(&mut self, entry: &Entry) {
        self.may_begin = matches!(entry, Entry::Continued(end) if end.signals.is_empty());
    }
}

impl Driver {
    /// Id of the run that this one continues as: `deploy` is followed by `deploy~r2`.
    pub(super) fn successor_id(&self) -> String {
        self.succession.successor_id()
    }

    /// How this run continues as another one, if it does and the successor was not started yet.
    pub(super) fn continuation(&self) -> Option<Continued> {
        match self.succession.started {
            Some(_) => None,
            None => self.ending().and_then(|ending| match ending {
                Entry::Continued(next) => Some(next),
                _ => None,
            }),
        }
    }

    /// Starts the run that this one continues as, before this one's end is recorded, so that no
    /// crash can lose it. The successor begins once the end is recorded.
    pub(super) async fn begin_successor(&mut self, next: Continued) -> Result<(), Exit> {
        let children = self.inheritance().await.map_err(exit)?;
        loop {
            let run_id = self.successor_id();
            let mut started = Started::default();
            started.children.clone_from(&children);
            started.input = next.input.clone();
            // The parent waits for the end of the chain.
            started.parent = self.origin.parent.clone();
            started.predecessor = Some(self.as_predecessor());
            started.first_run_id = Some(self.succession.first.to_string());
            started.idle_runs = self.idle_runs();
            started.start_at = self.delayed_start(started.idle_runs);
            let workflow = self.origin.workflow.as_str();
            let metadata = Arc::clone(&self.origin.metadata);
            // Announced before the append: if another task finds the start and activates the run, the
            // journal that this append returns is outdated.
            let starting = self.engine.starting(&run_id.as_str().into());
            match self.engine.start_run(&run_id, workflow, started, Vec::new(), metadata).await {
                Ok(journal) => self.succession.started = Some(Some((starting, journal))),
                // Either this run started it before a crash, or the id is taken.
                Err(JournalError::Exists { .. }) => {
                    let found = self.engine.journals.started(&run_id).await.map_err(exit)?;
                    let found = found.map(|(_, started, _)| started).unwrap_or_default();
                    match found.predecessor {
                        Some(predecessor) if predecessor == self.as_predecessor() => {
                            self.succession.started = Some(None);
                        }
                        // The successor of an earlier run with the id of the first one.
                        Some(_)
                            if found.first_run_id.as_deref() == Some(&*self.succession.first) =>
                        {
                            self.succession.next = self.succession.next.saturating_add(1);
                            continue;
                        }
                        _ => return Err(self.block(taken(&run_id)).await),
                    }
                }
                Err(JournalError::Store(StoreError::TooLarge { bytes, limit, .. })) => {
                    let what = format!("the start of run {run_id}, with its input,");
                    return Err(self.block(too_large(&what, bytes, limit)).await);
                }
                Err(error) => return Err(exit(error)),
            }
            return Ok(());
        }
    }

    /// Number of runs up to this one that continued without requesting an operation.
    fn idle_runs(&self) -> u32 {
        match self.execution.shared.has_operations() {
            true => 0,
            false => self.succession.idle_runs.saturating_add(1),
        }
    }

    /// When the successor begins if the runs before it requested nothing; at once if `None`.
    fn delayed_start(&self, idle_runs: u32) -> Option<Timestamp> {
        let delayed = idle_runs.checked_sub(FREE_RUNS).filter(|delayed| *delayed > 0)?;
        let delay = (1..delayed.min(32)).fold(DELAYS.initial_delay, |delay, _| DELAYS.next(delay));
        let workflow = &self.origin.workflow;
        counter!("aios_idle_continuations_total", "workflow" => workflow.to_string()).increment(1);
        // The first one, and then more and more rarely.
        if delayed.is_power_of_two() {
            let first_run = &self.succession.first;
            warn!(
                run = %self.run_id, %first_run, %workflow, idle_runs, ?delay,
                "a workflow continues as new again and again without requesting an operation; each run is \
                 delayed: await something, such as `sleep` or a signal, before continuing"
            );
        }
        Some(self.engine.clock.now() + delay)
    }

    /// How the successor names this run.
    fn as_predecessor(&self) -> Predecessor {
        Predecessor::new(self.run_id.to_string(), self.origin.incarnation.clone())
    }
}

/// The failure of a run whose successor's id belongs to another run.
fn taken(run_id: &str) -> Failure {
    let message = format!("run {run_id} already exists and does not continue this one");
    Failure::new(codes::RUN_EXISTS, message)
}

/// A run that may begin, as far as its predecessor is concerned.
pub(super) struct Beginning {
    /// Its journal, with the signals that it inherits.
    pub(super) journal: Vec<RecordedEvent>,
    /// Whether it was cancelled before it had them, so that its code must not begin.
    pub(super) is_cancelled: bool,
}

impl Beginning {
    /// A run that begins with this journal.
    pub(super) fn with(journal: Vec<RecordedEvent>) -> Self {
        Self { journal, is_cancelled: false }
    }
}

/// Lets a run that continues another one begin only once that one has ended, with the signals that
/// it did not take. Returns the journal including them.
///
/// Each check reads one thing and may end here: a run that is not a successor, one that has begun, one
/// whose predecessor has not ended.
pub(super) async fn take_over(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    stream: &StreamId,
    journal: Vec<RecordedEvent>,
) -> Result<Beginning, Exit> {
    let Some((first, predecessor)) = awaited(&journal) else {
        return Ok(Beginning::with(journal));
    };
    let fence = engine.ownership.fence_of(run_id).ok_or(Exit::NotOwner)?;
    let end = end_of(engine, &predecessor).await.map_err(exit)?;
    let signals = match end {
        End::None => {
            // The end of the predecessor usually wakes this run; the timer is for a wake that was lost.
            let later = engine.clock.now() + engine.options.lease_time / 2;
            engine.timers.set(later, run_id, 0);
            return Err(Exit::NotDue(None));
        }
        End::Otherwise(status) => {
            return Err(
                cancel_orphan(engine, run_id, stream, first, &predecessor, status, fence).await
            );
        }
        End::Continued(end) if end.run_id == **run_id => end.signals,
        End::Continued(_) => {
            let status = RunStatus::Continued;
            return Err(
                cancel_orphan(engine, run_id, stream, first, &predecessor, status, fence).await
            );
        }
        End::Gone => Vec::new(),
    };
    let copied: BTreeSet<_> = inherited_ids(&journal).collect();
    if copied.len() >= signals.len() {
        return Ok(Beginning::with(journal));
    }
    if has(&journal, |entry| matches!(entry, Entry::CancelRequested(_))) {
        return Ok(Beginning { journal, is_cancelled: true });
    }
    let mut inherited = inherited(engine, first, &predecessor, &signals).await.map_err(exit)?;
    inherited.retain(|signal| !copied.contains(&signal.id.key()));
    if inherited.is_empty() {
        return Ok(Beginning::with(journal));
    }
    info!(run = %run_id, signals = inherited.len(), "a run inherits signals of its predecessor");
    for part in parts(inherited) {
        let append = Append::new(stream.clone(), part).with_fence(fence);
        match engine.store.append_one(append).await {
            Ok(_) => {}
            Err(StoreError::Fenced { .. }) => return Err(Exit::NotOwner),
            Err(error) => return Err(Exit::Failed(error)),
        }
    }
    Ok(Beginning::with(read(engine, stream).await?))
}

/// The start of a run that has not begun, and the run that it continues; `None` for any other run.
fn awaited(journal: &[RecordedEvent]) -> Option<(&RecordedEvent, Predecessor)> {
    let first = journal.first()?;
    let Ok(Entry::Started(started)) = decode(&first.event) else { return None };
    let predecessor = started.predecessor?;
    (!has(journal, has_begun)).then_some((first, predecessor))
}

/// Whether a journal has such an entry.
fn has(journal: &[RecordedEvent], is_it: impl Fn(&Entry) -> bool) -> bool {
    journal.iter().any(|recorded| decode(&recorded.event).is_ok_and(|entry| is_it(&entry)))
}

/// The keys of the signals in a journal that were inherited.
fn inherited_ids(journal: &[RecordedEvent]) -> impl Iterator<Item = uuid::Uuid> {
    let is_inherited = |event: &Event| {
        matches!(decode(event), Ok(Entry::Signaled(Signaled { inherited: true, .. })))
    };
    journal.iter().filter(move |it| is_inherited(&it.event)).map(|it| it.event.id.key())
}

/// Splits events into parts that are appended one after another.
fn parts(events: Vec<Event>) -> Vec<Vec<Event>> {
    let mut parts: Vec<Vec<Event>> = Vec::new();
    let mut room = 0_usize;
    for event in events {
        let bytes = event.payload.as_str().len();
        match parts.last_mut().filter(|part| bytes <= room && part.len() < PART_SIGNALS) {
            Some(part) => part.push(event),
            None => {
                parts.push(vec![event]);
                room = PART_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    parts
}

/// Whether an entry shows that a run has begun or has ended.
///
/// From then on the signals are settled, and must not be copied again.
fn has_begun(entry: &Entry) -> bool {
    entry.is_final() || entry.operation().is_some() || matches!(entry, Entry::VersionMarked(_))
}

/// How the predecessor of a run ended.
enum End {
    /// It has not ended.
    None,
    /// It continued, perhaps as another run than this one.
    Continued(Continued),
    /// It ended without continuing.
    Otherwise(RunStatus),
    /// It ended so long ago that it was removed from the log.
    Gone,
}

/// How the predecessor ended. A run that has its id and another incarnation is a later one, so the
/// predecessor is gone.
async fn end_of(engine: &Engine, predecessor: &Predecessor) -> Result<End, JournalError> {
    let journals = &engine.journals;
    let first = journals.first(&predecessor.run_id).await?;
    if first.is_none_or(|first| first.event.id != predecessor.incarnation) {
        return Ok(End::Gone);
    }
    let row: RunRecord = match journals.row(&predecessor.run_id).await {
        Ok(row) => row,
        Err(JournalError::UnknownRun { .. }) => return Ok(End::Gone),
        Err(error) => return Err(error),
    };
    Ok(match row.status {
        RunStatus::Continued => journals.continued(&row).await?.map_or(End::Gone, End::Continued),
        status if status.is_final() => End::Otherwise(status),
        _ => End::None,
    })
}

/// The signals with these numbers in the journal of a run, as they are copied to that of its
/// successor, in the order in which they will be taken.
async fn inherited(
    engine: &Engine,
    first: &RecordedEvent,
    predecessor: &Predecessor,
    numbers: &[u64],
) -> Result<Vec<Event>, JournalError> {
    let workflow = first.event.event_type.entity();
    let codec = engine.journals.codec(workflow)?;
    let numbers: BTreeSet<u64> = numbers.iter().copied().collect();
    let signals = engine.journals.signals(&predecessor.run_id, workflow).await?;
    // Numbered as the predecessor has applied them.
    let untaken = (1..).zip(signals).filter(|(number, _)| numbers.contains(number));
    let copy = |(mut signal, event): (Signaled, Event)| {
        signal.inherited = true;
        let entry = Entry::Signaled(signal);
        // Derived, so that a repeated append copies each signal once.
        let id = EventId::derive_from(&first.event.id, &format!("inherited/{}", event.id));
        let run_id = first.stream.run_id().map(Arc::from);
        let metadata = Metadata { run_id, ..Arc::unwrap_or_clone(event.metadata) };
        Ok(codec.encode(entry, engine.clock.now(), metadata.into())?.event.with_id(id))
    };
    untaken.map(|(_, signal)| copy(signal)).collect()
}

/// Cancels a run whose predecessor did not continue.
///
/// It has not begun, so there is nothing to compensate.
async fn cancel_orphan(
    engine: &Engine,
    run_id: &Arc<str>,
    stream: &StreamId,
    first: &RecordedEvent,
    predecessor: &Predecessor,
    status: RunStatus,
    fence: Fence,
) -> Exit {
    let Predecessor { run_id: other, .. } = predecessor;
    let message = format!("run {other}, which was to continue as this one, is {status}");
    let failure = Failure::new(codes::NOT_CONTINUED, message);
    info!(run = %run_id, predecessor = %other, %status, "cancelled a run whose predecessor did not continue");
    let end = Entry::Cancelled(Failed::new(failure.clone()));
    let codec = match engine.journals.codec(first.event.event_type.entity()) {
        Ok(codec) => codec,
        Err(error) => return exit(error),
    };
    let metadata = Arc::new(run_metadata(&first.event, run_id));
    let record = match codec.encode(end, engine.clock.now(), metadata) {
        Ok(record) => record,
        Err(error) => return Exit::Unreadable(error),
    };
    let append = Append::new(stream.clone(), vec![record.event]).with_fence(fence);
    let status = RunStatus::Cancelled;
    let failure = Some(failure);
    match engine.store.append_one(append).await {
        Ok(_) => Exit::Ended(RunOutcome { status, result: None, failure, continued_as: None }),
        Err(StoreError::Fenced { .. }) => Exit::NotOwner,
        Err(error) => Exit::Failed(error),
    }
}
