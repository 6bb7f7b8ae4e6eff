//! The context of a workflow: what its code may do.
//!
//! | file | what it has |
//! |---|---|
//! | `operations`, `values`, `compensation` | the methods of `WorkflowContext` |
//! | `call`, `step` | the futures that they return |
//! | `target`, `checked`, `decode` | what goes into a request, whether it is valid, and what comes out |
//! | `shared_run` | what the code and the driver share |
//! | `waiting`, `wakes` | the wakers of waiting operations, and how they are woken |
//!
//! A context is a handle: it may be cloned into branches and compensations. Every method checks that
//! this thread is polling the code of this very run, because a call from elsewhere would get a number
//! that depends on timing. Methods that return a `Result` or a call fail then; the others unwind.

mod call;
mod checked;
mod compensation;
mod decode;
mod operations;
mod shared_run;
mod step;
mod target;
mod values;
mod waiting;
mod wakes;

use std::{fmt, sync::Arc};

use aios_core::{
    agent::Name,
    event::{Event, EventError, Payload},
    failure::Failure,
    store::Fence,
};
use serde::Serialize;

use self::shared_run::OPERATION;
pub use self::{
    call::{ChildCall, OperationCall, SignalCall, SleepCall, TaskCall},
    decode::Answer,
    step::{StepCall, StepContext},
    target::Target,
};
pub(crate) use self::{shared_run::SharedRun, target::InvalidTarget};
use super::{
    WorkflowError,
    journal::{is_copy, unmark_copy},
    machine::Request,
};
use crate::output::OutputStream;

/// Information about a run.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// async fn title(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
///     let info = context.info();
///     Ok(format!("{} {} of version {}", info.workflow, info.run_id, info.version))
/// }
/// # let _ = title;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunInfo {
    /// Id of the run.
    pub run_id: Arc<str>,
    /// Name of the workflow.
    pub workflow: Name,
    /// Version of the workflow.
    pub version: u32,
    /// Id that the events of this run share with the request that started it.
    pub correlation_id: Option<Arc<str>>,
    /// W3C trace context of the run: its span; see [`trace`](crate::trace). In tests and replays, that of
    /// the caller, if there is one.
    pub traceparent: Option<Arc<str>>,
    /// Fencing token of the engine that advances the run; `None` in tests and replays.
    pub fence: Option<Fence>,
}

/// The operations available to the code of a workflow. Clones belong to the same run.
///
/// An operation gets its number when it is *called* and begins when it is first polled. Call
/// operations in the same order in every execution.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
/// # #[cfg(feature = "testing")]
/// use aios_agents::testing::WorkflowTest;
///
/// async fn order(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
///     let price: u32 = context.task("prices", &item).await?;
///     // The run uses no memory while it waits, and survives restarts.
///     context.sleep(Duration::from_secs(86_400)).await?;
///     let receipt: String = context.run("receipt", || async { format!("{item}: {price}") }).await?;
///     Ok(receipt)
/// }
///
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let run = WorkflowTest::new("order", order)?
///     .agent("prices", |_: String| Ok(4))
///     .run("tea")
///     .await;
/// assert_eq!(run.result::<String>().unwrap(), "tea: 4");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WorkflowContext {
    /// The machine and the wakers of this run.
    shared: Arc<SharedRun>,
    /// The part that does not change while the run is in memory.
    info: Arc<RunInfo>,
}

impl WorkflowContext {
    /// A context of a run that is being loaded.
    pub(crate) fn new(shared: Arc<SharedRun>, info: Arc<RunInfo>) -> Self {
        Self { shared, info }
    }

