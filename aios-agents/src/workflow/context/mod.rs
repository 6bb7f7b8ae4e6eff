mod call;
mod compensation;
mod shared_run;
mod step;
mod target;
mod waiting;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use aios_core::{
    agent::{Name, TaskError},
    event::{Event, EventError, Payload, Timestamp},
    failure::Failure,
    store::Fence,
};
use serde::Serialize;

pub(crate) use self::shared_run::SharedRun;
use self::step::AttemptStart;
pub use self::{
    call::{Answer, ChildCall, OperationCall, SignalCall, SleepCall, TaskCall},
    step::{StepCall, StepContext},
    target::Target,
};
use super::{
    WorkflowError,
    machine::{ChildRequest, Request, TaskRequest},
};
use crate::{
    agent::{codes::AGENT_NOT_FOUND, mailbox_of},
    options::{check_named, check_retry, check_span, check_timeout, refused},
    output::OutputStream,
    workflow::run_id::{self, InvalidRunId},
};

/// Information about a run.
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
#[derive(Clone)]
pub struct WorkflowContext {
    shared: Arc<SharedRun>,
    info: Arc<RunInfo>,
}

impl WorkflowContext {
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

    /// Assigns a task to an agent and waits for its result.
    pub fn task<T>(
        &self,
        agent: impl Into<Target>,
        parameters: &(impl Serialize + ?Sized),
    ) -> TaskCall<T> {
        let target = agent.into();
        let agent_type = Name::new(&target.agent_type).map_err(WorkflowError::from);
        let request = agent_type.and_then(|agent_type| {
            checked(Request::Task(Box::new(TaskRequest {
                agent_type,
                agent_id: target.agent_id,
                parameters: Payload::encode(parameters)?,
                timeout: None,
                total_timeout: None,
                retry: aios_core::retry::RetryPolicy::default(),
            })))
        });
        TaskCall::new(self.call(request))
    }

