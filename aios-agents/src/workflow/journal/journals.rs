use std::sync::Arc;

use aios_core::{
    agent::Segment,
    clock::Clock,
    event::{Event, EventError, EventId, Metadata},
    store::{
        Append, EventStore, Expected, PageRequest, ReadModels, RecordedEvent, RunFilter, RunRecord,
        RunStatus, StoreError, StreamId,
    },
};

use super::{Codec, Entry, Started};
use crate::{
    counted::CountedStore,
    workflow::engine::{Ended, Registry},
};

/// Why a journal could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("no workflow {workflow} is registered")]
    UnknownWorkflow { workflow: String },
    #[error("there is no run {run_id}")]
    UnknownRun { run_id: String },
    #[error("run {run_id} has ended: it is {status}")]
    Ended { run_id: String, status: RunStatus },
    #[error("run {run_id} exists already")]
    Exists { run_id: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Event(#[from] EventError),
}

impl JournalError {
    /// Whether the same may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

/// Reads and writes journals from outside: whoever does so need not own the runs.
#[derive(Clone, Debug)]
pub(crate) struct Journals {
    pub(crate) store: Arc<CountedStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) source: Arc<str>,
}

impl Journals {
    /// How the journals of a workflow are written, whether it is registered here or not.
    pub(crate) fn codec(&self, workflow: &str) -> Result<Arc<Codec>, JournalError> {
        if let Some(registered) = self.registry.latest(workflow) {
            return Ok(Arc::clone(&registered.codec));
        }
        let unknown = |_| JournalError::UnknownWorkflow { workflow: workflow.to_owned() };
        let name: Segment = workflow.parse().map_err(unknown)?;
        Ok(Arc::new(Codec::new(&name, Arc::clone(&self.source))?))
    }

    /// Appends the start of a run; repeating it is [`JournalError::Exists`].
    pub(crate) async fn start(
        &self,
        run_id: &str,
        workflow: &str,
        started: Started,
        metadata: Metadata,
    ) -> Result<RecordedEvent, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        let entry = Entry::Started(started);
        let record = self.codec(workflow)?.encode(entry, self.clock.now())?;
        let event = record.event.with_metadata(metadata);
        let append =
            Append::new(stream.clone(), vec![event.clone()]).with_expected(Expected::Empty);
        match self.store.append_one(append).await {
            Ok(appended) => {
                let (position, version) = (appended.position, appended.version);
                Ok(RecordedEvent { position, stream, version, event })
            }
            Err(StoreError::Conflict { .. }) => {
                Err(JournalError::Exists { run_id: run_id.to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends an entry to a run's journal without owning it. A run that has ended takes none.
    pub(crate) async fn append(
        &self,
        run_id: &str,
        entry: Entry,
        id: Option<EventId>,
    ) -> Result<(), JournalError> {
        let row = self.row(run_id).await?;
        self.append_to(&row, entry, id).await
    }

    /// As [`append`](Self::append), to the run of a row that was just read.
    pub(crate) async fn append_to(
        &self,
        row: &RunRecord,
        entry: Entry,
        id: Option<EventId>,
    ) -> Result<(), JournalError> {
        if row.status.is_final() {
            return Err(JournalError::Ended { run_id: row.id.clone(), status: row.status });
        }
        let event = self.codec(&row.workflow)?.encode(entry, self.clock.now())?.event;
        let event = match id {
            Some(id) => event.with_id(id),
            None => event,
        };
        self.keep(&row.id, event).await
    }

    /// Appends an event that somebody else made. A run that has ended takes none, whatever its row
    /// said a moment ago: the store closes the stream with the end.
    pub(crate) async fn keep(&self, run_id: &str, event: Event) -> Result<(), JournalError> {
        match self.store.append_one(Append::new(StreamId::of_run(run_id)?, vec![event])).await {
            Ok(_) => Ok(()),
            Err(StoreError::StreamClosed { .. }) => {
                let status = self.row(run_id).await?.status;
                Err(JournalError::Ended { run_id: run_id.to_owned(), status })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends the first events of a new run, all at once, and returns them as they were recorded.
    pub(crate) async fn begin_fork(
        &self,
        run_id: &str,
        events: Vec<Event>,
    ) -> Result<Vec<RecordedEvent>, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        let append = Append::new(stream.clone(), events.clone()).with_expected(Expected::Empty);
        let last = match self.store.append_one(append).await {
            Ok(last) => last,
            Err(StoreError::Conflict { .. }) => {
                return Err(JournalError::Exists { run_id: run_id.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let first = last.position + 1 - last.version;
        let recorded = (1..).zip(events).map(|(version, event)| RecordedEvent {
            position: first + version - 1,
            stream: stream.clone(),
            version,
            event,
        });
        Ok(recorded.collect())
    }

    /// What the read model says of a run.
    pub(crate) async fn row(&self, run_id: &str) -> Result<RunRecord, JournalError> {
        let filter = RunFilter {
            id: Some(run_id.to_owned()),
            include_deleted: true,
            ..RunFilter::default()
        };
        let row = self.store.runs(&filter, &PageRequest::first(1)).await?.rows.pop();
        row.ok_or_else(|| JournalError::UnknownRun { run_id: run_id.to_owned() })
    }

    /// How a run ended, or why it stands still; `None` if it goes on.
    pub(crate) async fn ended(&self, run_id: &str) -> Result<Option<Ended>, JournalError> {
        let row = self.row(run_id).await?;
        if !row.status.is_final() && row.status != RunStatus::Blocked {
            return Ok(None);
        }
        let continued_as = match row.status {
            RunStatus::Continued => self.successor(run_id).await?,
            _ => None,
        };
        let RunRecord { status, result, failure, .. } = row;
        Ok(Some(Ended { status, result, failure, continued_as }))
    }

    /// The run that a run continued as.
    async fn successor(&self, run_id: &str) -> Result<Option<Arc<str>>, JournalError> {
        let stream = StreamId::of_run(run_id)?;
        let mut after = 0;
        loop {
            let page = self.store.read_stream(&stream, after, 1000).await?;
            let Some(last) = page.last() else { return Ok(None) };
            after = last.version;
            for recorded in &page {
                if let Entry::Continued(next) = super::decode(&recorded.event)? {
                    return Ok(Some(next.run_id.into()));
                }
            }
        }
    }
}
