//! The state that the code of a run and its driver share.
//!
//! The code calls it through its context and its futures, within a poll. The driver calls it before and
//! after, to apply entries and to take what was requested. Both are in the same task, but the wakers of
//! steps are called from anywhere, and the traits require `Sync`; hence the locks. They are taken in
//! this order, and neither is held while a waker is called or a future is polled or dropped:
//!
//! 1. `waiting`: wakers, the released outcome, compensations
//! 2. `machine`
//!
//! `deferred` is taken alone. What is read in every poll is kept in atomic values beside the locks.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use aios_core::{
    agent::TaskError,
    clock::Clock,
    event::Payload,
    failure::{Details, Failure},
};
use parking_lot::{Mutex, MutexGuard};
use tracing::Span;

use super::{
    RunInfo,
    waiting::{Compensation, Waiting},
};
use crate::{
    output::{Hub, RunOutputs},
    panic::Refused,
    workflow::{
        WorkflowError,
        deferred::Deferred,
        machine::{Machine, Mismatch, Outcome, Request},
        span,
        turn::Turn,
        wake_flag::StepSignal,
    },
};

/// The weight of what the code may request in one poll. Beyond it, the code counts as a loop that never
/// returns: 200,000 operations, or 1,000,000 values.
const MAX_REQUESTS: u64 = 1_000_000;
/// How much the request of a value counts, such as the time.
pub(super) const VALUE: u64 = 1;
/// How much the request of an operation counts, which takes memory.
pub(super) const OPERATION: u64 = 5;

/// The payload of a panic.
type Panic = Box<dyn Any + Send>;

/// State shared by the code of a workflow and its driver: the machine, and the wakers of waiting
/// operations.
///
/// The code sees one outcome at a time: the *released* one. An outcome that was recorded while the
/// code did not wait for it is released once the code is idle, in journal order. Two operations are
/// therefore never ready together, and a choice between operations always picks the one whose outcome
/// comes first in the journal.
pub(crate) struct SharedRun {
    /// From which deadlines count.
    clock: Arc<dyn Clock>,
    /// The state of the run.
    machine: Mutex<Machine>,
    /// Everything about wakers, and what does not belong to the pure machine.
    pub(super) waiting: Mutex<Waiting>,
    /// Detects wakes that the scheduler defers while the code is polled.
    pub(super) deferred: Mutex<Option<Deferred>>,
    /// Whether `deferred` is set. For most runs it is not, because nothing could be deferred.
    pub(super) is_watching: AtomicBool,
    /// How much the code has requested in the current poll.
    requests: AtomicU64,
    /// Whether the code has requested an operation that it can await.
    has_operations: AtomicBool,
    /// Number of operations that the code has reserved: a copy that is read without the lock.
    reserved: AtomicU64,
    /// Whether the code does not match the journal: a copy that is read without the lock.
    is_mismatched: AtomicBool,
    /// Whether the code has ended, so that nothing depends on its operations any more.
    has_ended: AtomicBool,
    /// Set when a step is woken from outside of the task that polls the code.
    pub(super) step_signal: OnceLock<StepSignal>,
    /// Whether the code repeats what it has done before. Set for each poll.
    is_replaying: AtomicBool,
    /// The span of the run's code; unset for a run without code.
    span: OnceLock<Span>,
    /// The output streams that the code has opened.
    outputs: OnceLock<RunOutputs>,
}

