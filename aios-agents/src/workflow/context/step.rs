use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aios_core::{BoxFuture, agent::TaskError, event::Payload, retry::RetryPolicy};
use serde::{Serialize, de::DeserializeOwned};

use super::{Cell, call::misfit};
use crate::{
    options::{check_retry, check_timeout, refused},
    panic::{Refused, panic_failure},
    workflow::{WorkflowError, machine::Request, turn::Turn},
};

type Attempt<'a> = BoxFuture<'a, Result<Payload, TaskError>>;

/// What the code of a step knows of its attempt; see
/// [`step_with`](super::WorkflowContext::step_with).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepContext {
    attempt: u32,
    key: Box<str>,
}

impl StepContext {
    /// Number of the attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The same text in every attempt of this step and in no other step, also if a later run uses
    /// the id of this one again: hand it to outside systems, so that they recognise a repetition.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.key
    }
}

/// An attempt that begins.
pub(super) struct Beginning<'c> {
    cell: &'c Cell,
    operation: u64,
    attempt: u32,
}

impl Beginning<'_> {
    /// What the code may know of it.
    pub(super) fn context(&self) -> StepContext {
        StepContext { attempt: self.attempt, key: self.cell.key(self.operation).into() }
    }
}

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
    state: StepState,
    code: Box<dyn FnMut(Beginning<'_>) -> Attempt<'a> + Send + 'a>,
    running: Option<Running<'a>>,
    result: PhantomData<fn() -> T>,
}

enum StepState {
    Fresh { name: Box<str>, timeout: Option<Duration>, retry: RetryPolicy },
    Asked,
    Done,
    Refused(WorkflowError),
}

/// An attempt that runs.
struct Running<'a> {
    number: u32,
    code: Attempt<'a>,
    nudge: Arc<Nudge>,
    waker: Waker,
}

/// Wakes the code of a step and nothing else: the code of the workflow goes on by entries only.
struct Nudge {
    cell: Weak<Cell>,
    operation: u64,
    rung: AtomicBool,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let Some(cell) = self.cell.upgrade() else { return };
        match Turn::current() {
            Turn::Step(run) if run == cell.run() => cell.nudge(self.operation),
            _ => cell.wake_step(self.operation),
        }
    }
}

