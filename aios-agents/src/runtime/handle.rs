//! The handle of a run: waiting for its result, and commands.
//!
//! Commands are entries in the journal of the run. Any process with the store can append them. The
//! engine that owns the run is woken directly if it is in this process, and finds the entry in the
//! log otherwise. A run that continues as another one passes commands on: they go to the current
//! run.

use std::sync::Arc;

use aios_core::{
    catalog::codes,
    event::{EventId, Metadata, Payload},
    failure::Failure,
    store::{EventStore, RecordedEvent, RunRecord, RunStatus, StoreError, StreamId},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Client, RunError, RunEvents, RuntimeError,
    send::{Command, Earlier, check_metadata, request_id, send},
};
use crate::{
    output::RunStream,
    workflow::{
        InvalidSignalName,
        journal::{CancelRequested, Entry, Signaled},
    },
};

/// A handle for a run, no matter which process advances it. Cloning is cheap; dropping it does not
/// affect the run.
///
/// If the run has continued as another one, every method refers to the current run, except
/// [`events`](Self::events) and [`stream`](Self::stream), which belong to the run with this id.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_core::store::RunStatus;
///
/// async fn publish(context: WorkflowContext, title: String) -> Result<String, WorkflowError> {
///     context.set_status("waits for an editor");
///     let editor: String = context.signal("approved").await?;
///     Ok(format!("{title}, approved by {editor}"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .workflow("publish", publish)
/// #     .start()
/// #     .await?;
/// let run = runtime.start("publish", "Notes").id("notes").await?;
/// run.signal("approved", "Ada").await?; // kept until the workflow waits for it
/// assert_eq!(run.result::<String>().await?, "Notes, approved by Ada");
/// assert_eq!(run.status().await?.status, RunStatus::Completed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RunHandle {
    /// Access to the store, and to the engine of this process.
    pub(super) client: Client,
    /// The id with which the run was started.
    run_id: Arc<str>,
    /// Makes commands idempotent; `None` repeats them.
    request_id: Option<Arc<str>>,
    /// The correlation, user and trace of the caller, as far as they are set.
    pub(super) metadata: Arc<Metadata>,
    /// See [`created`](Self::created).
    created: Option<Arc<RunRecord>>,
}

impl RunHandle {
    /// A handle of a run that is not known to exist.
    pub(super) fn new(client: Client, run_id: Arc<str>) -> Self {
        let metadata = Metadata::empty();
        Self { client, run_id, request_id: None, metadata, created: None }
    }

    /// Sets the row with which the run was created.
    pub(super) fn with_created(mut self, created: Option<RunRecord>) -> Self {
        self.created = created.map(Arc::new);
        self
    }

    /// The row with which the run was created, if the call that returned this handle created it; `None`
    /// if the run existed before. It is not read from the store, and shows none of the progress that
    /// the run has made since.
    #[must_use]
    pub fn created(&self) -> Option<&RunRecord> {
        self.created.as_deref()
    }

