//! Journals as any process may use them, without owning the runs.
//!
//! A process that does not own a run may append to its journal what the owner accepts from others: a
//! start (`Expected::Empty`), signals, commands and answers (`Expected::Any`). No fence is needed,
//! because none of these depends on what the journal contains: the owner reads them and decides.
//! Nothing is accepted after the end of a run: the store closes the stream, which decides under the
//! lock that orders appends, so that no check here has to be right.
//!
//! A run may continue as another one at any time. Whatever is addressed to a run is therefore addressed
//! to its chain, and follows it to the current run (`append_to_current`, `current`).
//!
//! An append whose response was lost is repeated by the caller under the same event id, if it chose
//! one: the store answers with the first result.

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::Name,
    catalog::{
        codes,
        workflow::{DOMAIN, SIGNALED},
    },
    clock::Clock,
    event::{Event, EventId, Metadata},
    store::{
        Append, EventStore, Expected, Fence, PageRequest, ReadModels, RecordedEvent, RunFilter,
        RunRecord, RunStatus, Store, StoreError, StreamId,
    },
};

use super::{Codec, Continued, Entry, JournalError, Signaled, Started, unmark_copy};
use crate::{
    counting_store::CountingStore,
    output::Hub,
    workflow::{Registry, engine::RunOutcome, run_id},
};

/// Number of events in a page.
///
/// A journal of usual length needs one query.
pub(super) const PAGE: usize = 1000;

/// Reads and writes journals without owning the runs.
#[derive(Clone, Debug)]
pub(crate) struct Journals {
    /// The store, which also knows what this process has appended.
    pub(crate) store: Arc<CountingStore>,
    /// Gives events their times; the clock of the engine, once there is one.
    pub(crate) clock: Arc<dyn Clock>,
    /// The workflows of this process.
    pub(crate) registry: Arc<Registry>,
    /// Source of all events of this process.
    pub(crate) source: Arc<str>,
    /// Stores the output that runs write here.
    pub(crate) outputs: Hub,
}

impl Journals {
    /// Journals in a store. The output of runs is stored in the same one.
    pub(crate) fn new(
        store: CountingStore,
        registry: Registry,
        clock: Arc<dyn Clock>,
        source: Arc<str>,
    ) -> Self {
        let store = Arc::new(store);
        let registry = Arc::new(registry);
        let shared: Arc<dyn Store> = Arc::<CountingStore>::clone(&store);
        let outputs = Hub::new(shared, Arc::clone(&clock), Arc::clone(&source));
        Self { store, clock, registry, source, outputs }
    }

    /// The codec of a workflow, which need not be registered here.
    pub(crate) fn codec(&self, workflow: &str) -> Result<Arc<Codec>, JournalError> {
        if let Some(registered) = self.registry.latest(workflow) {
            return Ok(Arc::clone(&registered.codec));
        }
        let unknown = |_| JournalError::UnknownWorkflow {
            workflow: workflow.to_owned(),
            registered: self.registry.names(),
        };
        let name: Name = workflow.parse().map_err(unknown)?;
        Ok(Arc::new(Codec::new(&name, Arc::clone(&self.source))?))
    }

    /// Appends the start of a run and the other first events of its journal in one append. Repeating
    /// it fails with [`JournalError::Exists`].
    ///
    /// The stream must be empty, so of two callers with the same id one gets `Exists` and can look at the
    /// run. `others` are events that must not be missing if the run exists; they get the metadata of the
    /// start where they have none of their own.
    pub(crate) async fn start(
        &self,
        run_id: &str,
        workflow: &str,
        started: Started,
        others: Vec<Event>,
        metadata: Metadata,
    ) -> Result<Vec<RecordedEvent>, JournalError> {
        let entry = Entry::Started(Box::new(started));
        let metadata = Arc::new(start_metadata(metadata, run_id));
        let first = self.codec(workflow)?.encode(entry, self.clock.now(), metadata)?.event;
        let mut events = vec![first.clone()];
        events.extend(others.into_iter().map(|mut event| {
            event.metadata_mut().fill_from(&first.metadata);
            event
        }));
        self.begin(run_id, events).await
    }

