//! The wakers of the operations that the code of a run waits for.
//!
//! A waker is stored for each operation that was polled and has no outcome. Combinators such as
//! `FuturesUnordered` pass wakers of their own, one for each branch, so an operation wakes its branch
//! and nothing else.
//!
//! The number of stored clones of the code's own waker is counted (`direct`). If more clones exist,
//! something outside of the engine holds one, and the run can be woken by it; `execution` needs to
//! know.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Waker},
};

use aios_core::{
    BoxFuture,
    failure::{Details, Failure},
};

use super::WorkflowContext;
use crate::workflow::{WorkflowError, machine::Mismatch};

/// The action of a compensation, which gets the context of the run.
type Undo = Box<
    dyn FnOnce(WorkflowContext) -> BoxFuture<'static, Result<(), WorkflowError>> + Send + 'static,
>;

/// An action that runs if the run fails or is cancelled.
pub(crate) struct Compensation {
    /// For the failure of the run, if the compensation fails.
    pub(crate) name: Box<str>,
    /// Called at most once.
    pub(crate) undo: Undo,
}

/// The wakers of the code, and other state that does not belong to the pure machine. Behind the lock
/// of the same name in `SharedRun`.
#[derive(Default)]
pub(super) struct Waiting {
    /// The waker that the code is polled with.
    code: Option<Waker>,
    /// The waker of each operation that was polled last without an outcome.
    operations: BTreeMap<u64, Waiter>,
    /// The waker of what waits for a cancellation: the outermost future of the run's code.
    cancel: Option<Waiter>,
    /// Number of stored wakers that are clones of `code`.
    direct: usize,
    /// The operation whose outcome may be taken.
    pub(super) released: Option<u64>,
    /// Outcomes that the code polled for and may not take yet: place in the journal, and operation.
    pub(super) ready: BTreeSet<(u64, u64)>,
    /// Steps whose code was woken, and whose wakers were not.
    pub(super) woken_steps: Vec<u64>,
    /// Registered compensations, the last one at the end.
    pub(super) compensations: Vec<Compensation>,
    /// Fields that are added to the details of the run's failure.
    pub(super) failure_details: BTreeMap<String, Details>,
    /// The first request that did not match the journal.
    pub(super) mismatch: Option<Mismatch>,
    /// Set if the journal pins a version of a change that the code does not support.
    pub(super) unknown_version: Option<Failure>,
    /// Set if an operation was dropped outside of the code.
    pub(super) misplaced: Option<Failure>,
    pub(super) closed: bool,
}

/// A stored waker.
struct Waiter {
    /// The waker of the branch that polled last.
    waker: Waker,
    /// Whether it is a clone of the code's own waker.
    is_direct: bool,
}

impl Waiting {
    /// Sets the code's own waker, to recognise its clones.
    pub(super) fn set_code(&mut self, waker: Waker) {
        self.code = Some(waker);
    }

    /// Number of stored clones of the code's waker.
    pub(super) fn wakers(&self) -> usize {
        self.direct + usize::from(self.code.is_some())
    }

    /// Registers the waker of an operation, and returns the one that it replaces. Drop that one only after
    /// the lock is released: it may hold the last reference to something whose destructor comes back here.
    #[must_use]
    pub(super) fn wait(&mut self, operation: u64, context: &Context<'_>) -> Option<Waker> {
        let known = self.operations.get(&operation);
        if known.is_some_and(|waiter| waiter.waker.will_wake(context.waker())) {
            return None;
        }
        let waiter = self.waiter(context);
        let replaced = self.operations.insert(operation, waiter)?;
        self.direct -= usize::from(replaced.is_direct);
        Some(replaced.waker)
    }

    /// The waker of an operation, which stays registered.
    pub(super) fn waker(&self, operation: u64) -> Option<Waker> {
        self.operations.get(&operation).map(|waiter| waiter.waker.clone())
    }

    /// Removes the waker of an operation. It is dropped like one that is replaced.
    #[must_use]
    pub(super) fn remove(&mut self, operation: u64) -> Option<Waker> {
        let waiter = self.operations.remove(&operation)?;
        self.direct -= usize::from(waiter.is_direct);
        Some(waiter.waker)
    }

    /// Removes the wakers of all operations.
    pub(super) fn remove_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.direct = self.cancel.iter().filter(|waiter| waiter.is_direct).count();
        std::mem::take(&mut self.operations).into_values().map(|waiter| waiter.waker)
    }

    /// Registers the waker of code that waits for a cancellation, and returns the one that it replaces, as
    /// [`wait`](Self::wait) does.
    #[must_use]
    pub(super) fn wait_cancelled(&mut self, context: &Context<'_>) -> Option<Waker> {
        match &self.cancel {
            Some(waiter) if waiter.waker.will_wake(context.waker()) => None,
            _ => {
                let replaced = self.remove_cancelled();
                self.cancel = Some(self.waiter(context));
                replaced
            }
        }
    }

    /// Removes the waker of what waits for a cancellation.
    pub(super) fn remove_cancelled(&mut self) -> Option<Waker> {
        let waiter = self.cancel.take()?;
        self.direct -= usize::from(waiter.is_direct);
        Some(waiter.waker)
    }

    /// Clones the waker of a poll, and counts it if it is the code's own.
    fn waiter(&mut self, context: &Context<'_>) -> Waiter {
        let is_direct = self.code.as_ref().is_some_and(|code| code.will_wake(context.waker()));
        self.direct += usize::from(is_direct);
        Waiter { waker: context.waker().clone(), is_direct }
    }
}