    /// Sets the id of the request on whose behalf this handle signals, cancels, pauses, resumes or
    /// forks the run. A handle with the same request id sends such a command only once, also from
    /// another process, so a request can be repeated after a crash. An id stands for one command.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::RunHandle;
    ///
    /// async fn pay(run: RunHandle, payment_id: &str, amount: u32) -> Result<(), aios_agents::RuntimeError> {
    ///     // The provider reports a payment more than once; the run gets one signal.
    ///     run.with_request_id(payment_id).signal("paid", &amount).await
    /// }
    /// # let _ = pay;
    /// ```
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Sets the correlation id, the user and the trace context on whose behalf this handle signals, cancels,
    /// pauses, resumes, forks or retries the run. They become part of the event of the command, or of the
    /// start of the new run and so of all events that it causes. What is not set stays as in the start of
    /// this run; so do the events that this run itself causes.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{RunHandle, RuntimeError};
    /// use aios_core::event::Metadata;
    ///
    /// async fn stop(run: RunHandle, operator: &str) -> Result<(), RuntimeError> {
    ///     let metadata = Metadata { user_id: Some(operator.into()), ..Metadata::default() };
    ///     run.with_metadata(metadata).cancel("maintenance").await
    /// }
    /// # let _ = stop;
    /// ```
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Arc::new(metadata);
        self
    }

    /// Id with which the run was started. It stays the same if the run continues as another one.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.run_id
    }

    /// Waits for the end of the run, and of the run that it continues as, and returns the result.
    /// Is notified promptly, no matter which process advances the run, and keeps waiting while the
    /// store is unavailable, and after a shutdown of this runtime. To limit the wait, drop the future.
    ///
    /// # Errors
    ///
    /// [`RunError`] tells why there is no result. A blocked run is an error here, but may resume
    /// later. [`RuntimeError::UnknownRun`] if retention has removed the run that it continued as;
    /// [`RuntimeError::Closed`] if the store is closed in the meantime.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Cancelling does not affect the run.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{RunError, prelude::*};
    ///
    /// async fn order(_: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
    ///     Err(WorkflowError::failed(Failure::new("SOLD_OUT", item)))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .workflow("order", order)
    /// #     .start()
    /// #     .await?;
    /// match runtime.start("order", "tea").await?.result::<u32>().await {
    ///     Ok(price) => println!("paid {price}"),
    ///     Err(RunError::Failed { failure, .. }) => assert_eq!(failure.code, "SOLD_OUT"),
    ///     // Deploy code that matches the journal, then wait again: the run is not lost.
    ///     Err(RunError::Blocked { failure, .. }) => println!("needs a developer: {failure}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, RunError> {
        // Each run of a chain ends for itself.
        let mut run_id = Arc::clone(&self.run_id);
        let ended = loop {
            let mut ended = self.client.ended(&run_id).await?;
            match ended.continued_as.take() {
                Some(next) => run_id = next,
                None => break ended,
            }
        };
        let run_id = run_id.to_string();
        let failure = ended.failure.unwrap_or_else(unexplained);
        match ended.status {
            RunStatus::Completed => ended
                .result
                .unwrap_or_default()
                .decode()
                .map_err(|source| RunError::InvalidResult { run_id, source }),
            RunStatus::Cancelled => Err(RunError::Cancelled { run_id, failure }),
            RunStatus::Blocked => Err(RunError::Blocked { run_id, failure }),
            // Retention has removed the run that it continued as.
            RunStatus::Continued => Err(RuntimeError::UnknownRun { run_id }.into()),
            _ => Err(RunError::Failed { run_id, failure }),
        }
    }

    /// Returns the current state of the run, the status that its workflow has set, and what it waits
    /// for that does not progress ([`RunRecord::waits_for`]). While the store is unavailable, it is read
    /// again for 30 s.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn status(&self) -> Result<RunRecord, RuntimeError> {
        let read = || async {
            let mut row = self.client.journals.current(&self.run_id).await?;
            row.waits_for = self.client.waits_for(&row).await?;
            Ok(row)
        };
        self.client.patiently(read).await
    }

    /// Sends a signal. It is kept until the workflow waits for it, even if the run continues as
    /// another one first. Its name has 1 to 200 bytes without control characters. While the store is
    /// unavailable, the signal is sent again for 30 s; it is recorded once. So are all commands.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidSignalName`]; [`RuntimeError::RunEnded`] if the run has ended; errors of
    /// the store.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the signal.
    pub async fn signal<T: Serialize + ?Sized>(
        &self,
        name: &str,
        payload: &T,
    ) -> Result<(), RuntimeError> {
        self.append(signaled(name, payload)?, self.request_event("command"), None).await
    }

    /// Sends a signal with an id. A signal with the same id is sent to the run only once, no matter
    /// whether [with its start](super::StartRun::signal_id) or later, and by which process. The id of the
    /// request is not used.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Cancel safety
    ///
    /// See [`signal`](Self::signal).
    pub async fn signal_with_id<T: Serialize + ?Sized>(
        &self,
        id: &str,
        name: &str,
        payload: &T,
    ) -> Result<(), RuntimeError> {
        self.append(signaled(name, payload)?, Some(request_id(&self.run_id, "signal", id)), None)
            .await
    }

    /// Requests cancellation of the run: its future is dropped at its current await point, and its
    /// compensations run. Its children are cancelled too, unless they were started to be left
    /// running. A paused run is cancelled without being resumed. Further requests have no effect
    /// unless the run is blocked; the first reason stays.
    ///
    /// A run that is cancelled before its result is recorded ends as cancelled.
    ///
    /// A run that is cancelled while it is blocked runs its compensations if matching code is available; if
    /// none is, or the store refuses what the code requests, it ends without the compensations that the
    /// code would have registered. A run that is blocked after it was cancelled keeps its compensations,
    /// and stays blocked until matching code is deployed or it is cancelled again.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Cancel safety
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{RunError, prelude::*};
    ///
    /// async fn forever(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    ///     context.signal("never").await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .workflow("forever", forever)
    /// #     .start()
    /// #     .await?;
    /// let run = runtime.start("forever", &()).await?;
    /// run.cancel("the customer left").await?; // durable; the compensations run now
    /// assert!(matches!(run.result::<()>().await, Err(RunError::Cancelled { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<(), RuntimeError> {
        let entry = Entry::CancelRequested(CancelRequested::new(reason.into()));
        self.command(entry, |status| status == RunStatus::Cancelling).await
    }

    /// Ends the run as cancelled without waiting for its compensations, for example because one of them
    /// never ends. Prefer [`cancel`](Self::cancel), which lets them finish.
    ///
    /// A running step is dropped, open tasks are cancelled, and so are the children that
    /// [`cancel`](Self::cancel) would cancel. Compensations that have not ended are given up, and so are
    /// children that they have started, which keep running. The failure of the run has the reason of the
    /// first request to cancel, and the detail `terminated` with this one. A run that is blocked because its
    /// journal can't be read stays blocked.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Cancel safety
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{RunHandle, RuntimeError};
    ///
    /// /// The compensation waits for a system that does not exist any more.
    /// async fn give_up(run: &RunHandle) -> Result<(), RuntimeError> {
    ///     run.cancel("the customer left").await?;
    ///     run.terminate("the booking system was shut down").await
    /// }
    /// # let _ = give_up;
    /// ```
    pub async fn terminate(&self, reason: impl Into<String>) -> Result<(), RuntimeError> {
        let mut request = CancelRequested::new(reason.into());
        request.terminates = true;
        self.command(Entry::CancelRequested(request), |_| false).await
    }

    /// Pauses the run: until it is resumed, it starts no task, step or child, emits nothing and
    /// does not end. Operations already in flight continue, and their results are recorded. Pausing
    /// a paused run has no effect.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal). [`RuntimeError::RunCancelling`] if the run is being cancelled,
    /// because a cancellation can't be paused.
    ///
    /// # Cancel safety
    ///
    /// See [`signal`](Self::signal).
    pub async fn pause(&self) -> Result<(), RuntimeError> {
        self.command(Entry::Paused, |status| status == RunStatus::Paused).await
    }

    /// Resumes a paused run, and retries a blocked one. Has no effect on other runs.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Cancel safety
    ///
    /// See [`signal`](Self::signal).
    pub async fn resume(&self) -> Result<(), RuntimeError> {
        let is_idle = |status| !matches!(status, RunStatus::Paused | RunStatus::Blocked);
        self.command(Entry::Resumed, is_idle).await
    }

    /// Appends a command, unless the run is already in the wanted state.
    async fn command(
        &self,
        entry: Entry,
        is_done: impl Fn(RunStatus) -> bool,
    ) -> Result<(), RuntimeError> {
        let current = || async { Ok(self.client.journals.current(&self.run_id).await?) };
        let row = self.client.patiently(current).await?;
        // A run that has ended is refused by the append, with its status.
        if !row.status.is_final() && is_done(row.status) {
            return Ok(());
        }
        if matches!(entry, Entry::Paused) && row.status == RunStatus::Cancelling {
            // The caller may repeat a pause that was recorded before the cancellation.
            let is_repeated = match self.request_event("command") {
                Some(id) => self.client.journals.has_recorded(&self.run_id, &id).await?,
                None => false,
            };
            return match is_repeated {
                true => Ok(()),
                false => Err(RuntimeError::RunCancelling { run_id: row.id }),
            };
        }
        self.append(entry, self.request_event("command"), Some(row)).await
    }

    /// The id of an event that is recorded on behalf of the request, if it has an id.
    pub(super) fn request_event(&self, part: &str) -> Option<EventId> {
        let id = self.request_id.as_ref()?;
        Some(request_id(&self.run_id, &format!("request/{part}"), id))
    }

    /// Appends an entry to the current run, whose row is read unless it was just read.
    async fn append(
        &self,
        entry: Entry,
        id: Option<EventId>,
        mut row: Option<RunRecord>,
    ) -> Result<(), RuntimeError> {
        check_metadata(&self.metadata)?;
        let mut earlier = if id.is_some() { Earlier::AnyCall } else { Earlier::Never };
        // The id keeps a repetition from being appended twice.
        let id = id.unwrap_or_else(EventId::generate);
        let attempt = || {
            let command = Command { entry: &entry, id: &id, metadata: &self.metadata, earlier };
            if earlier == Earlier::Never {
                earlier = Earlier::ThisCall;
            }
            send(&self.client, &self.run_id, command, row.take())
        };
        self.client.patiently(attempt).await
    }

    /// Returns a page of the run's journal: the events with a version above `after`, at most
    /// `limit`.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn journal(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, RuntimeError> {
        let current = self.client.journals.current(&self.run_id).await?;
        Ok(self.journal_of(&current.id, after, limit).await?)
    }

    /// A page of the journal of the run with exactly this id.
    pub(super) async fn journal_of(
        &self,
        run_id: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let stream = StreamId::of_run(run_id)?;
        self.client.journals.store.read_stream(&stream, after, limit).await
    }

    /// Follows the run with exactly this id, even if it has continued as another one. Returns its
    /// events with a version above `after`: first existing events, then new ones, up to the event
    /// that ends the run.
    #[must_use]
    pub fn events(&self, after: u64) -> RunEvents {
        RunEvents::new(self.client.journals.clone(), &self.run_id, after)
    }

    /// An output stream of the run with exactly this id: what its tasks, steps and code write while
    /// it works. The stream need not exist yet.
    ///
    /// # Examples
    ///
    /// Shows tokens of a language model while the task works:
    ///
    /// ```
    /// use aios_agents::{output::OutputContent, prelude::*};
    ///
    /// struct Writer;
    ///
    /// impl Agent for Writer {
    ///     type Parameters = String;
    ///     type Output = String;
    ///
    ///     async fn process_task(&self, context: &TaskContext, topic: String) -> Result<String, TaskError> {
    ///         let tokens = context.stream("tokens")?;
    ///         for token in ["All", " about ", &topic] {
    ///             tokens.write(token)?;
    ///         }
    ///         Ok(format!("All about {topic}"))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .agent("writer", Writer)
    /// #     .start()
    /// #     .await?;
    /// let run = runtime.task("writer", "tea").await?;
    /// let mut tokens = run.stream("tokens").read_from(0);
    /// let mut text = String::new();
    /// while let Some(item) = tokens.next().await {
    ///     match item?.content {
    ///         OutputContent::Item(token) => text += &token.decode::<String>()?,
    ///         OutputContent::Reset => text.clear(), // another attempt begins again
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(text, "All about tea");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stream(&self, name: &str) -> RunStream {
        RunStream::new(self.client.journals.clone(), Arc::clone(&self.run_id), name)
    }
}

/// The entry of a signal.
fn signaled<T: Serialize + ?Sized>(name: &str, payload: &T) -> Result<Entry, RuntimeError> {
    InvalidSignalName::check(name)?;
    Ok(Entry::Signaled(Signaled::new(name.into(), Payload::encode(payload)?)))
}

/// Used for a run that ended without a result and without a failure.
fn unexplained() -> Failure {
    Failure::new(codes::RUN_FAILED, "the run ended without an explanation")
}
