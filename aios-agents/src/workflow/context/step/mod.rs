//! Steps: pieces of the user's code that run within the poll of the workflow and whose result is
//! recorded once.
//!
//! The code of a step may borrow from the workflow, so it can't run in a task of its own. It is polled
//! by `StepCall::poll`, within a poll of the workflow, and yet may wait for anything: a socket, a
//! timer, a thread. So it has a waker of its own, and whatever wakes it leads to a poll of the workflow
//! in an orderly way:
//!
//! | the step is woken | by | what happens |
//! |---|---|---|
//! | while its own code is polled | itself | it is noted, and polled again once the workflow is idle |
//! | while the workflow is polled | another branch | the waker of its call is called at once |
//! | at any other time, from any thread | a socket, a timer, a spawned task, `yield_now` | it is noted, and the task of the driver is woken, which calls the waker of its call |
//!
//! Only the last way crosses threads. A step that is woken makes the workflow be polled again, and never
//! counts as a foreign wake.
//!
//! The result goes to the machine (`step_ended`), is recorded, comes back as an entry and is released
//! like every other outcome. Until then the call is pending. If the process dies before the result is
//! recorded, the code runs again in the next one. The code of an attempt that timed out is dropped at
//! the next poll.
//!
//! The timeout of an attempt elapses from its begin. Code that only queues the work, for a thread say,
//! reports that by [`StepContext::queued`]; then the timeout elapses from the moment at which the work
//! begins. That moment is a wake like any other, because the timer is set by a poll of the workflow.

mod attempt;

use std::{
    cell::OnceCell,
    fmt,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use aios_core::{BoxFuture, agent::TaskError, catalog::codes, event::Payload, retry::RetryPolicy};
use serde::{Serialize, de::DeserializeOwned};
use tracing::Span;

use super::{SharedRun, decode::decode_error, shared_run::OPERATION};
use crate::{
    options::{check_retry, check_timeout, refused},
    panic::{Refused, panic_failure},
    workflow::{WorkflowError, machine::Request, turn::Turn},
};

pub(super) use self::attempt::AttemptStart;
pub use self::attempt::StepContext;
use self::attempt::StepWaker;

/// The code of one attempt, with its result encoded.
type Attempt<'a> = BoxFuture<'a, Result<Payload, TaskError>>;

/// A piece of code whose result is recorded once.
///
/// # Cancel safety
///
/// Dropping it drops the code at its current await point; nothing is recorded. A replay drops it at
/// the same point.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
///
/// # async fn upload(_: &str) -> Result<u16, std::io::Error> { Ok(200) }
/// async fn publish(context: WorkflowContext, page: String) -> Result<u16, WorkflowError> {
///     context
///         .step("upload", || upload(&page))
///         .timeout(Duration::from_secs(30)) // for each attempt
///         .retry(RetryPolicy::fixed(3, Duration::from_secs(5)))
///         .await
/// }
/// # let _ = Runtime::builder().workflow("publish", publish);
/// ```
#[must_use = "a step does nothing unless it is awaited"]
pub struct StepCall<'a, T> {
    /// The run that the step belongs to.
    shared: Arc<SharedRun>,
    /// Number of the operation; 0 if it was called outside of the code of its run.
    operation: u64,
    /// Its name, for the journal and for errors.
    name: Arc<str>,
    /// How far the call is.
    state: StepState,
    /// Whether it has a timeout.
    has_timeout: bool,
    /// Creates the code of an attempt. Called once for each.
    code: Box<dyn FnMut(AttemptStart<'_>) -> Attempt<'a> + Send + 'a>,
    /// The attempt that is running.
    running: Option<Running<'a>>,
    /// The type that the recorded result is decoded as.
    result: PhantomData<fn() -> T>,
}

/// How far a step is. The first poll turns `Fresh` into `Asked`; an option that is not valid turns it
/// into `Refused`, and the call fails when it is polled.
enum StepState {
    Fresh { timeout: Option<Duration>, retry: RetryPolicy },
    Asked,
    Done,
    Refused(WorkflowError),
}

/// A running attempt.
struct Running<'a> {
    /// Number of the attempt, from 1.
    number: u32,
    /// The future that is polled.
    code: Attempt<'a>,
    /// Tells whether the code was woken.
    step_waker: Arc<StepWaker>,
    /// The same, as the waker that the code is polled with.
    waker: Waker,
    /// Entered while the code is polled.
    span: Span,
    /// Whether its timeout elapses.
    is_timed: bool,
}

