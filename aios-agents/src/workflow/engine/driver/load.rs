use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    sync::Arc,
};

use aios_core::{
    agent::{InvalidName, Name},
    catalog::workflow::DOMAIN,
    event::{Event, EventError, Metadata, Timestamp},
    failure::Failure,
    store::{EventStore, RecordedEvent, RunStatus, StoreError, StreamId},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Driver, Exit,
    children::Children,
    commit::failures,
    outgoing::Outgoing,
    place::{self, WORKFLOW_NOT_FOUND},
    successor::{Succession, take_over},
};
use crate::suggest::hint;
use crate::workflow::{
    Execution, RunInfo, WorkflowError,
    engine::{Ended, Engine, reads::Start},
    journal::{Blocked, Entry, Failed, JournalError, Record, Started, decode, seed_of},
};

/// Events read at once.
const PAGE: usize = 1000;
/// Entries replayed before others get a turn.
const BURST: usize = 256;

type Journal = Vec<(Entry, Timestamp)>;

impl Driver {
    /// Reads the journal and replays it.
    pub(super) async fn load(
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        journal: Option<Vec<RecordedEvent>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, Exit> {
        let stream = StreamId::of_run(run_id).map_err(failed)?;
        let (events, comes_back) = match journal {
            // Of a run that was just started, or whose predecessor has just ended.
            Some(journal) => (journal, false),
            None => {
                let journal = read(engine, &stream).await?;
                let comes_back = place::check(engine, run_id, &journal).await?;
                (Box::pin(take_over(engine, run_id, &stream, journal)).await?, comes_back)
            }
        };
        let Some(first) = events.first() else { return Err(Exit::Unknown) };
        let workflow = first.event.event_type.entity();
        let entries = events
            .iter()
            .map(|recorded| Ok((read_entry(workflow, &recorded.event)?, recorded.event.timestamp)))
            .collect::<Result<Journal, EventError>>()
            .map_err(unreadable)?;
        if let Some(ended) = entries.iter().rev().find_map(|(entry, _)| Ended::from_entry(entry)) {
            return Err(Exit::Ended(ended));
        }
        let Some((Entry::Started(started), _)) = entries.first() else {
            return Err(unreadable(EventError::InvalidType { text: run_id.to_string() }));
        };
        if let Some(failure) = stands_here(engine, &entries) {
            return Err(Exit::Ended(Ended::blocked(failure)));
        }
        let started = started.clone();
        let mut driver = Self::fresh(engine, run_id, stream, first, &started, &entries)?;
        driver.version = events.last().map_or(0, |last| last.version);
        driver.permit = permit;
        driver.enter(&started, &entries).await?;
        if comes_back {
            driver.come_back();
        }
        let failed = failures(entries.iter().map(|(entry, _)| entry));
        driver.replay(entries).await?;
        driver.decide_failures(failed);
        Ok(driver)
    }

    /// A driver that has applied nothing and has no code yet.
    fn fresh(
        engine: &Arc<Engine>,
        run_id: &Arc<str>,
        stream: StreamId,
        first: &RecordedEvent,
        started: &Started,
        entries: &Journal,
    ) -> Result<Self, Exit> {
        let fence = engine.ownership.fence_of(run_id).ok_or(Exit::Lost)?;
        let workflow = first.event.event_type.entity();
        let codec = engine.journals.codec(workflow).map_err(exit)?;
        let invalid = |_: InvalidName| EventError::InvalidType { text: workflow.to_owned() };
        let workflow: Name = workflow.parse().map_err(invalid).map_err(unreadable)?;
        let entries = entries.iter().map(|(entry, _)| entry);
        let declined = place::declined(entries.clone());
        let mut children = Children::default();
        entries.clone().for_each(|entry| children.note(entry));
        let incarnation_text: Arc<str> = first.event.id.to_string().into();
        let clock = Arc::clone(&engine.clock);
        let (incarnation, seed) = (Arc::clone(&incarnation_text), seed_of(&first.event, run_id));
        let execution =
            Execution::new(Arc::clone(run_id), incarnation, seed, entries.clone(), clock);
        Ok(Self {
            engine: Arc::clone(engine),
            run_id: Arc::clone(run_id),
            stream,
            workflow,
            workflow_version: started.version,
            codec,
            execution,
            fence,
            version: 0,
            metadata: origin(&first.event, run_id),
            incarnation: first.event.id.clone(),
            incarnation_text,
            parent: started.parent.clone(),
            succession: Succession::new(run_id, started),
            children,
            outbox: Vec::new(),
            answers: Vec::new(),
            append: None,
            outgoing: Outgoing::default(),
            deferred: BTreeMap::new(),
            missed: BTreeSet::new(),
            nudged: false,
            look_again: None,
            blocked: blocked(entries.clone()),
            unblocks: false,
            unwritten: None,
            cancel_requested: entries.clone().find_map(cancel_request),
            assigned: HashMap::new(),
            declined,
            is_leaving: false,
            turns: 0,
            watched_until: None,
            permit: None,
        })
    }

    /// Gives the run its code, unless its time has not come or there is none.
    async fn enter(&mut self, started: &Started, entries: &Journal) -> Result<(), Exit> {
        if is_premature(&self.engine, started, entries) {
            return self.wait_for_start(started);
        }
        let (workflow, version) = (self.workflow.clone(), started.version);
        let registry = Arc::clone(&self.engine.journals.registry);
        let Some(registered) = registry.find(workflow.as_str(), version) else {
            let message = format!(
                "no workflow {workflow} of version {version} is registered{}",
                hint("registered", workflow.as_str(), &registry.names())
            );
            return Err(self.block(Failure::new(WORKFLOW_NOT_FOUND, message)).await);
        };
        let traceparent = self.metadata.traceparent.clone();
        let (run_id, fence) = (Arc::clone(&self.run_id), Some(self.fence));
        let info = RunInfo { run_id, workflow, version, traceparent, fence };
        self.execution.enter(&*registered.workflow, info, started.input.clone());
        Ok(())
    }

    /// A run whose time has not come waits for it, unless somebody cancelled it.
    fn wait_for_start(&mut self, started: &Started) -> Result<(), Exit> {
        match (self.cancel_requested.clone(), started.start_at) {
            (Some(reason), _) => self.execution.cancel(reason),
            (None, Some(at)) => {
                self.engine.timers.set(at, &self.run_id, 0);
                return Err(Exit::Premature(Some(self.as_parked())));
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Applies the journal entry by entry and lets the code run in between.
    async fn replay(&mut self, journal: Journal) -> Result<(), Exit> {
        let mut entries = journal.into_iter();
        while !entries.as_slice().is_empty() {
            for (entry, at) in entries.by_ref().take(BURST) {
                self.execution.feed(entry, at);
            }
            poll_fn(|context| self.execution.poll(context)).await;
            if let Some(failure) = self.execution.misfit() {
                return Err(self.block(failure).await);
            }
            if !entries.as_slice().is_empty() {
                tokio::task::yield_now().await;
            }
        }
        if let Err(failure) = self.execution.go_live() {
            return Err(self.block(failure).await);
        }
        self.unblocks = self.blocked.is_some();
        self.engine.hosting.unhosted.remove(&self.run_id);
        Ok(())
    }

    /// Stops at code that does not fit, and says so in the journal if it does not say so already. A
    /// run that is to be cancelled ends, without the compensations that its code does not know, unless
    /// its children can't be cancelled.
    pub(super) async fn block(&mut self, failure: Failure) -> Exit {
        // Others may be loaded meanwhile.
        self.permit = None;
        self.outgoing.rest();
        self.children_cancelled().await;
        let (failure, cancelled) = match self.children.uncancelled() {
            // Its end would hide that its children go on.
            Some(uncancelled) => (self.engine.own_failure(uncancelled.clone()), None),
            None => match self.move_on(failure).await {
                Ok(failure) => (failure, self.cancel_requested.take()),
                Err(exit) => return exit,
            },
        };
        let (status, failure, entry) = match cancelled {
            None => (RunStatus::Blocked, failure.clone(), Entry::Blocked(Blocked { failure })),
            Some(reason) => {
                let details = serde_json::json!({ "blocked": failure });
                let failure = Failure::new(WorkflowError::CANCELLED, reason).with_details(details);
                (RunStatus::Cancelled, failure.clone(), Entry::Cancelled(Failed { failure }))
            }
        };
        let ended = Ended { status, result: None, failure: Some(failure), continued_as: None };
        if status == RunStatus::Blocked && self.blocked == ended.failure {
            return Exit::Ended(ended);
        }
        match self.append_last(entry).await {
            Ok(()) | Err(Exit::Unreadable(_)) => Exit::Ended(ended),
            Err(exit) => exit,
        }
    }

    pub(super) fn encode(&self, entry: Entry) -> Result<Record, EventError> {
        let mut record = self.codec.encode(entry, self.engine.clock.now())?;
        match &record.entry {
            Entry::TaskAssigned(task) => {
                let operation = task.data.task_id.run().map_or(0, |(_, operation)| operation);
                record.event.id = self.assignment_id(operation, task.data.attempt);
                record.event.metadata = self.task_metadata();
            }
            Entry::TaskCancelled(_) => record.event.metadata = self.task_metadata(),
            Entry::Other(_) => record.event.metadata.fill_from(&self.metadata),
            // The rows that a busy log has most of are kept small: the run is their cause.
            Entry::StepCompleted(_) => {
                record.event.metadata = Metadata { causation_id: None, ..self.metadata.clone() };
            }
            _ => record.event.metadata = self.metadata.clone(),
        }
        Ok(record)
    }
}

pub(super) async fn read(engine: &Engine, stream: &StreamId) -> Result<Vec<RecordedEvent>, Exit> {
    let Start { mut events, mut may_go_on } = engine.read_start(stream).await.map_err(failed)?;
    while may_go_on {
        let after = events.last().map_or(0, |last| last.version);
        let page = engine.store.read_stream(stream, after, PAGE).await.map_err(failed)?;
        may_go_on = page.len() >= PAGE;
        events.extend(page);
    }
    Ok(events)
}

fn failed(error: StoreError) -> Exit {
    Exit::Failed(error)
}

/// Why a run leaves memory whose journal could not be used.
pub(super) fn exit(error: JournalError) -> Exit {
    match error {
        JournalError::Store(error) => Exit::Failed(error),
        JournalError::Event(error) => Exit::Unreadable(error),
        other => Exit::Unreadable(EventError::InvalidType { text: other.to_string() }),
    }
}

/// Reads an entry of a run's journal. What carries the name of another workflow says nothing of
/// this run.
pub(super) fn read_entry(workflow: &str, event: &Event) -> Result<Entry, EventError> {
    match event.event_type.segments() {
        (DOMAIN, other, _) if other != workflow => Ok(Entry::Other(Box::new(event.clone()))),
        _ => decode(event),
    }
}

/// Why a run is blocked, if that would happen again in this engine.
fn stands_here(engine: &Engine, journal: &Journal) -> Option<Failure> {
    let failure = blocked(journal.iter().map(|(entry, _)| entry));
    failure.filter(|failure| engine.is_own_failure(failure))
}

fn unreadable(error: EventError) -> Exit {
    Exit::Unreadable(error)
}

/// Why a run is blocked, if it is, so that the same need not be said again. What others ask of it
/// hides the block from those who look, so it is said again after that.
fn blocked<'a>(journal: impl Iterator<Item = &'a Entry>) -> Option<Failure> {
    journal.fold(None, |blocked, entry| match entry {
        Entry::Blocked(block) => Some(block.failure.clone()),
        Entry::Unblocked | Entry::Paused | Entry::Resumed | Entry::CancelRequested(_) => None,
        _ => blocked,
    })
}

fn cancel_request(entry: &Entry) -> Option<String> {
    match entry {
        Entry::CancelRequested(request) => Some(request.reason.clone()),
        _ => None,
    }
}

/// Whether the time of a run has not come, and nothing of it has begun.
fn is_premature(engine: &Engine, started: &Started, journal: &Journal) -> bool {
    let begun = |(entry, _): &(Entry, Timestamp)| entry.operation().is_some();
    started.start_at.is_some_and(|at| at > engine.clock.now()) && !journal.iter().any(begun)
}

/// What the events of a run carry: what its start says, and the start as their cause.
pub(in super::super) fn origin(started: &Event, run_id: &Arc<str>) -> Metadata {
    let theirs = &started.metadata;
    Metadata {
        correlation_id: theirs.correlation_id.clone().or_else(|| Some(Arc::clone(run_id))),
        causation_id: Some(started.id.to_string().into()),
        user_id: theirs.user_id.clone(),
        traceparent: theirs.traceparent.clone(),
        tracestate: theirs.tracestate.clone(),
        run_id: Some(Arc::clone(run_id)),
        extra: theirs.extra.clone(),
        ..Metadata::default()
    }
}
