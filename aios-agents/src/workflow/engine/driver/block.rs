//! Blocking a run for a reason other than its code.
//!
//! A blocked run has neither ended nor lost anything: it waits for code, configuration or a person. The
//! entry `blocked` tells clients why, and the run resumes when it is loaded again and its code fits.
//!
//! | reason | where |
//! |---|---|
//! | the code does not match the journal, panicked, or awaits something that is not recorded | `Execution::block_reason`, recorded by `Driver::block` in `load` |
//! | no engine has the code | `load`, `place` |
//! | the journal can't be read, the store refuses an append, or the driver panicked | this module: the run has no driver that could append |
//!
//! The append has the fence of the run's shard, because a new owner may already have resumed the run.

use std::sync::Arc;

use aios_core::{
    Chain,
    catalog::{codes, workflow},
    event::{EventError, EventId},
    failure::Failure,
    store::{EventStore, RecordedEvent, RunStatus, StoreError, StreamId},
};
use tracing::warn;

use super::{Exit, entries::exit, measure::count_block};
use crate::{
    failing::truncate,
    workflow::{
        WorkflowError,
        engine::{Engine, RunOutcome},
        journal::{Blocked, Entry, JournalError},
    },
};

/// Events read at once.
const PAGE: usize = 1000;
/// Actions of the events that change what readers see of a blocked run, or ask to try again.
const ASKING: [&str; 4] =
    [workflow::CANCEL_REQUESTED, workflow::PAUSED, workflow::RESUMED, workflow::UNBLOCKED];

/// Whether and why a run is blocked, according to its journal.
#[derive(Debug, Default)]
pub(super) struct BlockState {
    /// Why the run is blocked. `None` after a request, which asks to try again: the same block is recorded
    /// again after it.
    pub(super) failure: Option<Failure>,
    /// Whether the run was blocked and has not progressed since, so that its journal must record that it
    /// is unblocked. No request changes that.
    pub(super) must_unblock: bool,
    /// Whether the cancellation was requested while the run was blocked: it ends even if its code does
    /// not fit, or what its code requests next can't be recorded. Once its code has recorded an operation
    /// again, the run is not given up: its code fits, and knows the compensations.
    pub(super) is_given_up: bool,
    /// Why the run ends at once, whatever it waits for, if that was requested.
    pub(super) terminated: Option<Failure>,
}

impl BlockState {
    /// The state after these entries, the first ones of a run.
    pub(super) fn of<'a>(journal: impl Iterator<Item = &'a Entry>) -> Self {
        let mut state = Self::default();
        journal.for_each(|entry| state.note(entry));
        // An engine has unblocked it, and may have begun a step, whose start is not recorded.
        state.is_given_up &= state.must_unblock;
        state
    }

    /// Notes the next entry.
    pub(super) fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::Blocked(block) => {
                self.failure = Some(block.failure.clone());
                self.must_unblock = true;
            }
            Entry::Unblocked(_) => {
                self.failure = None;
                self.must_unblock = false;
            }
            Entry::Paused | Entry::Resumed => self.failure = None,
            Entry::CancelRequested(request) => {
                self.failure = None;
                self.is_given_up |= self.must_unblock;
                if request.terminates {
                    let failure = Failure::new(WorkflowError::CANCELLED, request.reason.clone());
                    self.terminated.get_or_insert(failure);
                }
            }
            entry => self.is_given_up &= self.must_unblock || !is_from_code(entry),
        }
    }
}

/// Whether the code of the run has requested what this entry records.
fn is_from_code(entry: &Entry) -> bool {
    let is_from_elsewhere = matches!(
        entry,
        Entry::TaskCompleted(_)
            | Entry::TaskFailed(_)
            | Entry::TaskCancelled(_)
            | Entry::ChildEnded(_)
    );
    entry.operation().is_some() && !is_from_elsewhere
}

/// Blocks a run whose journal can't be read: another program or a later version of aios wrote it.
/// Nothing is lost by leaving the run alone.
///
/// A run whose cancellation was requested is blocked as well. What it has begun, such as its children, is not
/// known, so it could not end in an orderly way.
pub(super) async fn block_unreadable(
    engine: &Engine,
    run_id: &Arc<str>,
    error: &EventError,
) -> Exit {
    let failure = Failure::from_error(codes::JOURNAL_UNREADABLE, error);
    let asked = match last_request(engine, run_id).await {
        Ok(asked) => asked,
        Err(error) if error.is_retryable() => return Exit::Failed(error),
        Err(error) => return block_refused(engine, run_id, error).await,
    };
    // Derived, so that each load of the same unreadable journal does not add another entry.
    let id = EventId::derive(&format!("{run_id}/unreadable/{asked}/{}", failure.message));
    block(engine, run_id, failure, Some(id)).await
}

