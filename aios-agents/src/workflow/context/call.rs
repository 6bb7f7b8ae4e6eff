//! The futures that the operations of a context return.
//!
//! `OperationCall` is the untyped one, which bindings of other languages use too. The typed calls wrap
//! it, add the options of their kind and decode the outcome. Steps have a future of their own (`step`),
//! because it polls the code of the user.
//!
//! Options may be set until the first poll: the request is a value in the call (`Fresh`) and becomes an
//! operation only then (`Asked`). A wrong option therefore can't be reported where it is set; the call
//! keeps the error and fails when it is polled. The number of the operation is reserved by `new`, at
//! the place of the call.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{agent::Name, event::Payload, retry::RetryPolicy};
use serde::de::DeserializeOwned;

use super::{
    SharedRun,
    decode::{Answer, decode_error},
    shared_run::OPERATION,
};
use crate::{
    options::{check_named, check_retry, check_span, check_timeout, refused},
    workflow::{WorkflowError, machine::Request},
};

/// An untyped operation. It begins when it is first polled and resolves to the recorded outcome.
///
/// The code sees an outcome only while it waits: nothing ends while it runs. A loop over
/// `(&mut operation).now_or_never()` therefore never sees one, and its waker, which does nothing, does
/// not resume the code either. Await the operation, or [`race`](fn@crate::workflow::race) it against
/// another one, such as a short timer.
///
/// # Cancel safety
///
/// Dropping it abandons the operation: a timer is removed, a task is cancelled. A replay drops it at
/// the same point. An operation that has begun and is dropped in a step, a spawned task or another run,
/// where a replay would not drop it, blocks the run with `OPERATION_OUTSIDE_WORKFLOW`.
#[derive(Debug)]
#[must_use = "an operation does nothing unless it is awaited"]
pub struct OperationCall {
    /// The run that the operation belongs to.
    shared: Arc<SharedRun>,
    /// Number of the operation; 0 if it was called outside of the code of its run.
    operation: u64,
    /// How far the call is.
    state: CallState,
    /// Names the operation in errors.
    subject: Subject,
}

/// The agent, workflow or signal that an error of the operation names.
#[derive(Debug)]
enum Subject {
    /// A task: the agent type.
    Agent(Name),
    /// A child: its workflow.
    Workflow(Name),
    /// A signal: its name.
    Signal(Box<str>),
    /// Anything else, which is named by its number alone.
    Other,
}

/// How far a call is.
#[derive(Debug)]
enum CallState {
    /// Not polled yet: what it will request, or why it will fail.
    Fresh(Result<Request, WorkflowError>),
    /// Requested; the outcome is not taken.
    Asked,
    /// Ended; nothing is left to abandon.
    Done,
}

impl OperationCall {
    /// Number of the operation in its run.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.operation
    }

    /// Whether the journal has the start of the operation.
    fn is_started(&self) -> bool {
        self.shared.machine().is_started(self.operation)
    }

    /// Reserves a number for the operation, unless the request is invalid or comes from outside of the
    /// code of the run: such a call fails when it is polled, and a number without an entry would shift
    /// those that follow.
    pub(super) fn new(shared: Arc<SharedRun>, request: Result<Request, WorkflowError>) -> Self {
        let request = shared.check_request(OPERATION).and(request);
        let operation = request.as_ref().map_or(0, |_| shared.reserve_awaited());
        let subject = match &request {
            Ok(Request::Task(task)) => Subject::Agent(task.agent_type.clone()),
            Ok(Request::Child(child)) => Subject::Workflow(child.workflow.clone()),
            Ok(Request::Signal { name, .. }) => Subject::Signal(name.clone()),
            _ => Subject::Other,
        };
        Self { shared, operation, state: CallState::Fresh(request), subject }
    }

    /// Registers the waker without taking the outcome. For workflows that are not written in Rust.
    pub fn advance(&mut self, context: &Context<'_>) {
        if matches!(self.state, CallState::Asked) {
            self.shared.wait(self.operation, context);
        }
    }

    /// Whether polling completes now. For workflows that are not written in Rust.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.is_released(self.operation)
    }

    /// Names the operation in the failure of the run.
    fn label(&self) -> String {
        let operation = self.operation;
        match &self.subject {
            Subject::Agent(name) => format!("task of agent \"{name}\" (operation {operation})"),
            Subject::Workflow(name) => format!("child \"{name}\" (operation {operation})"),
            Subject::Signal(name) => format!("signal {name:?} (operation {operation})"),
            Subject::Other => format!("operation {operation}"),
        }
    }

    /// Decodes the outcome. An error names its source and the expected type.
    fn decode<T: DeserializeOwned>(&self, payload: &Payload) -> Result<T, WorkflowError> {
        payload.decode().map_err(|error| {
            let operation = self.operation;
            let whose = match &self.subject {
                Subject::Agent(name) => format!("task {operation}: the output of agent \"{name}\""),
                Subject::Workflow(name) => {
                    format!("child {operation}: the result of workflow \"{name}\"")
                }
                Subject::Signal(name) => {
                    format!("operation {operation}: the payload of signal {name:?}")
                }
                Subject::Other => format!("operation {operation}: the outcome"),
            };
            decode_error::<T>(&whose, &error)
        })
    }

    /// Rejects invalid options: the call fails when it is polled.
    fn refuse(mut self, checked: Result<(), String>) -> Self {
        if let (Err(reason), CallState::Fresh(Ok(_))) = (checked, &self.state) {
            self.state = CallState::Fresh(Err(WorkflowError::failed(refused(reason))));
        }
        self
    }

    /// Changes a request that was not sent yet.
    fn adjust(mut self, adjust: impl FnOnce(&mut Request)) -> Self {
        if let CallState::Fresh(Ok(request)) = &mut self.state {
            adjust(request);
        }
        self
    }

    /// Validates the request again after it was adjusted.
    fn checked(mut self) -> Self {
        match std::mem::replace(&mut self.state, CallState::Done) {
            CallState::Fresh(request) => {
                self.state = CallState::Fresh(request.and_then(super::checked::checked));
            }
            other => self.state = other,
        }
        self
    }
}

