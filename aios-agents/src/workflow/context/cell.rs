use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use aios_core::{BoxFuture, agent::TaskError, clock::Clock, event::Payload, failure::Failure};

use super::WorkflowContext;
use crate::{
    panic::Refused,
    workflow::{
        WorkflowError,
        deferred::Deferred,
        machine::{Machine, Mismatch, Outcome, Request},
        turn::Turn,
    },
};

type Undo = Box<
    dyn FnOnce(WorkflowContext) -> BoxFuture<'static, Result<(), WorkflowError>> + Send + 'static,
>;

/// What a panic carries.
type Panic = Box<dyn Any + Send>;

/// What to do if the run does not succeed.
pub(crate) struct Compensation {
    pub(crate) name: Box<str>,
    pub(crate) undo: Undo,
}

/// Where the code of a workflow and its driver meet: the machine, and who waits for what.
///
/// The code sees one outcome at a time: the one that is *released*. An outcome that was recorded
/// while the code did not wait for it is released once the code is quiet, in the order of the
/// journal. So no two operations are ever ready together, and whatever chooses between them chooses
/// what stands first in the journal.
pub(crate) struct Cell {
    clock: Arc<dyn Clock>,
    machine: Mutex<Machine>,
    waiting: Mutex<Waiting>,
    /// What watches for wakes that the scheduler puts off, while the code is polled.
    deferred: Mutex<Option<Deferred>>,
    /// Whether anything watches: most runs have nothing that could be put off.
    is_watching: AtomicBool,
    /// Whether the code does not fit the journal.
    is_unfit: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    /// What the code itself is polled with.
    code: Option<Waker>,
    operations: BTreeMap<u64, Waiter>,
    cancel: Option<Waiter>,
    /// How many of the wakers here are the code's own.
    direct: usize,
    /// The operation whose outcome may be taken.
    released: Option<u64>,
    /// Outcomes that the code asked for and may not take yet: place in the journal and operation.
    ripe: BTreeSet<(u64, u64)>,
    /// Steps whose code woke itself.
    nudged: Vec<u64>,
    compensations: Vec<Compensation>,
    mismatch: Option<Mismatch>,
    /// The journal follows a version of a change that the code does not know.
    unknown_version: Option<Failure>,
    closed: bool,
}

struct Waiter {
    waker: Waker,
    is_direct: bool,
}

impl Waiting {
    fn waiter(&mut self, context: &Context<'_>) -> Waiter {
        let is_direct = self.code.as_ref().is_some_and(|code| code.will_wake(context.waker()));
        self.direct += usize::from(is_direct);
        Waiter { waker: context.waker().clone(), is_direct }
    }

    fn wait(&mut self, operation: u64, context: &Context<'_>) {
        match self.operations.get_mut(&operation) {
            Some(waiter) if waiter.waker.will_wake(context.waker()) => {}
            _ => {
                self.remove(operation);
                let waiter = self.waiter(context);
                self.operations.insert(operation, waiter);
            }
        }
    }

    fn remove(&mut self, operation: u64) -> Option<Waker> {
        let waiter = self.operations.remove(&operation)?;
        self.direct -= usize::from(waiter.is_direct);
        Some(waiter.waker)
    }
}

