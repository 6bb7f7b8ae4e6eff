use std::{
    error::Error,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    agent::Name,
    event::{EventError, Payload},
    failure::Failure,
    retry::RetryPolicy,
};
use serde::de::DeserializeOwned;

use super::Cell;
use crate::{
    options::{check_named, check_retry, check_span, check_timeout, refused},
    workflow::{WorkflowError, machine::Request},
};

/// An operation as data: begins when it is first polled, ends with the recorded outcome.
///
/// # Cancel safety
///
/// Dropping it gives the operation up: a timer is forgotten, a task is cancelled. A replay drops it
/// at the same place.
#[derive(Debug)]
#[must_use = "an operation does nothing unless it is awaited"]
pub struct OperationCall {
    cell: Arc<Cell>,
    operation: u64,
    state: CallState,
    subject: Subject,
}

/// Whose outcome it is that may not fit its type.
#[derive(Debug)]
enum Subject {
    Agent(Name),
    Workflow(Name),
    Signal(Box<str>),
    Other,
}

#[derive(Debug)]
enum CallState {
    Fresh(Result<Request, WorkflowError>),
    Asked,
    Done,
}

impl OperationCall {
    /// Number of the operation in its run.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.operation
    }

    pub(super) fn new(cell: Arc<Cell>, request: Result<Request, WorkflowError>) -> Self {
        let request = cell.check().and(request);
        let operation = request.as_ref().map_or(0, |_| cell.reserve());
        let subject = match &request {
            Ok(Request::Task(task)) => Subject::Agent(task.agent_type.clone()),
            Ok(Request::Child(child)) => Subject::Workflow(child.workflow.clone()),
            Ok(Request::Signal { name, .. }) => Subject::Signal(name.clone()),
            _ => Subject::Other,
        };
        Self { cell, operation, state: CallState::Fresh(request), subject }
    }

    /// Waits on without taking the outcome; for workflows that are not written in Rust.
    pub fn advance(&mut self, context: &Context<'_>) {
        if matches!(self.state, CallState::Asked) {
            self.cell.wait(self.operation, context);
        }
    }

    /// Whether polling it now completes; for workflows that are not written in Rust.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.cell.is_released(self.operation)
    }

    /// Decodes the outcome; a failure says whose it is, and what it should be.
    fn decode<T: DeserializeOwned>(&self, payload: &Payload) -> Result<T, WorkflowError> {
        payload.decode().map_err(|error| {
            let operation = self.operation;
            let whose = match &self.subject {
                Subject::Agent(name) => format!("task {operation}: agent \"{name}\" answered"),
                Subject::Workflow(name) => {
                    format!("child {operation}: workflow \"{name}\" returned")
                }
                Subject::Signal(name) => format!("signal {name:?} (operation {operation}) carries"),
                Subject::Other => format!("operation {operation} recorded"),
            };
            misfit::<T>(&whose, &error)
        })
    }

    /// Refuses options that make no sense; the call then fails.
    fn refuse(mut self, checked: Result<(), String>) -> Self {
        if let (Err(reason), CallState::Fresh(Ok(_))) = (checked, &self.state) {
            self.state = CallState::Fresh(Err(WorkflowError::failed(refused(reason))));
        }
        self
    }

    fn adjust(mut self, adjust: impl FnOnce(&mut Request)) -> Self {
        if let CallState::Fresh(Ok(request)) = &mut self.state {
            adjust(request);
        }
        self
    }

    /// Checks again what was adjusted.
    fn checked(mut self) -> Self {
        match std::mem::replace(&mut self.state, CallState::Done) {
            CallState::Fresh(request) => {
                self.state = CallState::Fresh(request.and_then(super::checked));
            }
            other => self.state = other,
        }
        self
    }
}