impl Future for OperationCall {
    type Output = Result<Payload, WorkflowError>;

    /// Requests the operation at the first poll, then waits until its outcome is released.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.shared.check()?;
        if let CallState::Fresh(_) = self.state {
            match std::mem::replace(&mut self.state, CallState::Asked) {
                CallState::Fresh(Ok(request)) => self.shared.ask(self.operation, request),
                CallState::Fresh(Err(error)) => {
                    self.state = CallState::Done;
                    return Poll::Ready(Err(error));
                }
                CallState::Asked | CallState::Done => {}
            }
        }
        let polled = self.shared.poll_outcome(self.operation, context);
        if polled.is_ready() {
            self.state = CallState::Done;
        }
        polled.map_err(|failure| WorkflowError::of_operation(failure, self.operation, self.label()))
    }
}

impl Drop for OperationCall {
    /// Abandons an operation that was requested and whose outcome the code has not taken.
    fn drop(&mut self) {
        if matches!(self.state, CallState::Asked) {
            self.shared.abandon(self.operation);
        }
    }
}

/// Defines the typed calls: each wraps an [`OperationCall`] and decodes its outcome.
macro_rules! typed_call {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "an operation does nothing unless it is awaited"]
        pub struct $name<T> {
            call: OperationCall,
            result: PhantomData<fn() -> T>,
        }

        impl<T> $name<T> {
            pub(super) fn new(call: OperationCall) -> Self {
                Self { call, result: PhantomData }
            }

            fn adjust(self, adjust: impl FnOnce(&mut Request)) -> Self {
                Self::new(self.call.adjust(adjust))
            }

            #[allow(dead_code, reason = "not every call has options that can be wrong")]
            fn refuse(self, checked: Result<(), String>) -> Self {
                Self::new(self.call.refuse(checked))
            }
        }

        impl<T: Answer> Future for $name<T> {
            type Output = Result<T, WorkflowError>;

            fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let polled = Pin::new(&mut self.call).poll(context);
                polled.map(|outcome| self.call.decode(&outcome?))
            }
        }
    };
}

typed_call! {
    /// A task for an agent; resolves to the agent's output. See [`OperationCall`] for dropping it.
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
    /// async fn build(context: WorkflowContext, part: String) -> Result<String, WorkflowError> {
    ///     let policy = RetryPolicy::new().with_max_attempts(3).with_non_retryable("SYNTAX_ERROR");
    ///     context
    ///         .task("builder", &part)
    ///         .timeout(Duration::from_secs(600)) // of one attempt
    ///         .total_timeout(Duration::from_secs(3600)) // of all, with queues and delays
    ///         .retry(policy)
    ///         .await
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("build", build)?
    ///     .agent("builder", |part: String| Ok(format!("{part}.tar")))
    ///     .run("web")
    ///     .await;
    /// assert_eq!(run.result::<String>().unwrap(), "web.tar");
    /// # Ok(())
    /// # }
    /// ```
    TaskCall
}

typed_call! {
    /// A wait for a signal; resolves to the signal's payload. See [`OperationCall`] for dropping it.
    SignalCall
}

typed_call! {
    /// A child run; resolves to its result. Dropping the call, for example because it lost a race,
    /// leaves the child running: it remains a child of this run and is cancelled with it. It is
    /// cancelled at once with [`cancel_when_dropped`](ChildCall::cancel_when_dropped).
    ///
    /// # Examples
    ///
    /// A race whose loser stops as well:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn fastest(context: WorkflowContext, query: String) -> Result<String, WorkflowError> {
    ///     let engines = ["search_a", "search_b"];
    ///     let searches =
    ///         engines.map(|engine| context.child::<String>(engine, &query).cancel_when_dropped());
    ///     race(searches).await.1
    /// }
    /// # let _ = fastest;
    /// ```
    ChildCall
}