    /// Appends an entry to a run's journal without owning it. Fails if the run has ended.
    ///
    /// The row may be outdated when the append is made. The store then refuses it, if the run has
    /// ended.
    pub(crate) async fn append(
        &self,
        run_id: &str,
        entry: Entry,
        id: Option<EventId>,
    ) -> Result<(), JournalError> {
        let row = self.row(run_id).await?;
        self.append_to(&row, entry, id, &Metadata::default()).await
    }

    /// Like [`append`](Self::append), for the owner of the run's shard. Fails with
    /// [`StoreError::Fenced`] if the shard has another owner.
    pub(crate) async fn append_fenced(
        &self,
        run_id: &str,
        entry: Entry,
        id: Option<EventId>,
        fence: Fence,
    ) -> Result<(), JournalError> {
        let row = self.row(run_id).await?;
        let event = self.event_for(&row, entry, id, &Metadata::default()).await?;
        let append = Append::new(StreamId::of_run(run_id)?, vec![event]).with_fence(fence);
        self.append_one(run_id, append).await
    }

    /// Like [`append`](Self::append), for a run whose row was just read, and a caller with this metadata.
    async fn append_to(
        &self,
        row: &RunRecord,
        entry: Entry,
        id: Option<EventId>,
        caller: &Metadata,
    ) -> Result<(), JournalError> {
        let event = self.event_for(row, entry, id, caller).await?;
        self.append_event(&row.id, event).await
    }

    /// The event of an entry that this process appends to the journal of a run that has not ended.
    async fn event_for(
        &self,
        row: &RunRecord,
        entry: Entry,
        id: Option<EventId>,
        caller: &Metadata,
    ) -> Result<Event, JournalError> {
        // Saves an append that the store would refuse, and names the status.
        if row.status.is_final() {
            return Err(JournalError::Ended { run_id: row.id.clone(), status: row.status });
        }
        // Read again for each append: callers outside of the run have no other way to its correlation
        // id.
        let metadata = Arc::new(on_behalf_of(caller, self.run_metadata(&row.id).await?));
        let event = self.codec(&row.workflow)?.encode(entry, self.clock.now(), metadata)?.event;
        Ok(match id {
            Some(id) => event.with_id(id),
            None => event,
        })
    }

