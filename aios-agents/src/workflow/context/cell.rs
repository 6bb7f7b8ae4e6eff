use std::{
    any::Any,
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use aios_core::{BoxFuture, agent::TaskError, clock::Clock, event::Payload};

use super::WorkflowContext;
use crate::workflow::{
    WorkflowError,
    machine::{Machine, Mismatch, Outcome, Request},
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
pub(crate) struct Cell {
    clock: Arc<dyn Clock>,
    machine: Mutex<Machine>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    operations: HashMap<u64, Waker>,
    cancel: Option<Waker>,
    compensations: Vec<Compensation>,
    mismatch: Option<Mismatch>,
    closed: bool,
}

impl Cell {
    pub(crate) fn new(machine: Machine, clock: Arc<dyn Clock>) -> Self {
        Self { clock, machine: Mutex::new(machine), waiting: Mutex::default() }
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserve(&self) -> u64 {
        self.machine().reserve()
    }

    pub(super) fn ask(&self, operation: u64, request: Request) {
        let asked = self.machine().ask(operation, request, self.clock.now());
        if let Err(mismatch) = asked {
            self.refuse(mismatch);
        }
    }

    pub(super) fn poll_outcome(&self, operation: u64, context: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.machine().take_outcome(operation) {
            return Poll::Ready(outcome);
        }
        self.wait(operation, context);
        Poll::Pending
    }

    /// Remembers whom to wake when an operation goes on.
    pub(super) fn wait(&self, operation: u64, context: &mut Context<'_>) {
        let mut waiting = self.waiting();
        match waiting.operations.get_mut(&operation) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(waiting.operations.insert(operation, context.waker().clone())),
        }
    }

    pub(super) fn step_ended(&self, operation: u64, outcome: Result<Payload, TaskError>) {
        self.machine().step_ended(operation, outcome, self.clock.now());
    }

    /// The future of an operation is gone. After [`close`](Self::close) that means nothing.
    pub(super) fn abandon(&self, operation: u64) {
        let mut waiting = self.waiting();
        waiting.operations.remove(&operation);
        if !waiting.closed {
            self.machine().abandon(operation);
        }
    }

    pub(super) fn poll_cancelled(&self, context: &mut Context<'_>) -> Poll<WorkflowError> {
        if let Some(failure) = self.machine().cancelled() {
            return Poll::Ready(WorkflowError::cancelled(failure.clone()));
        }
        self.waiting().cancel = Some(context.waker().clone());
        Poll::Pending
    }

    pub(super) fn push_compensation(&self, compensation: Compensation) {
        self.waiting().compensations.push(compensation);
    }

    pub(super) fn pop_compensation(&self) -> Option<Compensation> {
        self.waiting().compensations.pop()
    }

    /// Wakes the code that waits for an operation.
    pub(crate) fn wake(&self, operation: u64) {
        if let Some(waker) = self.waiting().operations.remove(&operation) {
            waker.wake();
        }
    }

    /// Wakes everything that waits, after a time in which nothing was let go on.
    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.waiting().operations);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Wakes the code that waits for the cancellation.
    pub(crate) fn wake_cancelled(&self) {
        if let Some(waker) = self.waiting().cancel.take() {
            waker.wake();
        }
    }

    /// Notes that the journal does not fit the code.
    pub(crate) fn refuse(&self, mismatch: Mismatch) {
        self.waiting().mismatch.get_or_insert(mismatch);
    }

    /// What the code asked for that does not fit the journal.
    pub(crate) fn mismatch(&self) -> Option<Mismatch> {
        self.waiting().mismatch.clone()
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

impl fmt::Debug for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cell").field("machine", &self.machine).finish_non_exhaustive()
    }
}