impl<'a, T> StepCall<'a, T> {
    /// Number of the operation in its run.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.operation
    }

    /// Reserves the number of a step. Its code runs when the call is polled.
    ///
    /// The result is encoded within the attempt, so that a value that can't be serialised fails it like
    /// an error of the code, but is not retried. What the attempt wrote to output streams is stored
    /// before it ends.
    pub(super) fn new<E, F, Fut>(shared: Arc<SharedRun>, name: Arc<str>, mut code: F) -> Self
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut(AttemptStart<'_>) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let code = Box::new(move |start: AttemptStart<'_>| -> Attempt<'a> {
            let opened = OnceCell::new();
            let attempt = code(AttemptStart { outputs: Some(&opened), ..start });
            let outputs = opened.into_inner();
            Box::pin(async move {
                let ended = attempt.await.map_err(Into::into).and_then(|result| {
                    Payload::encode(&result)
                        .map_err(|error| TaskError::from(error).with_retryable(false))
                });
                if let Some(outputs) = outputs {
                    // Boxed, because few steps have output, and all steps have this future.
                    Box::pin(outputs.flush()).await;
                }
                ended
            })
        });
        let (operation, state) = match shared.check_request(OPERATION) {
            Ok(()) => {
                let retry = RetryPolicy::default();
                (shared.reserve_awaited(), StepState::Fresh { timeout: None, retry })
            }
            Err(error) => (0, StepState::Refused(error)),
        };
        let (has_timeout, running) = (false, None);
        Self { shared, operation, name, state, has_timeout, code, running, result: PhantomData }
    }

    /// Sets the retry policy. The default is [`RetryPolicy::new`], five attempts.
    ///
    /// A policy with neither a limit of attempts nor a delay fails the step with `INVALID_OPTIONS`.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        let checked = check_retry("retry", &policy);
        if let StepState::Fresh { retry, .. } = &mut self.state {
            *retry = policy;
        }
        self.refuse(checked)
    }

    /// Sets the timeout of one attempt. After it the code is dropped and the attempt fails with
    /// `STEP_TIMEOUT`, which is retried according to the policy. Without it, an attempt may take
    /// indefinitely.
    pub fn timeout(mut self, limit: Duration) -> Self {
        if let StepState::Fresh { timeout, .. } = &mut self.state {
            *timeout = Some(limit);
        }
        self.refuse(check_timeout(Some(limit)))
    }

    /// Rejects invalid options: the step fails when it is polled.
    fn refuse(mut self, checked: Result<(), String>) -> Self {
        if let (Err(reason), StepState::Fresh { .. }) = (checked, &self.state) {
            self.state = StepState::Refused(WorkflowError::failed(refused(reason)));
        }
        self
    }

    /// Polls the code of the step without taking the outcome. For workflows that are not written in
    /// Rust.
    pub fn advance(&mut self, context: &Context<'_>) {
        if matches!(self.state, StepState::Asked) && self.shared.check().is_ok() {
            self.poll_attempt();
            self.shared.wait(self.operation, context);
            self.keep_wake();
        }
    }

    /// Whether polling completes now. For workflows that are not written in Rust.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.is_released(self.operation)
    }

    /// Polls the code of the step, if it was woken and its attempt may run.
    ///
    /// An attempt that is over, for example by its timeout, is dropped first. Then the next one begins
    /// if the machine allows it. Code that was not woken is left alone: the workflow is polled for
    /// other reasons too.
    fn poll_attempt(&mut self) {
        let is_over = |running: &Running<'_>| {
            !self.shared.machine().poll_step(self.operation, running.number)
        };
        if self.running.as_ref().is_some_and(is_over) {
            self.stop();
        }
        if self.running.is_none() {
            let Some(number) = self.shared.begin_step(self.operation) else { return };
            self.begin(number);
        }
        let Some(running) = &mut self.running else { return };
        if !running.step_waker.take_wake() {
            return;
        }
        // Wakes that are deferred up to here are those of the workflow; those of the step's code, from
        // here to `skip_deferred`, do not concern the workflow.
        self.shared.check_deferred();
        let outcome = {
            let _turn = Turn::Step(self.shared.run()).begin();
            let _span = running.span.enter();
            let mut context = Context::from_waker(&running.waker);
            catch_unwind(AssertUnwindSafe(|| running.code.as_mut().poll(&mut context)))
        };
        self.shared.skip_deferred();
        let outcome = match outcome {
            Ok(Poll::Pending) => return self.set_timer(),
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => Err(panicked(&*panic)),
        };
        self.stop();
        self.shared.step_ended(self.operation, outcome);
    }

    /// Lets the timeout of the running attempt elapse, unless its work waits in a queue.
    fn set_timer(&mut self) {
        let Some(running) = self.running.as_mut().filter(|it| self.has_timeout && !it.is_timed)
        else {
            return;
        };
        if !running.step_waker.is_queued() {
            running.is_timed = true;
            self.shared.time_step(self.operation, running.step_waker.has_begun());
        }
    }

    /// Begins an attempt. A panic while its future is created is a failure of the attempt.
    fn begin(&mut self, number: u32) {
        let operation = self.operation;
        let step_waker = StepWaker::new(&self.shared, operation);
        let (shared, waker) = (&*self.shared, &step_waker);
        let start = AttemptStart { shared, operation, attempt: number, outputs: None, waker };
        let span = self.shared.step_span(self.operation, number);
        let _turn = Turn::Step(self.shared.run()).begin();
        let code = match catch_unwind(AssertUnwindSafe(|| span.in_scope(|| (self.code)(start)))) {
            Ok(code) => code,
            Err(panic) => Box::pin(std::future::ready(Err(panicked(&*panic)))),
        };
        let waker = Waker::from(Arc::clone(&step_waker));
        self.running = Some(Running { number, code, step_waker, waker, span, is_timed: false });
    }

    /// Keeps a wake that arrived while no waker was registered.
    fn keep_wake(&self) {
        let is_woken = |running: &Running<'_>| running.step_waker.is_woken();
        if self.running.as_ref().is_some_and(is_woken) {
            self.shared.defer_step(self.operation);
        }
    }

    /// Drops the running attempt, in the turn of the step.
    fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.step_waker.end();
        let _turn = (!self.shared.is_leaving()).then(|| Turn::Step(self.shared.run()).begin());
        drop(running);
    }
}