/// Version of the last event in the journal of a run after which a block is recorded again, from 1; 0 if
/// there is none.
async fn last_request(engine: &Engine, run_id: &str) -> Result<u64, StoreError> {
    let stream = StreamId::of_run(run_id)?;
    let (mut after, mut last) = (0, 0);
    loop {
        let page = engine.store.read_stream(&stream, after, PAGE).await?;
        let Some(end) = page.last() else { return Ok(last) };
        after = end.version;
        let asks = |recorded: &&RecordedEvent| match recorded.event.event_type.segments() {
            (workflow::DOMAIN, _, action) => ASKING.contains(&action),
            _ => false,
        };
        last = page.iter().rev().find(asks).map_or(last, |recorded| recorded.version);
    }
}

/// Blocks a run whose append the store refuses permanently.
pub(super) async fn block_refused(engine: &Engine, run_id: &Arc<str>, error: StoreError) -> Exit {
    if let StoreError::StreamClosed { .. } = error {
        // Another writer ended the run; the journal says how.
        return match engine.journals.ended(run_id).await {
            Ok(Some(ended)) => Exit::Ended(ended),
            Ok(None) => Exit::Failed(error),
            Err(JournalError::Store(error)) => Exit::Failed(error),
            Err(_) => Exit::Unknown,
        };
    }
    block_external(engine, run_id, Failure::from_error(error.code(), &error)).await
}

/// Blocks a run because of a failure that its code did not cause.
pub(super) async fn block_external(engine: &Engine, run_id: &Arc<str>, failure: Failure) -> Exit {
    block(engine, run_id, engine.own_failure(failure), None).await
}

/// Records in the journal that a run is blocked, and retries until the store accepts it. If the
/// store refuses it permanently, the engine stops, because otherwise the run would stay idle
/// without being reported.
///
/// | the answer | then |
/// |---|---|
/// | recorded | the run counts as blocked |
/// | the run has ended, or does not exist | that is reported instead |
/// | the shard has another owner | the run leaves memory |
/// | not now | again, after a pause |
/// | the failure is too large | once more, with a shorter one |
/// | never | the engine stops |
async fn block(
    engine: &Engine,
    run_id: &Arc<str>,
    mut failure: Failure,
    id: Option<EventId>,
) -> Exit {
    let mut backoff = engine.options.backoff.initial_delay;
    let mut is_truncated = false;
    loop {
        let Some(fence) = engine.ownership.fence_of(run_id) else { return Exit::NotOwner };
        let entry = Entry::Blocked(Blocked::new(failure.clone()));
        let appended = engine.journals.append_fenced(run_id, entry, id.clone(), fence).await;
        let Err(error) = appended else {
            count_block(&failure);
            return Exit::Ended(RunOutcome::blocked(failure));
        };
        match error {
            JournalError::Ended { .. } => {
                return match engine.journals.ended(run_id).await {
                    Ok(Some(ended)) => Exit::Ended(ended),
                    _ => Exit::Unknown,
                };
            }
            JournalError::UnknownRun { .. } => return Exit::Unknown,
            JournalError::Store(StoreError::Fenced { .. }) => return Exit::NotOwner,
            error if error.is_retryable() => {
                let code = failure.code.as_str();
                warn!(error = %Chain(&error), %run_id, code, "could not block a run; trying again");
            }
            JournalError::Store(StoreError::TooLarge { .. }) if !is_truncated => {
                (failure, is_truncated) = (truncate(&failure), true);
                continue;
            }
            error => {
                let Failure { code, message, .. } = error.failure();
                // Without the message of the run's failure: this one is logged.
                let message = format!("{message}; run {run_id} can't continue: {}", failure.code);
                engine.fail("block a run", &Failure::new(code, message));
                return exit(error);
            }
        }
        engine.clock.sleep(backoff).await;
        backoff = engine.options.backoff.next(backoff);
    }
}

impl RunOutcome {
    /// The outcome of a blocked run.
    pub(in super::super) fn blocked(failure: Failure) -> Self {
        let status = RunStatus::Blocked;
        Self { status, result: None, failure: Some(failure), continued_as: None }
    }
}
