mod call;
mod cell;
mod step;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use aios_core::{
    agent::{InvalidName, Name, TaskError},
    event::{Event, EventError, Payload, Timestamp},
    failure::Failure,
    store::Fence,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::cell::{Cell, Compensation};
use self::step::Beginning;
pub use self::{
    call::{Answer, ChildCall, OperationCall, SignalCall, SleepCall, TaskCall},
    step::{StepCall, StepContext},
};
use super::{
    WorkflowError,
    machine::{ChildRequest, Request, TaskRequest},
};
use crate::{
    agent::{codes::AGENT_NOT_FOUND, mailbox_of},
    options::{check_named, check_retry, check_span, check_timeout, refused},
    workflow::run_id::{self, InvalidRunId},
};

/// What a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// Its id.
    pub run_id: Arc<str>,
    /// Its workflow.
    pub workflow: Name,
    /// Version of its workflow.
    pub version: u32,
    /// W3C trace context of whoever started it.
    pub traceparent: Option<Arc<str>>,
    /// Proof that the engine which advances it owns it; `None` in tests and replays.
    pub fence: Option<Fence>,
}

/// What the code of a workflow may ask for. Clones belong to the same run.
///
/// Every operation gets the next number where it is *called*, and begins where it is first polled.
/// Call them in the same order in every execution.
#[derive(Clone)]
pub struct WorkflowContext {
    cell: Arc<Cell>,
    info: Arc<RunInfo>,
}

/// Who is to do a task: any agent of a type, `"backend"`, or one agent, `("backend", "backend-1")`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    agent_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
}

/// Any agent of a type.
macro_rules! from_type {
    ($($text:ty),+) => {$(
        impl From<$text> for Target {
            fn from(agent_type: $text) -> Self {
                let agent_type: &str = agent_type.as_ref();
                Self { agent_type: agent_type.to_owned(), agent_id: None }
            }
        }
    )+};
}

