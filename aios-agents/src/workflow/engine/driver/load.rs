//! The replay of a run: reads its journal, runs the code against it, and makes the run live.
//!
//! The code is polled between batches of entries, and asks for the same operations as before. It
//! neither appends nor performs anything until `go_live`. If it asks for something else, the run is
//! blocked, and the journal says why. The start of a run that was just created in this process comes
//! with its journal, so it is not read.
//!
//! The order of the steps, each of which may be the last:
//!
//! 1. The journal is read, unless the activation brought it.
//! 2. Its last placement says whether this engine advances the run (`place`).
//! 3. A run that continues another one waits for the end of that one and takes over its signals
//!    (`successor`).
//! 4. The entries are decoded and sorted. A run that has ended, or that this engine has blocked for a
//!    reason that still holds, is left alone.
//! 5. The code is found, and its future created, unless the start is due later.
//! 6. The entries are applied, one at a time, with a poll of the code after each.
//! 7. The run goes live: the code has requested every operation of the journal, and effects are due.
//! 8. What follows failed attempts that other engines recorded is recorded now.

use std::{collections::BTreeSet, future::poll_fn, sync::Arc};

use aios_core::{
    agent::Name,
    catalog::codes,
    event::{EventError, Timestamp},
    failure::{Details, Failure},
    store::{RecordedEvent, RunStatus, StreamId},
};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{
    Driver, Exit, Tasks,
    block::BlockState,
    children::Children,
    entries::{exit, failed, failures, read, read_entry, unreadable},
    origin::RunOrigin,
    place,
    successor::{Beginning, Succession, take_over},
    tasks::{OpenTasks, recorded_attempts},
};
use crate::suggest::hint;
use crate::workflow::{
    Execution, RunInfo, WorkflowError,
    engine::{Engine, RunOutcome},
    journal::{Blocked, Entry, Failed, Record, Started, seed_of},
};

/// Entries replayed before the task yields.
///
/// A replay of a long journal must not keep its thread from other runs.
const BURST: usize = 256;

/// The entries of a journal with their times, in the order in which they are applied.
type Journal = Vec<(Entry, Timestamp)>;

/// The journal that a driver has to replay.
pub(super) struct Replay {
    started: Box<Started>,
    entries: Journal,
    /// Whether the run was taken back from an engine that is gone.
    is_back: bool,
    /// Whether the run was cancelled before it had the signals of its predecessor.
    is_cancelled: bool,
}