impl<T> TaskCall<T> {
    /// Sets the timeout of one attempt. Without it, an attempt may take indefinitely.
    ///
    /// A timeout of less than a millisecond, or more than 100 years, fails the call with
    /// `INVALID_OPTIONS`.
    pub fn timeout(self, timeout: Duration) -> Self {
        let adjusted = self.adjust(|request| {
            if let Request::Task(task) = request {
                task.timeout = Some(timeout);
            }
        });
        adjusted.refuse(check_timeout(Some(timeout)))
    }

    /// Sets the timeout of all attempts together, from the first assignment of the task to its result,
    /// including the time in queues and between attempts. After it the task fails with `TASK_TIMEOUT`.
    /// Without it, only the retry policy limits the attempts.
    ///
    /// A timeout of less than a millisecond, or more than 100 years, fails the call with
    /// `INVALID_OPTIONS`.
    pub fn total_timeout(self, timeout: Duration) -> Self {
        let adjusted = self.adjust(|request| {
            if let Request::Task(task) = request {
                task.total_timeout = Some(timeout);
            }
        });
        adjusted.refuse(check_named("total_timeout", Some(timeout)))
    }

    /// Sets the retry policy. The default is [`RetryPolicy::new`], five attempts.
    ///
    /// A policy with neither a limit of attempts nor a delay fails the call with `INVALID_OPTIONS`.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        let checked = check_retry("retry", &policy);
        let adjusted = self.adjust(|request| {
            if let Request::Task(task) = request {
                task.retry = policy;
            }
        });
        adjusted.refuse(checked)
    }
}

impl<T> SignalCall<T> {
    /// Sets how long to wait. After it the wait fails with `SIGNAL_TIMEOUT`. Without it, the wait may
    /// take indefinitely.
    ///
    /// A timeout of more than 100 years fails the call with `INVALID_OPTIONS`.
    pub fn timeout(self, limit: Duration) -> Self {
        let adjusted = self.adjust(|request| {
            if let Request::Signal { timeout, .. } = request {
                *timeout = Some(limit);
            }
        });
        adjusted.refuse(check_span("timeout", limit, Duration::ZERO))
    }
}

impl<T> ChildCall<T> {
    /// Sets the id of the child. Without it, the id is derived from this run's id and the operation. The
    /// call fails with `INVALID_RUN_ID` if the id is invalid, and with `RUN_EXISTS` if a run with this id
    /// exists that this operation did not start.
    ///
    /// The id of this run contains `~` if it is a child or continues another run, and no id that is chosen
    /// may: to make an id of that, replace the character, for example by `.`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn nightly(context: WorkflowContext, day: String) -> Result<(), WorkflowError> {
    ///     // A second run for the same day fails with `RUN_EXISTS` instead of reporting twice.
    ///     context.child::<()>("report", &day).id(format!("report-{day}")).await
    /// }
    /// # let _ = nightly;
    /// ```
    pub fn id(self, run_id: impl Into<String>) -> Self {
        let named = self.adjust(|request| {
            if let Request::Child(child) = request {
                child.run_id = Some(run_id.into());
            }
        });
        Self::new(named.call.checked())
    }

    /// Whether the journal has the start of the child. A compensation can wait for such a call, which
    /// resolves when the child has ended; a child that is started later is not cancelled with this
    /// run.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.call.is_started()
    }

    /// Leaves the child running if this run is cancelled. By default it is cancelled too, and its
    /// compensations run.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn deploy(context: WorkflowContext, host: String) -> Result<(), WorkflowError> {
    ///     context.task::<()>("installer", &host).await?;
    ///     // Once begun, the clean-up runs to its end, even if this run is cancelled.
    ///     context.child::<()>("clean_up", &host).leave_running().await
    /// }
    /// # let _ = deploy;
    /// ```
    pub fn leave_running(self) -> Self {
        self.adjust(|request| {
            if let Request::Child(child) = request {
                child.leave_running = true;
            }
        })
    }

    /// Cancels the child when the call is dropped, for example because it lost a race. The run does not
    /// end before the request to cancel it is durable. If the cancellation of this run drops the call, a
    /// child that is [left running](Self::leave_running) continues.
    pub fn cancel_when_dropped(self) -> Self {
        self.adjust(|request| {
            if let Request::Child(child) = request {
                child.cancel_when_dropped = true;
            }
        })
    }
}

/// A durable timer. See [`OperationCall`] for dropping it.
#[derive(Debug)]
#[must_use = "an operation does nothing unless it is awaited"]
pub struct SleepCall(OperationCall);

impl SleepCall {
    /// Makes a timer of a call that requests one.
    pub(super) fn new(call: OperationCall) -> Self {
        Self(call)
    }
}

impl Future for SleepCall {
    type Output = Result<(), WorkflowError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_ok(drop)
    }
}