    /// Metadata of events that other processes append to a run: that of its start, with the start as the
    /// cause. If the start cannot be read now, the metadata contains only the run id.
    async fn run_metadata(&self, run_id: &str) -> Result<Metadata, JournalError> {
        let started = match self.store.read_stream(&StreamId::of_run(run_id)?, 0, 1).await {
            Ok(started) => started.into_iter().next(),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), run = run_id, "failed to read the start of a run");
                None
            }
        };
        let Some(started) = started else {
            return Ok(Metadata { run_id: Some(run_id.into()), ..Metadata::default() });
        };
        let causation_id = Some(started.event.id.to_string().into());
        let metadata = Arc::unwrap_or_clone(started.event.metadata);
        Ok(start_metadata(Metadata { causation_id, ..metadata }, run_id))
    }

    /// Appends an encoded event. Fails if the run has ended, even if its row did not show that yet: the
    /// store closes the stream with the last event of the run.
    pub(crate) async fn append_event(
        &self,
        run_id: &str,
        event: Event,
    ) -> Result<(), JournalError> {
        self.append_one(run_id, Append::new(StreamId::of_run(run_id)?, vec![event])).await
    }

    /// Appends to the journal of a run. Fails if the run has ended.
    async fn append_one(&self, run_id: &str, append: Append) -> Result<(), JournalError> {
        match self.store.append_one(append).await {
            Ok(_) => Ok(()),
            Err(StoreError::StreamClosed { .. }) => {
                let status = self.row(run_id).await?.status;
                Err(JournalError::Ended { run_id: run_id.to_owned(), status })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends an entry to the current run of the chain of `run_id`, which may continue as another run
    /// at any time. Returns the id of the current run. `known` is its row, if it was just read.
    pub(crate) async fn append_to_current(
        &self,
        run_id: &str,
        entry: &Entry,
        id: Option<&EventId>,
        known: Option<RunRecord>,
    ) -> Result<String, JournalError> {
        self.append_to_current_for(&Metadata::default(), run_id, entry, id, known).await
    }

    /// Like [`append_to_current`](Self::append_to_current), for a caller with this metadata.
    ///
    /// The loop ends: it repeats only if the run has continued since its row was read, and then reads
    /// the row of the next one.
    pub(crate) async fn append_to_current_for(
        &self,
        caller: &Metadata,
        run_id: &str,
        entry: &Entry,
        id: Option<&EventId>,
        mut known: Option<RunRecord>,
    ) -> Result<String, JournalError> {
        loop {
            let row = match known.take() {
                Some(row) => row,
                None => self.current(run_id).await?,
            };
            let is_continued = row.status == RunStatus::Continued;
            match self.append_to(&row, entry.clone(), id.cloned(), caller).await {
                Err(JournalError::Ended { status: RunStatus::Continued, .. }) if !is_continued => {}
                result => return result.map(|()| row.id),
            }
        }
    }

    /// Whether an entry with this id was appended to a run before the run ended. The store reports a
    /// repeated append as a success and rejects a new one.
    ///
    /// It asks by appending, because a search of the journal would take longer the longer it is.
    pub(crate) async fn has_received(
        &self,
        run_id: &str,
        entry: &Entry,
        id: &EventId,
    ) -> Result<bool, JournalError> {
        let row = self.row(run_id).await?;
        let codec = self.codec(&row.workflow)?;
        let entry = entry.clone();
        let event = codec.encode(entry, self.clock.now(), Metadata::empty())?.event;
        match self.append_event(run_id, event.with_id(id.clone())).await {
            Ok(()) => Ok(true),
            // Recorded in the journal of a predecessor of this run.
            Err(JournalError::Store(StoreError::DuplicateEvent { id: known })) => Ok(known == *id),
            Err(JournalError::Ended { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether an event with this id is in the journal of a run, or of one that it has continued as. Reads
    /// the journals, so it is for rare cases.
    pub(crate) async fn has_recorded(
        &self,
        run_id: &str,
        id: &EventId,
    ) -> Result<bool, JournalError> {
        let mut next = Some(run_id.to_owned());
        while let Some(run_id) = next.take() {
            let stream = StreamId::of_run(&run_id)?;
            let mut after = 0;
            loop {
                let page = self.store.read_stream(&stream, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.version;
                if page.iter().any(|recorded| recorded.event.id == *id) {
                    return Ok(true);
                }
                if let Ok(Entry::Continued(continued)) = super::decode(&last.event) {
                    next = Some(continued.run_id.to_string());
                }
            }
        }
        Ok(false)
    }

    /// Appends the first events of a new run in one append, and returns them as recorded.
    pub(crate) async fn begin(
        &self,
        run_id: &str,
        events: Vec<Event>,
    ) -> Result<Vec<RecordedEvent>, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        // Of two starts with the same id, the store accepts one.
        let append = Append::new(stream.clone(), events.clone()).with_expected(Expected::Empty);
        let last = match self.store.append_one(append).await {
            Ok(last) => last,
            Err(StoreError::Conflict { .. }) => {
                return Err(JournalError::Exists { run_id: run_id.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        // The events of one append have adjacent positions and versions, and the stream was empty.
        let first = last.position + 1 - last.version;
        let recorded = (1..).zip(events).map(|(version, event)| RecordedEvent {
            position: first + version - 1,
            stream: stream.clone(),
            version,
            event,
        });
        Ok(recorded.collect())
    }

    /// The row of a run in the read model.
    ///
    /// Includes runs that are marked as deleted, so that their ids are not taken for unknown.
    pub(crate) async fn row(&self, run_id: &str) -> Result<RunRecord, JournalError> {
        let filter = RunFilter {
            id: Some(run_id.to_owned()),
            include_deleted: true,
            ..RunFilter::default()
        };
        let row = self.store.runs(&filter, &PageRequest::first(1)).await?.rows.pop();
        row.ok_or_else(|| JournalError::UnknownRun { run_id: run_id.to_owned() })
    }

    /// The row of the current run in the chain of `run_id`: that of the run itself, unless it has
    /// continued as another run.
    pub(crate) async fn current(&self, run_id: &str) -> Result<RunRecord, JournalError> {
        let mut row = self.row(run_id).await?;
        while row.status == RunStatus::Continued
            && let Some(later) = self.later(&row).await?
        {
            row = later;
        }
        Ok(row)
    }

    /// A successor of a run: the last run of the chain, if it is known.
    ///
    /// The id of the last run is found at once for chains of this version; older ones are followed step
    /// by step.
    async fn later(&self, row: &RunRecord) -> Result<Option<RunRecord>, JournalError> {
        match self.last_of_chain(row).await? {
            Some(last) => Ok(Some(last)),
            None => self.next_of_chain(row).await,
        }
    }

    /// The direct successor of a run, according to its journal. Needed for runs of earlier versions,
    /// which did not record the first run of their chain.
    async fn next_of_chain(&self, row: &RunRecord) -> Result<Option<RunRecord>, JournalError> {
        let Some(continued) = self.continued(row).await? else { return Ok(None) };
        match self.row(&continued.run_id).await {
            Err(JournalError::UnknownRun { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// The last run in the chain of a run.
    ///
    /// All runs of a chain name the first one, so one indexed query finds them, however long the chain
    /// is. Runs that have continued are left out by their status.
    async fn last_of_chain(&self, row: &RunRecord) -> Result<Option<RunRecord>, JournalError> {
        // All but `Continued`.
        let statuses = [
            RunStatus::Running,
            RunStatus::Paused,
            RunStatus::Cancelling,
            RunStatus::Blocked,
            RunStatus::Completed,
            RunStatus::Failed,
            RunStatus::Cancelled,
        ];
        let filter = RunFilter {
            first_run_id: Some(row.first_run_id.clone().unwrap_or_else(|| row.id.clone())),
            statuses: statuses.to_vec(),
            include_deleted: true,
            ..RunFilter::default()
        };
        let mut page = PageRequest::first(PAGE);
        let mut rows = Vec::new();
        loop {
            let found = self.store.runs(&filter, &page).await?;
            rows.extend(found.rows);
            match found.next {
                Some(next) => page = next,
                None => return Ok(choose(rows)),
            }
        }
    }

    /// The event that started a run; `None` if there is no such run.
    pub(crate) async fn first(&self, run_id: &str) -> Result<Option<RecordedEvent>, JournalError> {
        Ok(self.store.read_stream(&StreamId::of_run(run_id)?, 0, 1).await?.pop())
    }

    /// The workflow of a run, its decoded start and the id of the start event; `None` if there is no
    /// such run or its journal does not begin with a start.
    pub(crate) async fn started(
        &self,
        run_id: &str,
    ) -> Result<Option<(String, Started, EventId)>, JournalError> {
        let Some(first) = self.first(run_id).await? else { return Ok(None) };
        Ok(match super::decode(&first.event)? {
            Entry::Started(started) => {
                Some((first.event.event_type.entity().to_owned(), *started, first.event.id))
            }
            _ => None,
        })
    }

    /// The entry with which a run continued as another run, if it did. `row` is its row.
    pub(crate) async fn continued(
        &self,
        row: &RunRecord,
    ) -> Result<Option<Continued>, JournalError> {
        let is_it = |recorded: &RecordedEvent| match super::decode(&recorded.event) {
            Ok(Entry::Continued(continued)) if recorded.stream.run_id() == Some(&row.id) => {
                Some(continued)
            }
            _ => None,
        };
        // The last event that changed the row is the one that ended the run.
        // A guess that saves reading the whole journal; the loop below is right for every journal.
        let last = self.store.read_log(row.position.saturating_sub(1), 1).await?;
        if let Some(continued) = last.first().and_then(is_it) {
            return Ok(Some(continued));
        }
        let stream = StreamId::of_run(&row.id)?;
        let mut after = 0;
        loop {
            let page = self.store.read_stream(&stream, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(None) };
            after = last.version;
            if let Some(continued) = page.iter().find_map(is_it) {
                return Ok(Some(continued));
            }
        }
    }

    /// The signals in the journal of a run, in the order in which they are applied.
    ///
    /// The whole journal is read: only a run that continues with signals that it has not taken needs
    /// this.
    pub(crate) async fn signals(
        &self,
        run_id: &str,
        workflow: &str,
    ) -> Result<Vec<(Signaled, Event)>, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        let mut after = 0;
        let mut signals = Vec::new();
        loop {
            let page = self.store.read_stream(&stream, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            for RecordedEvent { event, .. } in page {
                if event.event_type.segments() == (DOMAIN, workflow, SIGNALED)
                    && let Entry::Signaled(signal) = super::decode(&event)?
                {
                    signals.push((signal, event));
                }
            }
        }
        // See `Entry::sort_for_replay`.
        signals.sort_by_key(|(signal, _)| !signal.inherited);
        Ok(signals)
    }

    /// How a run ended, or why it is blocked; `None` if it is active.
    ///
    /// A blocked run counts here as well: a caller that waits for the result must learn that it will
    /// not come by itself.
    pub(crate) async fn ended(&self, run_id: &str) -> Result<Option<RunOutcome>, JournalError> {
        let row = self.row(run_id).await?;
        if !row.status.is_final() && row.status != RunStatus::Blocked {
            return Ok(None);
        }
        let continued_as = match row.status {
            RunStatus::Continued => self.later(&row).await?.map(|row| row.id.into()),
            _ => None,
        };
        let RunRecord { status, result, failure, .. } = row;
        Ok(Some(RunOutcome { status, result, failure, continued_as }))
    }
}

/// Chooses the current run of a chain among its runs that did not continue: the active run with the
/// lowest number, since its successor may already have been created; else the run that was started
/// last.
fn choose(rows: Vec<RunRecord>) -> Option<RunRecord> {
    // Started as the continuation of a run that then ended in another way: it never belonged to the
    // chain.
    let is_void = |row: &RunRecord| {
        row.failure.as_ref().is_some_and(|failure| failure.code == codes::NOT_CONTINUED)
    };
    let (ended, open): (Vec<_>, Vec<_>) =
        rows.into_iter().filter(|row| !is_void(row)).partition(|row| row.status.is_final());
    let open =
        open.into_iter().min_by_key(|row| (run_id::number_in_chain(&row.id), row.created_at));
    open.or_else(|| ended.into_iter().max_by_key(|row| row.created_at))
}

/// Metadata of the start of a run. The run id is the default correlation id.
///
/// The address for replies, the incarnation of another run and the mark of a copied event belong to what
/// the metadata was taken from, and are left out.
fn start_metadata(mut given: Metadata, run_id: &str) -> Metadata {
    unmark_copy(&mut given);
    let run_id: Arc<str> = run_id.into();
    let correlation_id = given.correlation_id.or_else(|| Some(Arc::clone(&run_id)));
    Metadata { correlation_id, run_id: Some(run_id), reply_to: None, incarnation: None, ..given }
}

/// The metadata of what a caller asks of a run: what the caller has set, and otherwise that of the run.
pub(crate) fn on_behalf_of(caller: &Metadata, of_run: Metadata) -> Metadata {
    // A state belongs to its trace.
    let trace = if caller.traceparent.is_some() { caller } else { &of_run };
    let (traceparent, tracestate) = (trace.traceparent.clone(), trace.tracestate.clone());
    Metadata {
        correlation_id: caller.correlation_id.clone().or(of_run.correlation_id),
        causation_id: caller.causation_id.clone().or(of_run.causation_id),
        user_id: caller.user_id.clone().or(of_run.user_id),
        traceparent,
        tracestate,
        ..of_run
    }
}