impl Driver {
    /// Reads the journal. The driver that is returned has to [replay](Self::replay) it before it is driven.
    ///
    /// The end of a run is its last entry, except in logs of earlier versions, whose streams were not closed.
    ///
    /// # Errors
    ///
    /// The exit of a run that can't be driven now: it has ended, this engine has blocked it or does not
    /// own it, or its journal can't be read.
    pub(super) async fn read(
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        journal: Option<Vec<RecordedEvent>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(Box<Self>, Replay), Exit> {
        let stream = StreamId::of_run(run_id).map_err(failed)?;
        let (Beginning { journal: events, is_cancelled }, is_back) = match journal {
            // The journal of a run that was just started, or whose predecessor has just ended.
            Some(journal) => (Beginning::with(journal), false),
            None => {
                let journal = read(engine, &stream).await?;
                let is_back = place::check(engine, run_id, &journal).await?;
                (Box::pin(take_over(engine, run_id, &stream, journal)).await?, is_back)
            }
        };
        let Some(first) = events.first() else { return Err(Exit::Unknown) };
        let workflow = first.event.event_type.entity();
        let mut entries = events
            .iter()
            .map(|recorded| Ok((read_entry(workflow, &recorded.event)?, recorded.event.timestamp)))
            .collect::<Result<Journal, EventError>>()
            .map_err(unreadable)?;
        Entry::sort_for_replay(&mut entries, |(entry, _)| entry);
        if let Some(ended) =
            entries.iter().rev().find_map(|(entry, _)| RunOutcome::from_entry(entry))
        {
            return Err(Exit::Ended(ended));
        }
        let Some((Entry::Started(started), _)) = entries.first() else {
            return Err(unreadable(EventError::InvalidType { text: run_id.to_string() }));
        };
        if let Some(failure) = blocked_here(engine, &entries) {
            return Err(Exit::Ended(RunOutcome::blocked(failure)));
        }
        let started = started.clone();
        let mut driver = Self::new(engine, run_id, stream, first, &started, &entries)?;
        // Of the journal as it was read: sorting has changed the order of the entries.
        driver.version = events.last().map_or(0, |last| last.version);
        driver.permit = permit;
        Ok((driver, Replay { started, entries, is_back, is_cancelled }))
    }

    /// Replays the journal that was read.
    ///
    /// # Errors
    ///
    /// The exit of a run that can't continue: it is not due, is or was blocked, or another engine has its code.
    pub(super) async fn replay(&mut self, replay: Replay) -> Result<(), Exit> {
        let Replay { started, entries, is_back, is_cancelled } = replay;
        match is_cancelled || is_scheduled_later(&self.engine, &started, &entries) {
            true => self.wait_for_start(&started)?,
            false => self.attach_code(&started).await?,
        }
        if is_back {
            self.record_return();
        }
        let failed = failures(entries.iter().map(|(entry, _)| entry));
        self.replay_entries(entries).await?;
        self.record_failures(failed);
        Ok(())
    }

    /// Creates a driver without code that has applied no entries. Boxed, because it is large and is moved
    /// several times.
    ///
    /// The fence is taken here and used for all appends: if the lease changes, the driver ends. Children
    /// that were started and have not ended are noted from the journal, and not from what the code asks
    /// for: they must be cancelled with the run, even if its code no longer fits.
    fn new(
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        stream: StreamId,
        first: &RecordedEvent,
        started: &Started,
        journal: &Journal,
    ) -> Result<Box<Self>, Exit> {
        let fence = engine.ownership.fence_of(run_id).ok_or(Exit::NotOwner)?;
        let workflow = first.event.event_type.entity();
        let codec = engine.journals.codec(workflow).map_err(exit)?;
        let origin = RunOrigin::new(run_id, stream, first, started, codec).map_err(unreadable)?;
        let entries = journal.iter().map(|(entry, _)| entry);
        let declined = place::declined(entries.clone());
        let mut children = Children::default();
        entries.clone().for_each(|entry| children.note(entry));
        let execution = execution_of(engine, run_id, &origin.workflow, first, journal);
        let tasks = Tasks {
            open: OpenTasks::of(entries.clone()),
            recorded_attempts: recorded_attempts(journal.iter()),
            ..Tasks::default()
        };
        Ok(Box::new(Self {
            engine: Arc::clone(engine),
            run_id: Arc::clone(run_id),
            origin,
            execution,
            fence,
            version: 0,
            tasks,
            children,
            succession: Succession::new(run_id, started),
            outbox: Vec::new(),
            answers: Vec::new(),
            postponed: Vec::new(),
            append: None,
            looks_ahead: false,
            write_failure: None,
            missed: BTreeSet::new(),
            reread_pending: false,
            reread_timer: None,
            block: BlockState::of(entries.clone()),
            cancel_requested: entries.clone().find_map(cancel_request),
            declined,
            is_leaving: false,
            leave_timer: None,
            turns: 0,
            watched_until: None,
            is_probed: false,
            permit: None,
        }))
    }

    /// Attaches the code of the run, if there is code for it.
    ///
    /// A run without code is blocked, or moved to an engine that has it, before anything is replayed.
    async fn attach_code(&mut self, started: &Started) -> Result<(), Exit> {
        let workflow = self.origin.workflow.clone();
        let version = started.version;
        let registry = Arc::clone(&self.engine.journals.registry);
        // The exact version: a later one may ask for something else.
        let Some(registered) = registry.find(workflow.as_str(), version) else {
            let message = format!(
                "no workflow {workflow} of version {version} is registered{}",
                hint("registered", workflow.as_str(), &registry.names())
            );
            return Err(self.block(Failure::new(codes::WORKFLOW_NOT_FOUND, message)).await);
        };
        let correlation_id = self.origin.metadata.correlation_id.clone();
        let traceparent = Some(self.origin.trace.to_string().into());
        let run_id = Arc::clone(&self.run_id);
        let fence = Some(self.fence);
        let info = RunInfo { run_id, workflow, version, correlation_id, traceparent, fence };
        self.looks_ahead = registered.workflow.looks_ahead();
        self.execution.attach_code(&*registered.workflow, info, started.input.clone());
        Ok(())
    }

    /// Waits for the start time of a run that has not begun, unless it was cancelled.
    ///
    /// A cancelled one ends at once, without code and compensations: nothing has begun.
    fn wait_for_start(&mut self, started: &Started) -> Result<(), Exit> {
        match (self.cancel_requested.clone(), started.start_at) {
            (Some(reason), _) => self.execution.cancel(reason),
            (None, Some(at)) => {
                self.engine.timers.set(at, &self.run_id, 0);
                return Err(Exit::NotDue(Some(self.as_parked())));
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Applies the journal in batches and polls the code in between.
    ///
    /// Nothing is appended or performed in the meantime: the machine returns neither entries nor
    /// effects before `go_live`.
    async fn replay_entries(&mut self, journal: Journal) -> Result<(), Exit> {
        let mut entries = journal.into_iter();
        while !entries.as_slice().is_empty() {
            // `Execution::poll` applies them one at a time; the batch is only for yielding.
            for (entry, at) in entries.by_ref().take(BURST) {
                self.execution.feed(entry, at);
            }
            poll_fn(|context| self.execution.poll(context)).await;
            // Checked after each batch, so that code which no longer fits is not run through a long
            // journal.
            if let Some(failure) = self.execution.block_reason() {
                return Err(self.block(failure).await);
            }
            if !entries.as_slice().is_empty() {
                aios_core::yield_now().await;
            }
        }
        if self.execution.end_probe() {
            warn!(
                run = %self.run_id, workflow = %self.origin.workflow,
                "the workflow may await a task that it has spawned: such a wait is lost when the run leaves \
                 memory"
            );
        }
        // Code that requests less than the journal has is noticed only here.
        if let Err(failure) = self.execution.go_live() {
            return Err(self.block(failure).await);
        }
        self.cancel_dropped_tasks();
        self.engine.hosting.unhosted.remove(&self.run_id);
        Ok(())
    }

    /// Blocks a run, and records that in the journal unless it is recorded already. A run whose
    /// cancellation was requested while it was blocked ends without the compensations that its code does
    /// not know, unless its children can't be cancelled.
    ///
    /// Before that, children are cancelled that the run's cancellation concerns, and the run may move
    /// to an engine that has its code. A block that the journal has already is not repeated. A run whose
    /// code was interrupted is not blocked, and must be loaded again.
    pub(super) async fn block(&mut self, failure: Failure) -> Exit {
        if self.execution.is_interrupted() {
            return Exit::Interrupted;
        }
        // Lets other runs be loaded.
        self.permit = None;
        self.tasks.outgoing.release_slot();
        // A run that is blocked can't cancel its children later, and one that ends must not leave them
        // running.
        self.children_cancelled().await;
        let (failure, cancelled) = match self.children.uncancelled() {
            // Its end would hide that its children are still running.
            Some(uncancelled) => (self.engine.own_failure(uncancelled.clone()), None),
            None => match self.move_if_no_code(failure).await {
                Ok(failure) => {
                    let ends = self.block.is_given_up || self.block.terminated.is_some();
                    let reason = self.cancel_requested.clone().filter(|_| ends);
                    (self.marked(failure), reason)
                }
                Err(exit) => return exit,
            },
        };
        let (status, failure, entry) = match cancelled {
            None => (RunStatus::Blocked, failure.clone(), Entry::Blocked(Blocked::new(failure))),
            Some(reason) => {
                let details = match &self.block.terminated {
                    Some(failure) => serde_json::json!({ "terminated": failure.message }).into(),
                    None => Details::default().with_field("blocked", &failure),
                };
                let failure = Failure::new(WorkflowError::CANCELLED, reason).with_details(details);
                (RunStatus::Cancelled, failure.clone(), Entry::Cancelled(Failed::new(failure)))
            }
        };
        let ended = RunOutcome { status, result: None, failure: Some(failure), continued_as: None };
        if status == RunStatus::Blocked && self.block.failure == ended.failure {
            return Exit::Ended(ended);
        }
        let tasks = match status {
            RunStatus::Cancelled => self.write_cancelled_tasks(),
            _ => Vec::new(),
        };
        match self.append_last(entry).await {
            Ok(()) => {
                for (agent_type, task_id) in tasks {
                    self.cancel_task(agent_type, task_id);
                }
                self.measure_end(&ended, self.engine.clock.now());
                Exit::Ended(ended)
            }
            Err(Exit::Unreadable(_)) => Exit::Ended(ended),
            Err(exit) => exit,
        }
    }

    /// Marks a failure that no replay shows: if the run were loaded again here, it would be unblocked,
    /// fail in the same way, and be blocked again.
    fn marked(&self, failure: Failure) -> Failure {
        match failure.code == WorkflowError::OUTSIDE {
            true => self.engine.own_failure(failure),
            false => failure,
        }
    }

    /// Encodes an entry, with the metadata that entries of its kind have.
    pub(super) fn encode(&self, entry: Entry) -> Result<Record, EventError> {
        let metadata = match &entry {
            Entry::TaskAssigned(task) => Arc::new(self.assignment_metadata(&task.data)),
            Entry::TaskCancelled(_) => Arc::new(self.task_metadata()),
            Entry::StepCompleted(_) => Arc::clone(&self.origin.step_metadata),
            _ => Arc::clone(&self.origin.metadata),
        };
        let mut record = self.origin.codec.encode(entry, self.engine.clock.now(), metadata)?;
        match &record.entry {
            Entry::TaskAssigned(task) => {
                let operation = task.data.task_id.run().map_or(0, |(_, operation)| operation);
                // Answers name this id as their cause, so it must be the same in every engine.
                record.event.id = self.assignment_id(operation, task.data.attempt);
            }
            Entry::Other(_) => record.event.metadata_mut().fill_from(&self.origin.metadata),
            _ => {}
        }
        Ok(record)
    }
}

/// An execution that expects this journal, and is watched for code that blocks the thread.
///
/// The whole journal is indexed first, so that a request is compared with its record at once.
fn execution_of(
    engine: &Engine,
    run_id: &Arc<str>,
    workflow: &Name,
    first: &RecordedEvent,
    journal: &Journal,
) -> Execution {
    let entries = journal.iter().map(|(entry, _)| entry);
    let (clock, seed) = (Arc::clone(&engine.clock), seed_of(&first.event, run_id));
    let incarnation = first.event.id.clone();
    let execution = Execution::new(Arc::clone(run_id), incarnation, seed, entries, clock);
    execution.shared.set_outputs(engine.journals.outputs.clone());
    engine.live.watch_polls(run_id, workflow.as_str(), &execution.polling);
    execution
}

/// Why a run is blocked, if it would be blocked for the same reason by this engine.
///
/// Without this, a run that fails in the same way here would be loaded, unblocked and blocked in a
/// circle, with two entries each time. A run that was blocked by another engine, or for its code, is
/// tried.
fn blocked_here(engine: &Engine, journal: &Journal) -> Option<Failure> {
    let block = BlockState::of(journal.iter().map(|(entry, _)| entry));
    block.failure.filter(|failure| engine.is_own_failure(failure))
}

/// The reason of a request to cancel.
fn cancel_request(entry: &Entry) -> Option<String> {
    match entry {
        Entry::CancelRequested(request) => Some(request.reason.clone()),
        _ => None,
    }
}

/// Whether the start time of a run has not been reached and nothing of it has begun.
///
/// A run that has an entry of an operation has begun, whatever the clock of this engine says now.
fn is_scheduled_later(engine: &Engine, started: &Started, journal: &Journal) -> bool {
    let begun = |(entry, _): &(Entry, Timestamp)| entry.operation().is_some();
    started.start_at.is_some_and(|at| at > engine.clock.now()) && !journal.iter().any(begun)
}