impl<'a, T> StepCall<'a, T> {
    /// Number of the operation in its run.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.operation
    }

    pub(super) fn new<E, F, Fut>(cell: Arc<Cell>, name: Box<str>, mut code: F) -> Self
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut(Beginning<'_>) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let code = Box::new(move |beginning: Beginning<'_>| -> Attempt<'a> {
            let attempt = code(beginning);
            Box::pin(async move {
                let result = attempt.await.map_err(Into::into)?;
                Payload::encode(&result)
                    .map_err(|error| TaskError { retryable: false, ..TaskError::from(error) })
            })
        });
        let (operation, state) = match cell.check() {
            Ok(()) => {
                let retry = RetryPolicy::default();
                (cell.reserve(), StepState::Fresh { name, timeout: None, retry })
            }
            Err(error) => (0, StepState::Refused(error)),
        };
        Self { cell, operation, state, code, running: None, result: PhantomData }
    }

    /// Sets when a failed attempt is followed by another.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        let checked = check_retry("retry", &policy);
        if let StepState::Fresh { retry, .. } = &mut self.state {
            *retry = policy;
        }
        self.refuse(checked)
    }

    /// Sets how long one attempt may take; then its code is dropped and the failure is
    /// `STEP_TIMEOUT`, which is retried as the policy says. Without it, an attempt may take for
    /// ever.
    pub fn timeout(mut self, limit: Duration) -> Self {
        if let StepState::Fresh { timeout, .. } = &mut self.state {
            *timeout = Some(limit);
        }
        self.refuse(check_timeout(Some(limit)))
    }

    /// Refuses options that make no sense; the step then fails.
    fn refuse(mut self, checked: Result<(), String>) -> Self {
        if let (Err(reason), StepState::Fresh { .. }) = (checked, &self.state) {
            self.state = StepState::Refused(WorkflowError::failed(refused(reason)));
        }
        self
    }

    /// Lets the code of the step go on without taking the outcome; for workflows that are not
    /// written in Rust.
    pub fn advance(&mut self, context: &Context<'_>) {
        if matches!(self.state, StepState::Asked) && self.cell.check().is_ok() {
            self.go_on();
            self.cell.wait(self.operation, context);
            self.remember_nudge();
        }
    }

    /// Whether polling it now completes; for workflows that are not written in Rust.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.cell.is_released(self.operation)
    }

    /// Lets the code of the step go on, if it is its turn.
    fn go_on(&mut self) {
        let is_over = |running: &Running<'_>| {
            !self.cell.machine().awaits_step(self.operation, running.number)
        };
        if self.running.as_ref().is_some_and(is_over) {
            self.stop();
        }
        if self.running.is_none() {
            let Some(number) = self.cell.begin_step(self.operation) else { return };
            self.begin(number);
        }
        let Some(running) = &mut self.running else { return };
        if !running.nudge.rung.swap(false, Ordering::AcqRel) {
            return;
        }
        self.cell.check_deferred();
        let outcome = {
            let _turn = Turn::Step(self.cell.run()).begin();
            let mut context = Context::from_waker(&running.waker);
            catch_unwind(AssertUnwindSafe(|| running.code.as_mut().poll(&mut context)))
        };
        self.cell.skip_deferred();
        let outcome = match outcome {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => Err(panicked(&*panic)),
        };
        self.stop();
        self.cell.step_ended(self.operation, outcome);
    }

    fn begin(&mut self, number: u32) {
        let beginning = Beginning { cell: &self.cell, operation: self.operation, attempt: number };
        let _turn = Turn::Step(self.cell.run()).begin();
        let code = match catch_unwind(AssertUnwindSafe(|| (self.code)(beginning))) {
            Ok(code) => code,
            Err(panic) => Box::pin(std::future::ready(Err(panicked(&*panic)))),
        };
        let (cell, operation) = (Arc::downgrade(&self.cell), self.operation);
        let nudge = Arc::new(Nudge { cell, operation, rung: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&nudge));
        self.running = Some(Running { number, code, nudge, waker });
    }

    /// A nudge that came while nothing could be woken for it is not lost.
    fn remember_nudge(&self) {
        let is_rung = |running: &Running<'_>| running.nudge.rung.load(Ordering::Acquire);
        if self.running.as_ref().is_some_and(is_rung) {
            self.cell.nudge(self.operation);
        }
    }

    /// Drops the attempt that runs, as a part of the step.
    fn stop(&mut self) {
        let running = self.running.take();
        let _turn = Turn::Step(self.cell.run()).begin();
        drop(running);
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> TaskError {
    let failure = panic_failure("STEP_PANICKED", panic);
    TaskError { failure, retryable: !panic.is::<Refused>() }
}

impl<T: DeserializeOwned> Future for StepCall<'_, T> {
    type Output = Result<T, WorkflowError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let StepState::Refused(error) = &this.state {
            return Poll::Ready(Err(error.clone()));
        }
        this.cell.check()?;
        if let StepState::Fresh { .. } = this.state
            && let StepState::Fresh { name, timeout, retry } =
                std::mem::replace(&mut this.state, StepState::Asked)
        {
            this.cell.ask(this.operation, Request::Step { name, timeout, retry });
        }
        this.go_on();
        let Poll::Ready(outcome) = this.cell.poll_outcome(this.operation, context) else {
            this.remember_nudge();
            return Poll::Pending;
        };
        this.state = StepState::Done;
        Poll::Ready(match outcome {
            Ok(payload) => payload
                .decode()
                .map_err(|error| misfit::<T>(&format!("step {} recorded", this.operation), &error)),
            Err(failure) => Err(WorkflowError::failed(failure)),
        })
    }
}

impl<T> Drop for StepCall<'_, T> {
    fn drop(&mut self) {
        self.stop();
        if matches!(self.state, StepState::Asked) {
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
