use std::{future::poll_fn, sync::Arc, task::Poll};

use aios_core::{
    clock::ClockExt,
    event::{Event, EventId, Payload, Timestamp},
    failure::Failure,
    store::{Append, Appended, EventStore, Expected, RecordedEvent, RunStatus, StoreError},
};
use tracing::warn;

use super::{Driver, Exit, InFlight, acknowledge};
use crate::workflow::{
    engine::Ended,
    journal::{Entry, Failed, JournalError, OperationFailed, Record, decode},
    machine::Request,
};

/// Events read at once.
const PAGE: usize = 1000;
/// Characters that are kept of the message of a failure that is too large.
const KEPT: usize = 1000;

impl Driver {
    /// Whether there is something to append that should not wait for company.
    pub(super) fn has_records(&self) -> bool {
        if !self.outbox.is_empty() || self.execution.outcome().is_some() {
            return true;
        }
        let machine = self.execution.machine();
        let steps = || machine.active().any(|(_, request)| matches!(request, Request::Step { .. }));
        machine.has_recording() && !(machine.recording_is_informational() && steps())
    }

    /// Appends what has gathered, if there is anything.
    pub(super) fn begin_append(&mut self) {
        if !self.has_records() {
            return;
        }
        let entries = self.execution.machine().take_recording();
        let ending = self.ending();
        let mut records = std::mem::take(&mut self.outbox);
        records.reserve_exact(entries.len() + usize::from(ending.is_some()));
        for entry in entries.into_iter().chain(ending) {
            match self.encode(entry) {
                Ok(record) => records.push(record),
                Err(error) => warn!(%error, run = %self.run_id, "could not write an entry"),
            }
        }
        let answers = std::mem::take(&mut self.answers);
        self.submit(records, answers);
    }

    fn submit(&mut self, records: Vec<Record>, answers: Vec<aios_core::broker::Delivery>) {
        let events = records.iter().map(|record| record.event.clone()).collect();
        let append = self.journal_append(events, Expected::Exact(self.version));
        let store = Arc::clone(&self.engine.store);
        let appending = Box::pin(async move { store.append_one(append).await });
        self.append = Some(InFlight { records, answers, appending });
    }

    pub(super) fn journal_append(&self, events: Vec<Event>, expected: Expected) -> Append {
        Append { stream: self.stream.clone(), expected, events, fence: Some(self.fence) }
    }

    /// The entry that ends the run, once its code has ended.
    fn ending(&self) -> Option<Entry> {
        self.execution.ending(|| self.successor())
    }

    /// Id of the run that this one continues as: `deploy` is followed by `deploy~2`.
    fn successor(&self) -> String {
        let (base, number) = self.run_id.rsplit_once('~').unwrap_or((&self.run_id, "1"));
        match number.parse::<u64>() {
            Ok(number) => format!("{base}~{}", number + 1),
            Err(_) => format!("{}~2", self.run_id),
        }
    }

    /// The append in flight was answered.
    pub(super) async fn appended(&mut self, result: Result<Appended, StoreError>) -> Option<Exit> {
        let in_flight = self.append.take()?;
        match result {
            Ok(appended) => self.committed(appended, in_flight).await,
            Err(StoreError::Conflict { .. }) => self.catch_up(in_flight).await,
            Err(StoreError::Fenced { .. }) => Some(Exit::Lost),
            Err(StoreError::TooLarge { id, bytes, limit }) => {
                let failure = too_large(bytes, limit);
                match self.without_oversized(in_flight.records, &id, &failure) {
                    Some(shrunk) => self.submit(shrunk, in_flight.answers),
                    None => return Some(self.block(failure).await),
                }
                None
            }
            Err(error) if error.is_retryable() => {
                warn!(%error, run = %self.run_id, "could not append; trying again");
                self.engine.clock.sleep(self.engine.options.back_off.0 * 4).await;
                self.submit(in_flight.records, in_flight.answers);
                None
            }
            Err(error) => Some(Exit::Failed(error.into())),
        }
    }

    async fn committed(&mut self, appended: Appended, in_flight: InFlight) -> Option<Exit> {
        self.version = appended.version;
        let InFlight { records, answers, .. } = in_flight;
        let ended = records.last().and_then(|record| Ended::from_entry(&record.entry));
        self.apply_all(records.into_iter().map(|record| (record.entry, record.event.timestamp)))
            .await;
        for answer in answers {
            acknowledge(answer).await;
        }
        if let Some(ended) = ended {
            return Some(Exit::Ended(ended));
        }
        match std::mem::take(&mut self.nudged) {
            true => self.read_ahead().await.err(),
            false => None,
        }
    }

    /// Somebody else appended: applies what came in between, then appends again.
    async fn catch_up(&mut self, in_flight: InFlight) -> Option<Exit> {
        if let Err(exit) = self.read_ahead().await {
            return Some(exit);
        }
        // What was a result may be none any more, for example if the run was cancelled.
        let mut records = in_flight.records;
        if records.last().is_some_and(|record| record.entry.is_final()) {
            records.pop();
        }
        match records.is_empty() {
            true => self.answers.extend(in_flight.answers),
            false => self.submit(records, in_flight.answers),
        }
        None
    }

