//! Starting a run, perhaps together with signals.
//!
//! A start is one append to an empty stream. If the stream is not empty, the run exists, and the
//! start is compared with the recorded one:
//!
//! | start | existing run | result |
//! |---|---|---|
//! | without signals | same workflow and input | a handle of it |
//! | with signals | same workflow | the signals are sent to it |
//! | any | another workflow, or another input without signals | `RunExists` |
//!
//! So a caller that has lost an answer repeats the same start. Signals with an id are sent once.

use std::{
    collections::BTreeSet,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aios_core::{
    event::{Event, EventError, EventId, Metadata, Payload, Timestamp},
    projection::created,
    store::StoreError,
};
use serde::Serialize;

use super::{
    Client, RunHandle, RuntimeError,
    send::{Command, Earlier, check_metadata, request_id, send},
};
use crate::{
    options::check_span,
    workflow::{
        InvalidSignalName,
        journal::{Entry, JournalError, Journals, Signaled, Started, is_same},
        run_id,
    },
};

/// A run to be started. Awaiting it returns a [`RunHandle`] once the start is durable.
///
/// # Errors
///
/// - [`RuntimeError::UnknownWorkflow`] if the workflow is not registered in this runtime
/// - [`RuntimeError::RunExists`] if the id belongs to a run of another workflow or with another input
/// - [`RuntimeError::InvalidRunId`], [`RuntimeError::InvalidSignalName`], and
///   [`RuntimeError::InvalidConfiguration`] for a delay or metadata out of range, for two signals
///   with one id, or without a store
/// - [`RuntimeError::Event`] if the input or a signal cannot be serialised to JSON
/// - [`RuntimeError::EngineStopped`] if the engine of this runtime has stopped
/// - errors of the store
///
/// # Cancel safety
///
/// A cancelled start may or may not have started the run. Start it again with the same id.
///
/// # Examples
///
/// A request that is sent twice starts one run:
///
/// ```
/// use aios_agents::prelude::*;
///
/// # async fn order(_: WorkflowContext, item: String) -> Result<String, WorkflowError> { Ok(item) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .workflow("order", order)
/// #     .start()
/// #     .await?;
/// let first = runtime.start("order", "tea").id("order-7").await?;
/// let second = runtime.start("order", "tea").id("order-7").await?;
/// assert!(first.created().is_some() && second.created().is_none());
/// assert_eq!(second.result::<String>().await?, "tea");
///
/// // The same id with another input is a mistake, not a repetition.
/// let error = runtime.start("order", "milk").id("order-7").await.unwrap_err();
/// assert_eq!(error.code(), "RUN_EXISTS");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a run starts only when this is awaited"]
pub struct StartRun {
    /// An error if the runtime has no store; returned when this is awaited.
    client: Result<Client, RuntimeError>,
    /// Its latest version is taken.
    workflow: String,
    /// An error if it cannot be serialised to JSON; returned when this is awaited.
    input: Result<Payload, EventError>,
    /// A new UUID if `None`.
    run_id: Option<String>,
    /// Wins over `delay`.
    start_at: Option<Timestamp>,
    /// From the time of the start.
    delay: Option<Duration>,
    metadata: Metadata,
    /// Appended together with the start, in this order.
    signals: Vec<Signal>,
}

impl StartRun {
    /// A start with the default options.
    pub(super) fn new<T: Serialize + ?Sized>(
        client: Result<Client, RuntimeError>,
        workflow: &str,
        input: &T,
    ) -> Self {
        Self {
            client,
            workflow: workflow.to_owned(),
            input: Payload::encode(input),
            run_id: None,
            start_at: None,
            delay: None,
            metadata: Metadata::default(),
            signals: Vec::new(),
        }
    }

    /// Sets the id of the run; the default is a new UUID. An id has 1 to 200 bytes, and contains no
    /// control characters and no `~`, which is reserved for the ids of children and of continued
    /// runs.
    ///
    /// Starting a run again with the same id returns a handle for the existing run, if workflow and
    /// input are the same. Inputs are compared as JSON values; numbers are compared as text, so `1`
    /// and `1.0` differ.
    pub fn id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Schedules the run to begin at a time.
    pub fn at(mut self, start_at: Timestamp) -> Self {
        self.start_at = Some(start_at);
        self
    }

    /// Schedules the run to begin after a delay of at most 100 years.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the correlation id, user and trace context of all events that the run causes. At most
    /// 65,536 bytes of JSON, because every event of the run carries them.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sends a signal to the run together with its start. If a run of the same workflow exists, the
    /// signal is sent to it, whatever its input was. Can be called several times.
    pub fn signal<T: Serialize + ?Sized>(mut self, name: impl Into<Box<str>>, payload: &T) -> Self {
        let name = name.into();
        let payload = Payload::encode(payload);
        self.signals.push(Signal { name, payload, id: None });
        self
    }

    /// Sets the id of the signal that was added last, so that starting again with the same run id
    /// sends it only once, and succeeds even if the run has ended since. Without an id, each start
    /// sends the signal again.
    pub fn signal_id(mut self, id: impl Into<String>) -> Self {
        if let Some(signal) = self.signals.last_mut() {
            signal.id = Some(id.into());
        }
        self
    }

    /// Checks everything, then appends once.
    async fn start(mut self) -> Result<RunHandle, RuntimeError> {
        let client = self.client?;
        client.check()?;
        let journals = &client.journals;
        let registered = journals.registry.latest(&self.workflow);
        let unknown = || RuntimeError::UnknownWorkflow {
            workflow: self.workflow.clone(),
            registered: journals.registry.names(),
        };
        let version = registered.ok_or_else(unknown)?.workflow.version();
        let run_id = self.run_id.unwrap_or_else(|| EventId::generate().to_string());
        run_id::check_chosen(&run_id)?;
        let run_id: Arc<str> = run_id.into();
        if let Some(delay) = self.delay {
            let checked = check_span("the delay of a start", delay, Duration::ZERO);
            checked.map_err(|reason| RuntimeError::InvalidConfiguration { reason })?;
        }
        let metadata = self.metadata;
        check_metadata(&metadata)?;
        let start_at = self.start_at.or(self.delay.map(|delay| journals.clock.now() + delay));
        let input = self.input?;
        let signals = std::mem::take(&mut self.signals);
        check_signal_ids(&signals)?;
        let signals = signals.into_iter().map(|signal| signal.entry(&run_id));
        let signals = signals.collect::<Result<Vec<_>, RuntimeError>>()?;
        let mut started = Started::new(version, input.clone());
        started.start_at = start_at;
        let others = encode(journals, &self.workflow, &signals)?;
        // Announced before the append, so that the engine need not read the journal.
        let starting = client.engine.as_ref().map(|engine| engine.starting(&run_id));
        let mut row = None;
        match journals.start(&run_id, &self.workflow, started, others, metadata.clone()).await {
            Ok(journal) => {
                row = created(&journal);
                if let Some(starting) = starting {
                    starting.activate_new(journal);
                }
            }
            Err(JournalError::Exists { .. }) if signals.is_empty() => {
                same_start(&client, &run_id, &self.workflow, Some(&input)).await?;
            }
            // The store names the first of several known ids; the others are sent one by one.
            Err(error) if is_repeated(&error, &signals) => {
                same_start(&client, &run_id, &self.workflow, None).await?;
                for (entry, id) in &signals {
                    let earlier = Earlier::AnyCall;
                    let command = Command { entry, id, metadata: &metadata, earlier };
                    send(&client, &run_id, command, None).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(RunHandle::new(client, run_id).with_created(row))
    }
}

/// Refuses two signals with one id: the store would keep only one of them.
fn check_signal_ids(signals: &[Signal]) -> Result<(), RuntimeError> {
    let mut ids = BTreeSet::new();
    match signals.iter().filter_map(|signal| signal.id.as_deref()).find(|id| !ids.insert(*id)) {
        None => Ok(()),
        Some(id) => Err(RuntimeError::InvalidConfiguration {
            reason: format!("two signals of a start have the id {id:?}; each needs its own"),
        }),
    }
}

/// A signal that is sent with a start.
#[derive(Debug)]
struct Signal {
    /// Checked when the start is awaited.
    name: Box<str>,
    payload: Result<Payload, EventError>,
    /// Makes the id of the event, so that the signal is sent once.
    id: Option<String>,
}

impl Signal {
    /// Returns the journal entry and the id of its event.
    fn entry(self, run_id: &str) -> Result<(Entry, EventId), RuntimeError> {
        let id = match &self.id {
            Some(id) => request_id(run_id, "signal", id),
            None => EventId::generate(),
        };
        let name = self.name;
        InvalidSignalName::check(&name)?;
        let payload = self.payload?;
        Ok((Entry::Signaled(Signaled::new(name, payload)), id))
    }
}

/// Whether the run exists, or a signal with an id was sent before.
fn is_repeated(error: &JournalError, signals: &[(Entry, EventId)]) -> bool {
    match error {
        JournalError::Exists { .. } => true,
        JournalError::Store(StoreError::DuplicateEvent { id }) => {
            signals.iter().any(|(_, signal)| signal == id)
        }
        _ => false,
    }
}

/// The events of the signals, for the append of the start.
fn encode(
    journals: &Journals,
    workflow: &str,
    signals: &[(Entry, EventId)],
) -> Result<Vec<Event>, RuntimeError> {
    let codec = journals.codec(workflow)?;
    let event = |(entry, id): &(Entry, EventId)| {
        let record = codec.encode(entry.clone(), journals.clock.now(), Metadata::empty())?;
        Ok(record.event.with_id(id.clone()))
    };
    signals.iter().map(event).collect()
}

/// Checks that the existing run is of this workflow and has this input.
async fn same_start(
    client: &Client,
    run_id: &str,
    workflow: &str,
    input: Option<&Payload>,
) -> Result<(), RuntimeError> {
    let found = client.journals.started(run_id).await?;
    let is_same_start = found.is_some_and(|(found, started, _)| {
        // Another input with signals is accepted: the signals are for the run that exists.
        found == workflow && input.is_none_or(|input| is_same(&started.input, input))
    });
    match is_same_start {
        true => Ok(()),
        false => Err(RuntimeError::RunExists { run_id: run_id.to_owned() }),
    }
}

impl IntoFuture for StartRun {
    type Output = Result<RunHandle, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

/// Workflows that [`Runtime::start`](super::Runtime::start) can start: a name as text, or a [`WorkflowRef`](crate::WorkflowRef) with input
/// `I`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be started with an input of type `{I}`",
    note = "name the workflow as text; a `WorkflowRef` accepts its own input only"
)]
pub trait StartWorkflow<I: ?Sized> {
    /// The future that starts the run when awaited.
    type Start;

    /// Calls `start` with the name and returns the future.
    fn into_start(self, start: impl FnOnce(&str) -> StartRun) -> Self::Start;
}

#[diagnostic::do_not_recommend]
impl<N: AsRef<str>, I: ?Sized> StartWorkflow<I> for N {
    type Start = StartRun;

    fn into_start(self, start: impl FnOnce(&str) -> StartRun) -> StartRun {
        start(self.as_ref())
    }
}