    /// Information about the run.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Id of the run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.info.run_id
    }

    /// Fencing token of the engine that advances the run; `None` in tests and replays.
    ///
    /// Pass it to external systems that steps write to. A system that keeps the highest epoch of a shard
    /// can reject writes of an engine that lost the shard. The token changes with the owner of the run,
    /// so nothing else may depend on it. A run that moves to another engine to find its code has another
    /// shard there, and epochs of different shards cannot be compared.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.info.fence
    }

    /// Appends an event to the log; the relay then publishes it to the broker. The event gets a new id
    /// and time, so that a replay emits nothing twice.
    ///
    /// # Errors
    ///
    /// A failure with the code `RESERVED_EVENT_TYPE` for an event of the domains `workflows`,
    /// `agents` and `system`, which are reserved for aios: in a journal such an event would be mistaken
    /// for an entry. `INVALID_EVENT_SOURCE` for an event with an empty source or a long one, which
    /// no consumer could parse. `OPERATION_OUTSIDE_WORKFLOW` outside of the code of the workflow.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn order(context: WorkflowContext, item: String) -> Result<(), WorkflowError> {
    ///     context.emit(Event::new("shop.order.placed".parse()?, "shop", &item)?)
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("order", order)?.run("tea").await;
    /// run.result::<()>().unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn emit(&self, mut event: Event) -> Result<(), WorkflowError> {
        self.shared.check_request(OPERATION)?;
        // Checked here and not when it is recorded: the code gets the error, and the run is not
        // blocked.
        let refused = |error: EventError| Failure::from_error(error.code(), &error);
        let checked = event.event_type.check_unreserved();
        let checked = checked.and_then(|()| Event::check_source(&event.source)).map_err(refused);
        checked.map_err(WorkflowError::failed)?;
        if is_copy(&event) {
            unmark_copy(event.metadata_mut());
        }
        self.request_completed(Request::Emit { event: Box::new(event) });
        Ok(())
    }

    /// Sets the status text of the run, which is visible to clients.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn build(context: WorkflowContext, part: String) -> Result<(), WorkflowError> {
    ///     // Recorded together with the start of the task, so it is visible while the task waits.
    ///     context.set_status(format!("waiting for a builder of {part}"));
    ///     context.task("builder", &part).await
    /// }
    /// # let _ = build;
    /// ```
    pub fn set_status(&self, text: impl Into<String>) {
        if self.shared.assert_current(OPERATION) {
            self.request_completed(Request::Status { text: text.into(), progress: None });
        }
    }

    /// Sets the status text and the progress of the run, which are visible to clients.
    ///
    /// # Errors
    ///
    /// If `progress` cannot be serialised to JSON, and with the code `OPERATION_OUTSIDE_WORKFLOW`
    /// outside of the code of the workflow.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn import(context: WorkflowContext, files: Vec<String>) -> Result<(), WorkflowError> {
    ///     for (done, file) in files.iter().enumerate() {
    ///         // `RunHandle::status`, the HTTP API and `aios runs` show it.
    ///         context.set_progress(format!("importing {file}"), &(done, files.len()))?;
    ///         context.task::<()>("importer", file).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let test = WorkflowTest::new("import", import)?.agent("importer", |_: String| Ok(()));
    /// test.run(&["a.csv", "b.csv"]).await.result::<()>().unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_progress(
        &self,
        text: impl Into<String>,
        progress: &(impl Serialize + ?Sized),
    ) -> Result<(), WorkflowError> {
        self.shared.check_request(OPERATION)?;
        let progress = Some(Payload::encode(progress)?);
        self.request_completed(Request::Status { text: text.into(), progress });
        Ok(())
    }

    /// An output stream of the run, named `[a-z][a-z0-9_]*` with at most 40 bytes, for the code of the
    /// workflow itself. Tasks and steps have their own writers, see
    /// [`StepContext::stream`](StepContext::stream).
    ///
    /// Output is not recorded in the journal. Code that is replayed writes the same items again, and
    /// they are stored once. Write only what follows from the journal: items that differ in a replay
    /// are ignored. Tests of workflows and replays of journals discard the output.
    ///
    /// # Errors
    ///
    /// A failure with the code `INVALID_OUTPUT_STREAM`, and with `OPERATION_OUTSIDE_WORKFLOW` outside
    /// of the code of the workflow.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn print(context: WorkflowContext, pages: Vec<String>) -> Result<(), WorkflowError> {
    ///     let printed = context.stream("printed")?;
    ///     for page in &pages {
    ///         context.task::<()>("printer", page).await?;
    ///         printed.write(page)?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = print;
    /// ```
    pub fn stream(&self, name: &str) -> Result<OutputStream, WorkflowError> {
        self.shared.check()?;
        let opened = self.shared.outputs().open(&self.info.run_id, name, || self.shared.key(0));
        opened.map_err(|error| WorkflowError::failed(Failure::from_error(error.code(), &error)))
    }

    /// Checks that operations can be requested here: only the code of the workflow can, while the
    /// engine polls it.
    ///
    /// # Errors
    ///
    /// A failure with the code `OPERATION_OUTSIDE_WORKFLOW` everywhere else.
    pub fn ensure_current(&self) -> Result<(), WorkflowError> {
        self.shared.check()
    }

    /// Like [`ensure_current`](Self::ensure_current), and checks that the code may make another request: at
    /// the limit of one poll, a request unwinds. For workflows that are not written in Rust.
    ///
    /// # Errors
    ///
    /// A failure with the code `OPERATION_OUTSIDE_WORKFLOW` outside of the code of the workflow, and with
    /// the code `WORKFLOW_BUSY` at the limit.
    pub fn ensure_request(&self) -> Result<(), WorkflowError> {
        self.shared.check_next()
    }

    /// Returns true while the workflow is being replayed, or dropped because the run leaves memory.
    ///
    /// Use it to skip side effects such as printing; `tracing` events are already suppressed during
    /// replay. The operations of the run must not depend on it.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn order(context: WorkflowContext, item: String) -> Result<(), WorkflowError> {
    ///     if !context.is_replaying() {
    ///         println!("an order of {item}");
    ///     }
    ///     context.task("warehouse", &item).await
    /// }
    /// # let _ = order;
    /// ```
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.shared.is_replaying()
    }

    /// Completes when the cancellation of the run was requested.
    pub(crate) async fn cancelled(&self) -> WorkflowError {
        std::future::poll_fn(|context| self.shared.poll_cancelled(context)).await
    }

    /// Requests an operation that completes immediately.
    fn request_completed(&self, request: Request) {
        let operation = self.shared.reserve();
        self.shared.ask(operation, request);
    }
}

impl fmt::Debug for WorkflowContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkflowContext").field("info", &self.info).finish_non_exhaustive()
    }
}