/// The failure of a step whose code panicked. It is retried, unless the panic is that of a context that
/// was used outside of its workflow, which would happen again.
fn panicked(panic: &(dyn std::any::Any + Send)) -> TaskError {
    let failure = panic_failure(codes::STEP_PANICKED, panic);
    TaskError::retryable(failure).with_retryable(!panic.is::<Refused>())
}

impl<T: DeserializeOwned> Future for StepCall<'_, T> {
    type Output = Result<T, WorkflowError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let StepState::Refused(error) = &this.state {
            return Poll::Ready(Err(error.clone()));
        }
        this.shared.check()?;
        if let StepState::Fresh { .. } = this.state
            && let StepState::Fresh { timeout, retry } =
                std::mem::replace(&mut this.state, StepState::Asked)
        {
            let name = Arc::clone(&this.name);
            this.has_timeout = timeout.is_some();
            this.shared.ask(this.operation, Request::Step { name, timeout, retry });
        }
        this.poll_attempt();
        let Poll::Ready(outcome) = this.shared.poll_outcome(this.operation, context) else {
            this.keep_wake();
            return Poll::Pending;
        };
        this.state = StepState::Done;
        Poll::Ready(match outcome {
            Ok(payload) => payload.decode().map_err(|error| {
                decode_error::<T>(&format!("step {}: the result", this.operation), &error)
            }),
            Err(failure) => {
                let label = format!("step {:?} (operation {})", this.name, this.operation);
                Err(WorkflowError::of_operation(failure, this.operation, label))
            }
        })
    }
}

impl<T> Drop for StepCall<'_, T> {
    /// Drops the code of the step, then abandons the operation.
    fn drop(&mut self) {
        self.stop();
        if matches!(self.state, StepState::Asked) {
            self.shared.abandon(self.operation);
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