    /// Runs a piece of code and records its result once. The code may run again if the process dies
    /// before the result is recorded.
    ///
    /// After an error the closure is called again for the next attempt, according to the retry policy.
    pub fn step<'a, T, E, F, Fut>(&self, name: impl Into<Box<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        StepCall::new(Arc::clone(&self.shared), name.into(), move |_: AttemptStart<'_>| code())
    }

    /// Runs a piece of code that cannot fail and records its result, like [`step`](Self::step).
    pub fn run<'a, T, F, Fut>(&self, name: impl Into<Box<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = T> + Send + 'a,
    {
        let code = move |_: AttemptStart<'_>| {
            let value = code();
            async move { Ok::<_, TaskError>(value.await) }
        };
        StepCall::new(Arc::clone(&self.shared), name.into(), code)
    }

    /// Runs a piece of code like [`step`](Self::step), and passes it the number of the attempt and an
    /// idempotency key for external systems.
    pub fn step_with<'a, T, E, F, Fut>(
        &self,
        name: impl Into<Box<str>>,
        mut code: F,
    ) -> StepCall<'a, T>
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut(StepContext) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let code = move |start: AttemptStart<'_>| code(start.context());
        StepCall::new(Arc::clone(&self.shared), name.into(), code)
    }

    /// Sleeps on a durable timer.
    ///
    /// A duration of more than 100 years fails the call with `INVALID_OPTIONS`.
    pub fn sleep(&self, duration: Duration) -> SleepCall {
        SleepCall::new(self.call(checked(Request::Sleep { duration })))
    }

    /// Waits for a signal with this name. A signal that arrived earlier is taken as soon as the code is
    /// idle. Each signal is taken by one wait, in the order of arrival.
    pub fn signal<T>(&self, name: impl Into<Box<str>>) -> SignalCall<T> {
        SignalCall::new(self.call(Ok(Request::Signal { name: name.into(), timeout: None })))
    }

    /// Starts a run of another workflow and waits for its end. If this run is cancelled, so is the
    /// child, unless it is [left running](ChildCall::leave_running).
    pub fn child<T>(
        &self,
        workflow: impl AsRef<str>,
        input: &(impl Serialize + ?Sized),
    ) -> ChildCall<T> {
        let request = Name::new(workflow).map_err(WorkflowError::from).and_then(|workflow| {
            let input = Payload::encode(input)?;
            Ok(Request::Child(Box::new(ChildRequest {
                workflow,
                run_id: None,
                input,
                leave_running: false,
                cancel_when_dropped: false,
            })))
        });
        ChildCall::new(self.call(request))
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
    pub fn emit(&self, event: Event) -> Result<(), WorkflowError> {
        self.shared.check()?;
        let refused = |error: EventError| Failure::from_error(error.code(), &error);
        let checked = event.event_type.check_unreserved();
        let checked = checked.and_then(|()| Event::check_source(&event.source)).map_err(refused);
        checked.map_err(WorkflowError::failed)?;
        self.request_completed(Request::Emit { event: Box::new(event) });
        Ok(())
    }

    /// Sets the status text of the run, which is visible to clients.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    pub fn set_status(&self, text: impl Into<String>) {
        if self.shared.assert_current() {
            self.request_completed(Request::Status { text: text.into(), progress: None });
        }
    }

    /// Sets the status text and the progress of the run, which are visible to clients.
    ///
    /// # Errors
    ///
    /// If `progress` cannot be serialised to JSON, and with the code `OPERATION_OUTSIDE_WORKFLOW`
    /// outside of the code of the workflow.
    pub fn set_progress(
        &self,
        text: impl Into<String>,
        progress: &(impl Serialize + ?Sized),
    ) -> Result<(), WorkflowError> {
        self.shared.check()?;
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
    pub fn stream(&self, name: &str) -> Result<OutputStream, WorkflowError> {
        self.shared.check()?;
        let key = || self.shared.key(0);
        let opened = self.shared.outputs().open(&self.info.run_id, name, key);
        opened.map_err(|error| WorkflowError::failed(Failure::from_error(error.code(), &error)))
    }

    /// Requests an operation given as data. For workflows that are not written in Rust.
    pub fn operation(&self, request: Request) -> OperationCall {
        self.call(checked(request))
    }

    /// The time of the event that resumed the workflow. It is the same in every replay.
    ///
    /// # Panics
    ///
    /// Unwinds outside of the code of the workflow: in the code of a step, in a spawned task, or in
    /// the code of another run. A step then fails with the code `OPERATION_OUTSIDE_WORKFLOW`.
    ///
    /// Destructors also run when the code leaves memory because the run is idle or the engine stops,
    /// and while a panic unwinds. Methods that would unwind have no effect there, and their results mean
    /// nothing.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.assert_current();
        self.shared.machine().now()
    }

    /// A UUID that is the same in every replay and different in every call.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    #[must_use]
    pub fn uuid(&self) -> uuid::Uuid {
        if self.shared.assert_current() { self.shared.machine().draw() } else { uuid::Uuid::nil() }
    }

    /// A number from 0 (included) to 1 (excluded) that is the same in every replay and different in
    /// every call.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    #[must_use]
    pub fn random(&self) -> f64 {
        let bits = u32::try_from(self.uuid().as_u128() & 0xffff_ffff).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// The version of a change that this run follows, so that old and new code can coexist. New runs
    /// follow the newest version. Runs that executed this point before the change was made follow the
    /// oldest; a later operation in their journal shows that.
    ///
    /// # Errors
    ///
    /// Code `UNKNOWN_VERSION` if the run follows a version outside the range. Whatever the code does with
    /// the error, the run moves to an engine whose code supports that version, or is blocked until there
    /// is one. `INVALID_OPTIONS` if the range is empty. `OPERATION_OUTSIDE_WORKFLOW` outside of the code
    /// of the workflow.
    pub fn version(
        &self,
        change: impl AsRef<str>,
        versions: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, WorkflowError> {
        self.shared.check()?;
        let (oldest, newest) = versions.into_inner();
        if oldest > newest {
            let change = change.as_ref();
            let reason = format!("the versions of {change:?} range from {oldest} to {newest}");
            return Err(WorkflowError::failed(refused(reason)));
        }
        let version = self.shared.machine().version(change.as_ref(), oldest, newest);
        version.map_err(|failure| {
            self.shared.set_unknown_version(failure.clone());
            WorkflowError::failed(failure)
        })
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

    /// Completes when the cancellation of the run was requested.
    pub(crate) async fn cancelled(&self) -> WorkflowError {
        std::future::poll_fn(|context| self.shared.poll_cancelled(context)).await
    }

    fn call(&self, request: Result<Request, WorkflowError>) -> OperationCall {
        OperationCall::new(Arc::clone(&self.shared), request)
    }

    /// Requests an operation that completes immediately.
    fn request_completed(&self, request: Request) {
        let operation = self.shared.reserve();
        self.shared.ask(operation, request);
    }
}

/// Validates a request. Rejects durations that are too short or too long, a task for an agent whose id
/// cannot be part of a mailbox name, and a child with an invalid run id.
fn checked(request: Request) -> Result<Request, WorkflowError> {
    if let Request::Child(child) = &request
        && let Some(Err(invalid)) = child.run_id.as_deref().map(run_id::check_chosen)
    {
        return Err(WorkflowError::failed(Failure::from_error(InvalidRunId::CODE, &invalid)));
    }
    if let Request::Task(task) = &request
        && let Some(agent_id) = &task.agent_id
        && let Err(invalid) = mailbox_of(&task.agent_type, agent_id)
    {
        return Err(WorkflowError::failed(Failure::from_error(AGENT_NOT_FOUND, &invalid)));
    }
    let spans = match &request {
        Request::Task(task) => check_timeout(task.timeout)
            .and_then(|()| check_named("total_timeout", task.total_timeout))
            .and_then(|()| check_retry("retry", &task.retry)),
        Request::Signal { timeout: Some(timeout), .. } => {
            check_span("timeout", *timeout, Duration::ZERO)
        }
        Request::Sleep { duration } => check_span("sleep", *duration, Duration::ZERO),
        _ => Ok(()),
    };
    spans.map_err(|reason| WorkflowError::failed(refused(reason)))?;
    Ok(request)
}

impl fmt::Debug for WorkflowContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkflowContext").field("info", &self.info).finish_non_exhaustive()
    }
}