impl SharedRun {
    /// The state of a run that has applied nothing.
    pub(crate) fn new(machine: Machine, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            machine: Mutex::new(machine),
            waiting: Mutex::default(),
            deferred: Mutex::default(),
            is_watching: AtomicBool::default(),
            requests: AtomicU64::default(),
            has_operations: AtomicBool::default(),
            reserved: AtomicU64::default(),
            is_mismatched: AtomicBool::default(),
            has_ended: AtomicBool::default(),
            step_signal: OnceLock::new(),
            is_replaying: AtomicBool::default(),
            span: OnceLock::new(),
            outputs: OnceLock::new(),
        }
    }

    /// Sets where the run's output is stored. Without it, the output is discarded.
    pub(crate) fn set_outputs(&self, hub: Hub) {
        // A run is loaded once.
        let _ = self.outputs.set(RunOutputs::new(Some(hub)));
    }

    /// The output streams of the run.
    pub(crate) fn outputs(&self) -> &RunOutputs {
        self.outputs.get_or_init(RunOutputs::default)
    }

    /// Locks the machine.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    /// Identifies this run in a [`Turn`].
    pub(crate) fn run(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Sets the span in which the code is polled.
    pub(crate) fn set_span(&self, info: &RunInfo) {
        // The code is attached once.
        let _ = self.span.set(span::of_run(info));
    }

    /// Polls the code within its span. If it has seen the latest entry before and its journal is
    /// replayed, it repeats what it has done, which a span within says.
    pub(crate) fn in_span<T>(&self, is_seen: bool, poll: impl FnOnce() -> T) -> T {
        let is_replaying = is_seen && !self.machine().is_live();
        self.is_replaying.store(is_replaying, Ordering::Release);
        match self.span.get().filter(|span| !span.is_disabled()) {
            None => poll(),
            Some(span) if !is_replaying => span.in_scope(poll),
            Some(span) => span.in_scope(|| span::of_replay().in_scope(poll)),
        }
    }

    /// Whether the code that this thread polls or drops repeats what it has done before, or leaves
    /// memory, so that a later replay repeats it.
    pub(super) fn is_replaying(&self) -> bool {
        self.is_replaying.load(Ordering::Acquire) || self.is_leaving()
    }

    /// The span of an attempt of a step.
    pub(super) fn step_span(&self, operation: u64, attempt: u32) -> Span {
        match self.span.get().filter(|run| !run.is_disabled()) {
            Some(run) => span::of_step(run, operation, attempt),
            None => Span::none(),
        }
    }

    /// The code is polled now: it may make [`MAX_REQUESTS`].
    pub(crate) fn begin_poll(&self) {
        self.requests.store(0, Ordering::Relaxed);
    }

    /// Fails unless this thread is polling the code of this run.
    pub(super) fn check(&self) -> Result<(), WorkflowError> {
        match Turn::current() {
            Turn::Code(run) if run == self.run() => Ok(()),
            _ => Err(WorkflowError::failed(outside_workflow())),
        }
    }

    /// Like [`check`](Self::check), for a request of the code. Unwinds if the code has made too many of them
    /// in one poll: code that ignores an error would never return.
    pub(super) fn check_request(&self, weight: u64) -> Result<(), WorkflowError> {
        self.check()?;
        if self.requests.fetch_add(weight, Ordering::Relaxed) >= MAX_REQUESTS
            && !std::thread::panicking()
        {
            // Does not call the panic hook: the caller turns the payload into a failure.
            resume_unwind(Box::new(Refused(busy())));
        }
        Ok(())
    }

    /// Fails if the next request of the code would be refused.
    pub(super) fn check_next(&self) -> Result<(), WorkflowError> {
        self.check()?;
        match self.requests.load(Ordering::Relaxed) < MAX_REQUESTS {
            true => Ok(()),
            false => Err(WorkflowError::failed(busy())),
        }
    }

    /// Like [`check_request`](Self::check_request), for methods that return no error: unwinds instead.
    ///
    /// Returns `false` in a destructor that runs because the code leaves memory or the thread unwinds.
    /// Unwinding there would block the run, or abort the process.
    pub(super) fn assert_current(&self, weight: u64) -> bool {
        let is_current = self.check_request(weight).is_ok();
        if !is_current && !self.is_leaving() && !std::thread::panicking() {
            // Does not call the panic hook: the caller turns the payload into a failure.
            resume_unwind(Box::new(Refused(outside_workflow())));
        }
        is_current
    }

    /// Whether this thread drops the code because it leaves memory.
    pub(super) fn is_leaving(&self) -> bool {
        Turn::current() == Turn::Leaving(self.run())
    }

    /// Reserves the number of the next operation.
    pub(super) fn reserve(&self) -> u64 {
        let operation = self.machine().reserve();
        self.reserved.store(operation, Ordering::Release);
        operation
    }

    /// Reserves the number of an operation that the code can await.
    pub(super) fn reserve_awaited(&self) -> u64 {
        self.has_operations.store(true, Ordering::Relaxed);
        self.reserve()
    }

    /// Whether the code has requested an operation that it can await.
    pub(crate) fn has_operations(&self) -> bool {
        self.has_operations.load(Ordering::Relaxed)
    }

    /// Number of operations that the code has reserved.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Requests an operation. A request that does not match the journal is kept as the reason to block
    /// the run; the code runs until it is idle and is then stopped.
    pub(super) fn ask(&self, operation: u64, request: Request) {
        let asked = match request {
            // The time of a step counts from the start of its code.
            Request::Step { .. } => {
                let mut machine = self.machine();
                let now = machine.now();
                machine.ask(operation, request, now)
            }
            request => self.machine().ask(operation, request, self.clock.now()),
        };
        if let Err(mismatch) = asked {
            self.set_mismatch(mismatch);
        }
    }

    /// Takes the outcome of an operation if it was released to the code; otherwise registers its waker.
    ///
    /// An outcome that is recorded and not released is noted in `ready`: the code waits for it now, so
    /// it may be released once the code is idle.
    pub(super) fn poll_outcome(&self, operation: u64, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut waiting = self.waiting.lock();
        let mut machine = self.machine();
        if waiting.released == Some(operation) {
            if let Some(outcome) = machine.take_outcome(operation) {
                waiting.released = None;
                let waker = waiting.remove(operation);
                drop((machine, waiting));
                drop(waker);
                return Poll::Ready(outcome);
            }
        } else if let Some(place) = machine.outcome_place(operation) {
            waiting.ready.insert((place, operation));
        }
        drop(machine);
        let replaced = waiting.wait(operation, context);
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }

    /// Registers the waker of an operation.
    pub(super) fn wait(&self, operation: u64, context: &Context<'_>) {
        let replaced = self.waiting.lock().wait(operation, context);
        drop(replaced);
    }

    /// Whether the outcome of an operation may be taken.
    pub(super) fn is_released(&self, operation: u64) -> bool {
        self.waiting.lock().released == Some(operation)
    }

    /// Begins an attempt of a step, if its code may run now, and returns the number of the attempt.
    pub(super) fn begin_step(&self, operation: u64) -> Option<u32> {
        let mut machine = self.machine();
        // Most polls begin nothing, and need no time.
        machine.step_attempt(operation)?;
        machine.begin_step(operation, self.clock.now())
    }

    /// Lets the timeout of a running attempt elapse: from now if its code was queued, otherwise from when
    /// the attempt began.
    pub(super) fn time_step(&self, operation: u64, was_queued: bool) {
        let now = was_queued.then(|| self.clock.now());
        self.machine().time_step(operation, now);
    }

    /// Records the end of an attempt of a step.
    pub(super) fn step_ended(&self, operation: u64, outcome: Result<Payload, TaskError>) {
        let mut machine = self.machine();
        // Only the retry of a failed attempt depends on the time.
        let now = if outcome.is_err() { self.clock.now() } else { machine.now() };
        machine.step_ended(operation, outcome, now);
    }

    /// Id of the run.
    pub(super) fn run_id(&self) -> Arc<str> {
        self.machine().run_id()
    }

    /// The idempotency key of an operation.
    pub(super) fn key(&self, operation: u64) -> String {
        self.machine().idempotency_key(operation)
    }

    /// Abandons an operation whose future was dropped. Has no effect after [`close`](Self::close).
    ///
    /// Outside of the code, a replay would not drop it, or not at the same point, so the run can't
    /// continue.
    pub(super) fn abandon(&self, operation: u64) {
        let is_current = Turn::current() == Turn::Code(self.run());
        let mut waiting = self.waiting.lock();
        let waker = waiting.remove(operation);
        let is_misplaced = !waiting.closed && !is_current && !self.has_ended();
        if is_misplaced {
            waiting.misplaced.get_or_insert_with(|| dropped_outside(operation));
        } else if !waiting.closed {
            self.machine().abandon(operation);
        }
        // The waker comes last: it may hold the last reference to something whose destructor comes back
        // here.
        drop(waiting);
        drop(waker);
        if is_misplaced {
            self.is_mismatched.store(true, Ordering::Release);
            self.signal_task();
        }
    }

    /// Sets whether the code has ended.
    pub(crate) fn set_ended(&self, has_ended: bool) {
        self.has_ended.store(has_ended, Ordering::Release);
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Ready once the cancellation of the run was requested.
    pub(super) fn poll_cancelled(&self, context: &mut Context<'_>) -> Poll<WorkflowError> {
        if let Some(failure) = self.machine().cancelled() {
            return Poll::Ready(WorkflowError::cancelled(failure.clone()));
        }
        let replaced = self.waiting.lock().wait_cancelled(context);
        drop(replaced);
        Poll::Pending
    }

    /// Registers a compensation after all others.
    pub(super) fn push_compensation(&self, compensation: Compensation) {
        self.waiting.lock().compensations.push(compensation);
    }

    /// Takes the compensation that was registered last.
    pub(super) fn pop_compensation(&self) -> Option<Compensation> {
        let compensations = &mut self.waiting.lock().compensations;
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("compensation out of order") && !compensations.is_empty() {
            return Some(compensations.remove(0));
        }
        compensations.pop()
    }

    /// Sets a field for the details of the run's failure.
    pub(super) fn set_failure_detail(&self, field: &str, value: Details) {
        self.waiting.lock().failure_details.insert(field.to_owned(), value);
    }

    /// Takes the fields for the details of the run's failure.
    pub(super) fn take_failure_details(&self) -> BTreeMap<String, Details> {
        std::mem::take(&mut self.waiting.lock().failure_details)
    }

    /// Lets the code take the outcome of this operation only.
    pub(crate) fn release(&self, operation: u64) {
        let waker = {
            let mut waiting = self.waiting.lock();
            waiting.released = Some(operation);
            waiting.remove(operation)
        };
        self.wake_each(waker);
    }

    /// Releases the first outcome in the journal that the idle code waits for. If there is none, wakes the
    /// steps whose code woke itself, and returns `false`: they come last, so that they delay no entry.
    pub(crate) fn release_next(&self) -> bool {
        let mut waiting = self.waiting.lock();
        // The code had its chance: it is idle, so it does not wait for that outcome any more.
        waiting.released = None;
        let mut machine = self.machine();
        // An outcome may have been taken or abandoned since the code polled for it.
        let ready = loop {
            let Some((place, operation)) = waiting.ready.first().copied() else { break None };
            if machine.outcome_place(operation) == Some(place) {
                break Some((place, operation));
            }
            waiting.ready.pop_first();
        };
        // A kept signal that a call waits for now.
        let signal = machine.first_kept_signal();
        // Outcomes and signals compete by their places in the journal.
        let Some((place, operation)) = ready.into_iter().chain(signal).min() else {
            drop(machine);
            drop(waiting);
            self.wake_steps();
            return false;
        };
        if ready == Some((place, operation)) {
            waiting.ready.pop_first();
        } else {
            machine.give_signal(operation);
        }
        drop(machine);
        drop(waiting);
        self.release(operation);
        true
    }

    /// Records that the code does not match the journal. The first mismatch is kept.
    pub(crate) fn set_mismatch(&self, mismatch: Mismatch) {
        self.waiting.lock().mismatch.get_or_insert(mismatch);
        self.is_mismatched.store(true, Ordering::Release);
    }

    /// Records that the journal pins a version of a change that the code does not support.
    pub(crate) fn set_unknown_version(&self, failure: Failure) {
        self.waiting.lock().unknown_version.get_or_insert(failure);
        self.is_mismatched.store(true, Ordering::Release);
    }

    /// Whether the code does not match the journal.
    pub(crate) fn is_mismatched(&self) -> bool {
        self.is_mismatched.load(Ordering::Acquire)
    }

    /// Why the code does not match the journal, or would not in a replay: an unsupported version, a
    /// different operation, or one that was dropped outside of the code.
    pub(crate) fn block_reason(&self) -> Option<Failure> {
        let waiting = self.waiting.lock();
        let mismatch = || waiting.mismatch.as_ref().map(Mismatch::to_failure);
        waiting.unknown_version.clone().or_else(mismatch).or_else(|| waiting.misplaced.clone())
    }

    /// Evicts the code: operations that are dropped from now on are not abandoned. Drops the registered
    /// compensations; an error is the payload of a panic while dropping one.
    pub(crate) fn close(&self) -> Result<(), Panic> {
        let compensations = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.compensations)
        };
        let _turn = Turn::Leaving(self.run()).begin();
        // Caught one by one: a second panic while the first unwinds would abort the process.
        let mut dropped = Ok(());
        for compensation in compensations {
            dropped = dropped.and(catch_unwind(AssertUnwindSafe(|| drop(compensation))));
        }
        dropped
    }
}

/// The failure of code that makes requests without end.
fn busy() -> Failure {
    Failure::new(
        WorkflowError::BUSY,
        "the workflow makes too many requests without awaiting anything: it may request 200,000 operations or \
         1,000,000 values, such as the time, before it awaits; a loop must await an operation, such as `sleep`",
    )
}

/// The failure of an operation outside of the code of its workflow.
fn outside_workflow() -> Failure {
    Failure::new(
        WorkflowError::OUTSIDE,
        "a workflow context can only be used by the code of its own workflow, not in a step, a \
         spawned task or another run",
    )
}

/// The failure of an operation that was dropped outside of the code of its workflow.
fn dropped_outside(operation: u64) -> Failure {
    Failure::new(
        WorkflowError::OUTSIDE,
        format!(
            "operation {operation} had begun and was dropped in a step, a spawned task or another \
             run, where a replay would not drop it; only the code of its own workflow can drop it"
        ),
    )
}

impl fmt::Debug for SharedRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedRun").field("machine", &self.machine).finish_non_exhaustive()
    }
}