    /// Applies what others appended since.
    pub(super) async fn read_ahead(&mut self) -> Result<(), Exit> {
        loop {
            let page = self.engine.store.read_stream(&self.stream, self.version, PAGE).await;
            let page = page.map_err(|error| Exit::Failed(error.into()))?;
            let Some(last) = page.last() else { return Ok(()) };
            self.version = last.version;
            let is_last = page.len() < PAGE;
            let entries = page.into_iter().filter_map(|recorded| self.understood(&recorded));
            let entries: Vec<_> = entries.collect();
            self.note_requests(&entries);
            self.apply_all(entries.into_iter()).await;
            if is_last {
                return Ok(());
            }
        }
    }

    fn note_requests(&mut self, entries: &[(Entry, Timestamp)]) {
        for (entry, _) in entries {
            if let Entry::CancelRequested(request) = entry {
                self.cancel_requested.get_or_insert_with(|| request.reason.clone());
            }
        }
    }

    fn understood(&self, recorded: &RecordedEvent) -> Option<(Entry, Timestamp)> {
        match decode(&recorded.event) {
            Ok(entry) => Some((entry, recorded.event.timestamp)),
            Err(error) => {
                warn!(%error, run = %self.run_id, "somebody appended what can't be read");
                None
            }
        }
    }

    async fn apply_all(&mut self, mut entries: impl Iterator<Item = (Entry, Timestamp)> + Send) {
        poll_fn(|context| {
            for (entry, at) in entries.by_ref() {
                self.execution.feed(entry, at, context);
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Starts the run that this one continues as, before this one's end is recorded, so that no
    /// crash can lose it.
    pub(super) async fn begin_successor(&mut self) -> Result<(), Exit> {
        let Some(Entry::Continued(next)) = self.ending() else { return Ok(()) };
        let (run_id, parent) = (next.run_id.into(), self.parent.clone());
        let (workflow, metadata) = (self.workflow.as_str(), self.metadata.clone());
        let begun = self.engine.start_run(&run_id, workflow, next.input, parent, metadata).await;
        match begun {
            Ok(()) => Ok(()),
            Err(JournalError::Exists { .. }) => self.check_successor(&run_id).await,
            Err(JournalError::Store(StoreError::TooLarge { bytes, limit, .. })) => {
                Err(self.block(too_large(bytes, limit)).await)
            }
            Err(error) => Err(Exit::Failed(error.into())),
        }
    }

    /// A run with the successor's id is the successor, unless somebody else has used the id.
    async fn check_successor(&mut self, run_id: &str) -> Result<(), Exit> {
        let row = self.engine.journals.row(run_id).await;
        let row = row.map_err(|error| Exit::Failed(error.into()))?;
        if row.workflow == self.workflow.as_str() {
            return Ok(());
        }
        let message = format!("run {run_id}, as which this one continues, is of {}", row.workflow);
        Err(self.block(Failure::new("RUN_EXISTS", message)).await)
    }

    /// Puts a failure where a result is larger than the store takes; `None` if it is no result, so
    /// that the code has to change.
    fn without_oversized(
        &self,
        records: Vec<Record>,
        id: &EventId,
        failure: &Failure,
    ) -> Option<Vec<Record>> {
        let replace = |record: Record| {
            if record.event.id != *id {
                return Some(record);
            }
            let entry = match record.entry {
                Entry::StepCompleted(step) => Entry::OperationFailed(OperationFailed {
                    operation: step.operation,
                    name: Some(step.name),
                    failure: failure.clone(),
                }),
                Entry::Completed(_) => Entry::Failed(Failed { failure: failure.clone() }),
                Entry::Failed(end) => Entry::Failed(Failed { failure: cut(end.failure) }),
                Entry::Cancelled(end) => Entry::Cancelled(Failed { failure: cut(end.failure) }),
                Entry::StatusSet(_) | Entry::ChildStarted(_) | Entry::TaskAssigned(_) => {
                    return None;
                }
                other => Entry::OperationFailed(OperationFailed {
                    operation: other.operation()?,
                    name: None,
                    failure: failure.clone(),
                }),
            };
            self.encode(entry).ok()
        };
        records.into_iter().map(replace).collect()
    }
}

fn too_large(bytes: usize, limit: usize) -> Failure {
    let message = format!("the result has {bytes} bytes, the store takes at most {limit}");
    Failure::new("EVENT_TOO_LARGE", message)
}

/// What is left of a failure that is larger than the store takes.
fn cut(failure: Failure) -> Failure {
    Failure::new(failure.code, failure.message.chars().take(KEPT).collect::<String>())
}

impl Ended {
    /// How a run ended, if this entry ends it.
    pub(super) fn from_entry(entry: &Entry) -> Option<Self> {
        let ended = |status, result: Option<Payload>, failure: Option<Failure>| {
            Some(Self { status, result, failure, continued_as: None })
        };
        match entry {
            Entry::Completed(end) => ended(RunStatus::Completed, Some(end.result.clone()), None),
            Entry::Failed(end) => ended(RunStatus::Failed, None, Some(end.failure.clone())),
            Entry::Cancelled(end) => ended(RunStatus::Cancelled, None, Some(end.failure.clone())),
            Entry::Continued(next) => Some(Self {
                status: RunStatus::Continued,
                result: None,
                failure: None,
                continued_as: Some(next.run_id.as_str().into()),
            }),
            _ => None,
        }
    }
}