impl Future for OperationCall {
    type Output = Result<Payload, WorkflowError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.check()?;
        if let CallState::Fresh(_) = self.state {
            match std::mem::replace(&mut self.state, CallState::Asked) {
                CallState::Fresh(Ok(request)) => self.cell.ask(self.operation, request),
                CallState::Fresh(Err(error)) => {
                    self.state = CallState::Done;
                    return Poll::Ready(Err(error));
                }
                CallState::Asked | CallState::Done => {}
            }
        }
        let polled = self.cell.poll_outcome(self.operation, context);
        if polled.is_ready() {
            self.state = CallState::Done;
        }
        polled.map_err(WorkflowError::failed)
    }
}

impl Drop for OperationCall {
    fn drop(&mut self) {
        if matches!(self.state, CallState::Asked) {
            self.cell.abandon(self.operation);
        }
    }
}

/// What a task, a signal or a child can resolve to: every type that serde can read and that borrows
/// nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the type of an answer",
    label = "this type can't be read from JSON",
    note = "name the type, as in `let answer: Plan = ...` or `context.task::<Plan>(...)`; use `()` if \
            it is nothing or `serde_json::Value` if it does not matter",
    note = "the type has to implement `serde::Deserialize` and own its data: `String`, not `&str`"
)]
pub trait Answer: DeserializeOwned {}

impl<T: DeserializeOwned> Answer for T {}

/// Says of what was recorded that it is no `T`.
pub(super) fn misfit<T>(whose: &str, error: &EventError) -> WorkflowError {
    let expected = short(std::any::type_name::<T>());
    let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let message = format!("{whose} what is no {expected}: {reason}");
    WorkflowError::failed(Failure::new("INVALID_RESULT", message))
}

/// A type without the paths of its parts.
fn short(type_name: &str) -> String {
    let (mut short, mut word) = (String::new(), String::new());
    for letter in type_name.chars() {
        match letter {
            ':' => word.clear(),
            letter if letter.is_alphanumeric() || letter == '_' => word.push(letter),
            letter => {
                short.push_str(&word);
                short.push(letter);
                word.clear();
            }
        }
    }
    short + &word
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
    TaskCall
}

typed_call! {
    /// A wait for a signal; resolves to what the signal carries. See [`OperationCall`] for dropping
    /// it.
    SignalCall
}

typed_call! {
    /// A child run; resolves to its result. Dropping the call, for example because it lost a race,
    /// leaves the child running: it still is a child of this run and is cancelled with it.
    ChildCall
}

impl<T> TaskCall<T> {
    /// Sets how long one attempt may take; without it, an attempt may take for ever.
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

    /// Sets how long all attempts together may take, from when the task is assigned first to its
    /// result, with the time in queues and between attempts. Then the failure is `TASK_TIMEOUT`.
    /// Without it, the retry policy alone ends the attempts.
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

    /// Sets when a failed attempt is followed by another.
    ///
    /// A policy without an end and without a delay fails the call with `INVALID_OPTIONS`.
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
    /// Sets how long to wait; then the failure is `SIGNAL_TIMEOUT`. Without it, the wait may take
    /// for ever.
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
    /// Sets the id of the child; without it, it is derived from this run's id and the operation. The
    /// call fails with `INVALID_RUN_ID` if no run can have this id, and with `RUN_EXISTS` if there is
    /// a run with it that this operation did not start.
    pub fn with_run_id(self, run_id: impl Into<String>) -> Self {
        let named = self.adjust(|request| {
            if let Request::Child(child) = request {
                child.run_id = Some(run_id.into());
            }
        });
        Self::new(named.call.checked())
    }

    /// Lets the child go on if this run is cancelled. By default it is cancelled too, and its
    /// compensations run.
    pub fn leave_running(self) -> Self {
        self.adjust(|request| {
            if let Request::Child(child) = request {
                child.leave_running = true;
            }
        })
    }
}

/// A durable timer. See [`OperationCall`] for dropping it.
#[derive(Debug)]
#[must_use = "an operation does nothing unless it is awaited"]
pub struct SleepCall(OperationCall);

impl SleepCall {
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
