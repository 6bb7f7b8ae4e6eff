use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{event::Payload, retry::RetryPolicy};
use serde::de::DeserializeOwned;

use super::Cell;
use crate::workflow::{WorkflowError, machine::Request};

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
}

#[derive(Debug)]
enum CallState {
    Fresh(Result<Request, WorkflowError>),
    Asked,
    Done,
}

impl OperationCall {
    pub(super) fn new(cell: Arc<Cell>, request: Result<Request, WorkflowError>) -> Self {
        let request = cell.check().and(request);
        let operation = request.as_ref().map_or(0, |_| cell.reserve());
        Self { cell, operation, state: CallState::Fresh(request) }
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
        }

        impl<T: DeserializeOwned> Future for $name<T> {
            type Output = Result<T, WorkflowError>;

            fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                Pin::new(&mut self.call).poll(context).map(|outcome| Ok(outcome?.decode()?))
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
    pub fn timeout(self, timeout: Duration) -> Self {
        self.adjust(|request| {
            if let Request::Task(task) = request {
                task.timeout = Some(timeout);
            }
        })
    }

    /// Sets how long all attempts together may take, from when the task is assigned first to its
    /// result, with the time in queues and between attempts. Then the failure is `TASK_TIMEOUT`.
    /// Without it, the retry policy alone ends the attempts.
    pub fn total_timeout(self, timeout: Duration) -> Self {
        self.adjust(|request| {
            if let Request::Task(task) = request {
                task.total_timeout = Some(timeout);
            }
        })
    }

    /// Sets when a failed attempt is followed by another.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.adjust(|request| {
            if let Request::Task(task) = request {
                task.retry = policy;
            }
        })
    }
}

impl<T> SignalCall<T> {
    /// Sets how long to wait; then the failure is `SIGNAL_TIMEOUT`. Without it, the wait may take
    /// for ever.
    pub fn timeout(self, limit: Duration) -> Self {
        self.adjust(|request| {
            if let Request::Signal { timeout, .. } = request {
                *timeout = Some(limit);
            }
        })
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