from_type!(&str, &&str, String, &String, Box<str>, Arc<str>, &Arc<str>, std::borrow::Cow<'_, str>);

/// One agent of a type, by id.
impl<T: AsRef<str>, I: Into<String>> From<(T, I)> for Target {
    fn from((agent_type, agent_id): (T, I)) -> Self {
        Self::agent(agent_type, agent_id)
    }
}

impl Target {
    /// One agent of a type, by id.
    #[must_use]
    pub fn agent(agent_type: impl AsRef<str>, agent_id: impl Into<String>) -> Self {
        Self { agent_type: agent_type.as_ref().to_owned(), agent_id: Some(agent_id.into()) }
    }

    /// The target, if its type can be the name of one.
    pub(crate) fn checked(self) -> Result<Self, InvalidName> {
        Name::new(&self.agent_type).map(|_| self)
    }
}

impl WorkflowContext {
    pub(crate) fn new(cell: Arc<Cell>, info: Arc<RunInfo>) -> Self {
        Self { cell, info }
    }

    /// The run that this is.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Id of the run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.info.run_id
    }

    /// Proof that the engine which advances the run owns it, for steps that write to systems outside: one
    /// that keeps the highest epoch of a shard can refuse what comes from an engine that lost it. It
    /// changes with the owner, so nothing else may depend on it. A run that moved to an engine which has
    /// its code has another shard there, and epochs of different shards can't be compared. `None` in tests
    /// and replays.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.info.fence
    }

    /// Gives a task to an agent and waits for its answer.
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

    /// Runs a piece of code and records its result, once. It may run again if the process dies
    /// before the result is recorded.
    ///
    /// The closure runs again for another attempt after an error, as the retry policy says.
    pub fn step<'a, T, E, F, Fut>(&self, name: impl Into<Box<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        StepCall::new(Arc::clone(&self.cell), name.into(), move |_: Beginning<'_>| code())
    }

    /// Runs a piece of code that can't fail, as [`step`](Self::step) does.
    pub fn run<'a, T, F, Fut>(&self, name: impl Into<Box<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = T> + Send + 'a,
    {
        let code = move |_: Beginning<'_>| {
            let value = code();
            async move { Ok::<_, TaskError>(value.await) }
        };
        StepCall::new(Arc::clone(&self.cell), name.into(), code)
    }

    /// Runs a piece of code, as [`step`](Self::step) does, and tells it which attempt it is and a
    /// key by which outside systems recognise a repetition.
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
        let code = move |beginning: Beginning<'_>| code(beginning.context());
        StepCall::new(Arc::clone(&self.cell), name.into(), code)
    }

    /// Waits; the timer is durable.
    ///
    /// A duration of more than 100 years fails the call with `INVALID_OPTIONS`.
    pub fn sleep(&self, duration: Duration) -> SleepCall {
        SleepCall::new(self.call(checked(Request::Sleep { duration })))
    }

    /// Waits for a signal with this name. One that came before is taken as soon as the code waits
    /// for nothing else; each is taken by one wait, in the order of their coming.
    pub fn signal<T>(&self, name: impl Into<Box<str>>) -> SignalCall<T> {
        SignalCall::new(self.call(Ok(Request::Signal { name: name.into(), timeout: None })))
    }

    /// Starts a run of another workflow and waits for its end. If this run is cancelled, so is the
    /// child, unless it is to be [left running](ChildCall::leave_running).
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
            })))
        });
        ChildCall::new(self.call(request))
    }

    /// Appends an event to the log, from where it is relayed to the broker. Its id and time are set
    /// anew, so that a replay emits nothing twice.
    ///
    /// # Errors
    ///
    /// A failure with the code `RESERVED_EVENT_TYPE` for an event of the domains `workflows`,
    /// `agents` and `system`, which aios itself writes: in a journal it would be taken for what
    /// happened to the run. `OPERATION_OUTSIDE_WORKFLOW` outside of the code of the workflow.
    pub fn emit(&self, event: Event) -> Result<(), WorkflowError> {
        self.cell.check()?;
        let reserved = |error: EventError| Failure::from_error(error.code(), &error);
        let checked = event.event_type.check_unreserved().map_err(reserved);
        checked.map_err(WorkflowError::failed)?;
        self.tell(Request::Emit { event: Box::new(event) });
        Ok(())
    }

    /// Says what the workflow is doing, for those who look from outside.
    ///
    /// # Panics
    ///
    /// As [`now`](Self::now).
    pub fn set_status(&self, text: impl Into<String>) {
        self.cell.insist();
        self.tell(Request::Status { text: text.into(), progress: None });
    }

    /// Says what the workflow is doing, and how far it is.
    ///
    /// # Errors
    ///
    /// If `progress` can't be JSON, and with the code `OPERATION_OUTSIDE_WORKFLOW` outside of the
    /// code of the workflow.
    pub fn set_progress(
        &self,
        text: impl Into<String>,
        progress: &(impl Serialize + ?Sized),
    ) -> Result<(), WorkflowError> {
        self.cell.check()?;
        let progress = Some(Payload::encode(progress)?);
        self.tell(Request::Status { text: text.into(), progress });
        Ok(())
    }

    /// Asks for an operation as data; for workflows that are not written in Rust.
    pub fn operation(&self, request: Request) -> OperationCall {
        self.call(checked(request))
    }

    /// Runs `undo` if the run fails or is cancelled later. Compensations run in reverse order, each
    /// with all operations at hand; one that fails does not keep the others from running.
    ///
    /// # Panics
    ///
    /// As [`now`](Self::now).
    pub fn compensate<F, Fut>(&self, name: impl Into<Box<str>>, undo: F)
    where
        F: FnOnce(Self) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), WorkflowError>> + Send + 'static,
    {
        self.cell.insist();
        let undo = Box::new(move |context| -> aios_core::BoxFuture<'static, _> {
            Box::pin(undo(context))
        });
        self.cell.push_compensation(Compensation { name: name.into(), undo });
    }

    /// The time of the event that let the workflow go on: the same in every replay.
    ///
    /// # Panics
    ///
    /// Unwinds outside of the code of the workflow: in the code of a step, in a spawned task, in
    /// the code of another run. A step fails with the code `OPERATION_OUTSIDE_WORKFLOW` then.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.cell.insist();
        self.cell.machine().now()
    }

    /// A UUID that is the same in every replay and different in every call.
    ///
    /// # Panics
    ///
    /// As [`now`](Self::now).
    #[must_use]
    pub fn uuid(&self) -> uuid::Uuid {
        self.cell.insist();
        self.cell.machine().draw()
    }

    /// A number from 0 (included) to 1 (excluded) that is the same in every replay and different in
    /// every call.
    ///
    /// # Panics
    ///
    /// As [`now`](Self::now).
    #[must_use]
    pub fn random(&self) -> f64 {
        let bits = u32::try_from(self.uuid().as_u128() & 0xffff_ffff).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// Which version of a change this run follows, so that old and new code live side by side. New
    /// runs follow the newest; runs that passed here before the change was made, as an operation
    /// after it in their journal shows, the oldest.
    ///
    /// # Errors
    ///
    /// Code `UNKNOWN_VERSION` if the run follows a version outside the range, whatever the code makes of
    /// it: the run moves to an engine whose code knows that version, or is blocked until there is one.
    /// `OPERATION_OUTSIDE_WORKFLOW` outside of the code of the workflow.
    pub fn version(
        &self,
        change: impl AsRef<str>,
        versions: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, WorkflowError> {
        self.cell.check()?;
        let (oldest, newest) = versions.into_inner();
        let version = self.cell.machine().version(change.as_ref(), oldest, newest);
        version.map_err(|failure| {
            self.cell.refuse_version(failure.clone());
            WorkflowError::failed(failure)
        })
    }

    /// Fails with the code `OPERATION_OUTSIDE_WORKFLOW` where operations can't be asked for:
    /// anywhere but in the code of the workflow, as the engine polls it.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn ensure_current(&self) -> Result<(), WorkflowError> {
        self.cell.check()
    }

    /// Completes when somebody asked to cancel the run.
    pub(crate) async fn cancelled(&self) -> WorkflowError {
        std::future::poll_fn(|context| self.cell.poll_cancelled(context)).await
    }

    fn call(&self, request: Result<Request, WorkflowError>) -> OperationCall {
        OperationCall::new(Arc::clone(&self.cell), request)
    }

    /// Asks for an operation that is over at once.
    fn tell(&self, request: Request) {
        let operation = self.cell.reserve();
        self.cell.ask(operation, request);
    }

    pub(crate) fn take_compensation(&self) -> Option<Compensation> {
        self.cell.pop_compensation()
    }
}

/// Refuses times that are over at once or never. Refuses a task for an agent whose id can't be part of a mailbox's name: no agent has it. Refuses a
/// child with an id that no run can have.
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
