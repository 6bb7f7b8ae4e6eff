use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aios_core::{BoxFuture, agent::TaskError, event::Payload, retry::RetryPolicy};
use serde::{Serialize, de::DeserializeOwned};

use super::Cell;
use crate::{
    panic::panic_failure,
    workflow::{WorkflowError, machine::Request},
};

type Attempt<'a> = BoxFuture<'a, Result<Payload, TaskError>>;

/// A piece of code whose result is recorded once.
///
/// # Cancel safety
///
/// Dropping it drops the code where it waits; nothing is recorded. A replay drops it at the same
/// place.
#[must_use = "a step does nothing unless it is awaited"]
pub struct StepCall<'a, T> {
    cell: Arc<Cell>,
    operation: u64,
    request: Option<(Box<str>, RetryPolicy)>,
    code: Box<dyn FnMut() -> Attempt<'a> + Send + 'a>,
    running: Option<Attempt<'a>>,
    done: bool,
    result: PhantomData<fn() -> T>,
}

impl<'a, T> StepCall<'a, T> {
    pub(super) fn new<E, F, Fut>(cell: Arc<Cell>, name: Box<str>, mut code: F) -> Self
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let code = Box::new(move || -> Attempt<'a> {
            let attempt = code();
            Box::pin(async move {
                let result = attempt.await.map_err(Into::into)?;
                Payload::encode(&result)
                    .map_err(|error| TaskError { retryable: false, ..TaskError::from(error) })
            })
        });
        let operation = cell.reserve();
        let request = Some((name, RetryPolicy::default()));
        Self { cell, operation, request, code, running: None, done: false, result: PhantomData }
    }

    /// Sets when a failed attempt is followed by another.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        if let Some((_, retry)) = &mut self.request {
            *retry = policy;
        }
        self
    }

    /// Lets the code go on, if it is its turn.
    fn advance(&mut self, context: &mut Context<'_>) {
        if self.running.is_none() {
            if !self.cell.machine().begin_step(self.operation) {
                return;
            }
            self.running = Some((self.code)());
        }
        let Some(running) = &mut self.running else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
        let outcome = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => Err(TaskError::retryable(panic_failure("STEP_PANICKED", &*panic))),
        };
        self.running = None;
        self.cell.step_ended(self.operation, outcome);
    }
}

impl<T: DeserializeOwned> Future for StepCall<'_, T> {
    type Output = Result<T, WorkflowError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some((name, retry)) = this.request.take() {
            this.cell.ask(this.operation, Request::Step { name, retry });
        }
        this.advance(context);
        let Poll::Ready(outcome) = this.cell.poll_outcome(this.operation, context) else {
            return Poll::Pending;
        };
        this.done = true;
        Poll::Ready(match outcome {
            Ok(payload) => payload.decode().map_err(WorkflowError::from),
            Err(failure) => Err(WorkflowError::failed(failure)),
        })
    }
}

impl<T> Drop for StepCall<'_, T> {
    fn drop(&mut self) {
        if self.request.is_none() && !self.done {
            self.cell.abandon(self.operation);
        }
    }
}

impl<T> fmt::Debug for StepCall<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StepCall")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}