impl Cell {
    pub(crate) fn new(machine: Machine, clock: Arc<dyn Clock>) -> Self {
        let (machine, waiting) = (Mutex::new(machine), Mutex::default());
        let deferred = Mutex::default();
        let (is_watching, is_unfit) = (AtomicBool::default(), AtomicBool::default());
        Self { clock, machine, waiting, deferred, is_watching, is_unfit }
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What tells this run from others in a [`Turn`].
    pub(crate) fn run(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Says what the code is polled with.
    pub(crate) fn set_code(&self, waker: Waker) {
        self.waiting().code = Some(waker);
    }

    /// Fails unless it is the code of this run that is polled on this thread.
    pub(super) fn check(&self) -> Result<(), WorkflowError> {
        match Turn::current() {
            Turn::Code(run) if run == self.run() => Ok(()),
            _ => Err(WorkflowError::failed(outside())),
        }
    }

    /// As [`check`](Self::check), for calls that return no error: unwinds.
    pub(super) fn insist(&self) {
        if self.check().is_err() {
            // Without a panic's report: what catches it makes it a failure.
            resume_unwind(Box::new(Refused(outside())));
        }
    }

    pub(super) fn reserve(&self) -> u64 {
        self.machine().reserve()
    }

    pub(super) fn ask(&self, operation: u64, request: Request) {
        let asked = match request {
            // Its time counts from when its code begins.
            Request::Step { .. } => {
                let mut machine = self.machine();
                let present = machine.now();
                machine.ask(operation, request, present)
            }
            request => self.machine().ask(operation, request, self.clock.now()),
        };
        if let Err(mismatch) = asked {
            self.refuse(mismatch);
        }
    }

    pub(super) fn poll_outcome(&self, operation: u64, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut waiting = self.waiting();
        let mut machine = self.machine();
        if waiting.released == Some(operation) {
            if let Some(outcome) = machine.take_outcome(operation) {
                waiting.released = None;
                waiting.remove(operation);
                return Poll::Ready(outcome);
            }
        } else if let Some(place) = machine.outcome_place(operation) {
            waiting.ripe.insert((place, operation));
        }
        drop(machine);
        waiting.wait(operation, context);
        Poll::Pending
    }

    /// Remembers whom to wake when an operation goes on.
    pub(super) fn wait(&self, operation: u64, context: &Context<'_>) {
        self.waiting().wait(operation, context);
    }

    /// Whether the outcome of an operation may be taken.
    pub(super) fn is_released(&self, operation: u64) -> bool {
        self.waiting().released == Some(operation)
    }

    /// Watches, or not, for wakes that the scheduler puts off; returns what watched before.
    pub(crate) fn watch(&self, deferred: Option<Deferred>) -> Option<Deferred> {
        self.is_watching.store(deferred.is_some(), Ordering::Release);
        std::mem::replace(&mut *self.deferred(), deferred)
    }

    fn is_watching(&self) -> bool {
        self.is_watching.load(Ordering::Acquire)
    }

    fn deferred(&self) -> MutexGuard<'_, Option<Deferred>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code was polled until here: what it put off counts.
    pub(super) fn check_deferred(&self) {
        if self.is_watching()
            && let Some(deferred) = &mut *self.deferred()
        {
            deferred.check();
        }
    }

    /// The code of a step was polled until here: what it put off does not count.
    pub(super) fn skip_deferred(&self) {
        if self.is_watching()
            && let Some(deferred) = &mut *self.deferred()
        {
            deferred.skip();
        }
    }

    /// Begins the code of a step, if it is to run now, and returns the number of the attempt.
    pub(super) fn begin_step(&self, operation: u64) -> Option<u32> {
        self.machine().begin_step(operation, || self.clock.now())
    }

    pub(super) fn step_ended(&self, operation: u64, outcome: Result<Payload, TaskError>) {
        let mut machine = self.machine();
        // Only what follows a failed attempt depends on the time.
        let present = if outcome.is_err() { self.clock.now() } else { machine.now() };
        machine.step_ended(operation, outcome, present);
    }

    /// The same in every attempt of an operation.
    pub(super) fn key(&self, operation: u64) -> String {
        self.machine().idempotency_key(operation)
    }

    /// The future of an operation is gone. After [`close`](Self::close) that means nothing.
    pub(super) fn abandon(&self, operation: u64) {
        let mut waiting = self.waiting();
        let waker = waiting.remove(operation);
        if !waiting.closed {
            self.machine().abandon(operation);
        }
        drop(waiting);
        drop(waker);
    }

    pub(super) fn poll_cancelled(&self, context: &mut Context<'_>) -> Poll<WorkflowError> {
        if let Some(failure) = self.machine().cancelled() {
            return Poll::Ready(WorkflowError::cancelled(failure.clone()));
        }
        let mut waiting = self.waiting();
        match &waiting.cancel {
            Some(waiter) if waiter.waker.will_wake(context.waker()) => {}
            _ => {
                let waiter = waiting.waiter(context);
                if waiting.cancel.replace(waiter).is_some_and(|former| former.is_direct) {
                    waiting.direct -= 1;
                }
            }
        }
        Poll::Pending
    }

    pub(super) fn push_compensation(&self, compensation: Compensation) {
        self.waiting().compensations.push(compensation);
    }

    pub(super) fn pop_compensation(&self) -> Option<Compensation> {
        let compensations = &mut self.waiting().compensations;
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("compensation out of order") && !compensations.is_empty() {
            return Some(compensations.remove(0));
        }
        compensations.pop()
    }

    /// Lets the code take the outcome of an operation, and no other one.
    pub(crate) fn release(&self, operation: u64) {
        let waker = {
            let mut waiting = self.waiting();
            waiting.released = Some(operation);
            waiting.remove(operation)
        };
        self.wake_each(waker);
    }

    /// Releases the outcome that stands first in the journal of those that the quiet code waits
    /// for; `false` if there is none.
    pub(crate) fn release_next(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.released = None;
        let mut machine = self.machine();
        let ripe = loop {
            let Some((place, operation)) = waiting.ripe.first().copied() else { break None };
            if machine.outcome_place(operation) == Some(place) {
                break Some((place, operation));
            }
            waiting.ripe.pop_first();
        };
        let signal = machine.first_kept_signal();
        let Some((place, operation)) = ripe.into_iter().chain(signal).min() else { return false };
        if ripe == Some((place, operation)) {
            waiting.ripe.pop_first();
        } else {
            machine.give_signal(operation);
        }
        drop(machine);
        drop(waiting);
        self.release(operation);
        true
    }

    /// The code of a step woke itself, or is to run again: it gets a turn when the code is quiet.
    pub(super) fn nudge(&self, operation: u64) {
        self.waiting().nudged.push(operation);
    }

    /// Wakes the steps whose code woke itself.
    pub(crate) fn wake_nudged(&self) {
        let nudged = std::mem::take(&mut self.waiting().nudged);
        nudged.into_iter().for_each(|operation| self.wake_step(operation));
    }

    /// Wakes the code of a step.
    pub(crate) fn wake_step(&self, operation: u64) {
        let waiting = self.waiting();
        let waker = waiting.operations.get(&operation).map(|waiter| waiter.waker.clone());
        drop(waiting);
        if let Some(waker) = waker {
            let _turn = Turn::Waking(self.run()).begin();
            waker.wake();
        }
    }

    /// Wakes everything that waits, after a time in which nothing was let go on.
    pub(crate) fn wake_all(&self) {
        let waiting = {
            let mut waiting = self.waiting();
            waiting.direct = waiting.cancel.iter().filter(|waiter| waiter.is_direct).count();
            std::mem::take(&mut waiting.operations)
        };
        self.wake_each(waiting.into_values().map(|waiter| waiter.waker));
    }

    /// Wakes the code that waits for the cancellation.
    pub(crate) fn wake_cancelled(&self) {
        let cancel = {
            let mut waiting = self.waiting();
            let cancel = waiting.cancel.take();
            waiting.direct -= usize::from(cancel.as_ref().is_some_and(|waiter| waiter.is_direct));
            cancel
        };
        self.wake_each(cancel.map(|waiter| waiter.waker));
    }

    fn wake_each(&self, wakers: impl IntoIterator<Item = Waker>) {
        let _turn = Turn::Engine(self.run()).begin();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many of the code's wakers are here.
    pub(crate) fn wakers(&self) -> usize {
        let waiting = self.waiting();
        waiting.direct + usize::from(waiting.code.is_some())
    }

    /// Notes that the journal does not fit the code.
    pub(crate) fn refuse(&self, mismatch: Mismatch) {
        self.waiting().mismatch.get_or_insert(mismatch);
        self.is_unfit.store(true, Ordering::Release);
    }

    /// Notes that the journal follows a version of a change that the code does not know.
    pub(crate) fn refuse_version(&self, failure: Failure) {
        self.waiting().unknown_version.get_or_insert(failure);
        self.is_unfit.store(true, Ordering::Release);
    }

    /// Whether the code does not fit the journal.
    pub(crate) fn is_unfit(&self) -> bool {
        self.is_unfit.load(Ordering::Acquire)
    }

    /// What of the code does not fit the journal: a version that it does not know, or an operation.
    pub(crate) fn misfit(&self) -> Option<Failure> {
        let waiting = self.waiting();
        let mismatch = || waiting.mismatch.as_ref().map(Mismatch::to_failure);
        waiting.unknown_version.clone().or_else(mismatch)
    }

    /// From now on dropping an operation means nothing: the code is evicted, not finished. An error
    /// is the panic of what a compensation holds.
    pub(crate) fn close(&self) -> Result<(), Panic> {
        let compensations = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            std::mem::take(&mut waiting.compensations)
        };
        // Each by itself: a second panic while the first unwinds would abort the process.
        let mut dropped = Ok(());
        for compensation in compensations {
            dropped = dropped.and(catch_unwind(AssertUnwindSafe(|| drop(compensation))));
        }
        dropped
    }
}

/// Why an operation was refused.
fn outside() -> Failure {
    Failure::new(
        WorkflowError::OUTSIDE,
        "only the code of the workflow itself can use its context: not a step, a spawned task or \
         another run",
    )
}

impl fmt::Debug for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cell").field("machine", &self.machine).finish_non_exhaustive()
    }
}
