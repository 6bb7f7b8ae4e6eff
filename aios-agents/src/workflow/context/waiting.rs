//! The wakers of the operations that the code of a run waits for.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Waker},
};

use aios_core::{BoxFuture, failure::Failure};
use serde_json::{Map, Value};

use super::WorkflowContext;
use crate::workflow::{WorkflowError, machine::Mismatch};

type Undo = Box<
    dyn FnOnce(WorkflowContext) -> BoxFuture<'static, Result<(), WorkflowError>> + Send + 'static,
>;

/// An action that runs if the run fails or is cancelled.
pub(crate) struct Compensation {
    pub(crate) name: Box<str>,
    pub(crate) undo: Undo,
}

#[derive(Default)]
pub(super) struct Waiting {
    /// The waker that the code is polled with.
    code: Option<Waker>,
    operations: BTreeMap<u64, Waiter>,
    cancel: Option<Waiter>,
    /// Number of stored wakers that are clones of `code`.
    direct: usize,
    /// The operation whose outcome may be taken.
    pub(super) released: Option<u64>,
    /// Outcomes that the code polled for and may not take yet: place in the journal, and operation.
    pub(super) ready: BTreeSet<(u64, u64)>,
    /// Steps whose code was woken, and whose wakers were not.
    pub(super) woken_steps: Vec<u64>,
    pub(super) compensations: Vec<Compensation>,
    /// Fields that are added to the details of the run's failure.
    pub(super) failure_details: Map<String, Value>,
    pub(super) mismatch: Option<Mismatch>,
    /// Set if the journal pins a version of a change that the code does not support.
    pub(super) unknown_version: Option<Failure>,
    /// Set if an operation was dropped outside of the code.
    pub(super) misplaced: Option<Failure>,
    pub(super) closed: bool,
}

struct Waiter {
    waker: Waker,
    is_direct: bool,
}

impl Waiting {
    pub(super) fn set_code(&mut self, waker: Waker) {
        self.code = Some(waker);
    }

    /// Number of stored clones of the code's waker.
    pub(super) fn wakers(&self) -> usize {
        self.direct + usize::from(self.code.is_some())
    }

    /// Registers the waker of an operation.
    pub(super) fn wait(&mut self, operation: u64, context: &Context<'_>) {
        match self.operations.get_mut(&operation) {
            Some(waiter) if waiter.waker.will_wake(context.waker()) => {}
            _ => {
                self.remove(operation);
                let waiter = self.waiter(context);
                self.operations.insert(operation, waiter);
            }
        }
    }

    /// The waker of an operation, which stays registered.
    pub(super) fn waker(&self, operation: u64) -> Option<Waker> {
        self.operations.get(&operation).map(|waiter| waiter.waker.clone())
    }

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

    /// Registers the waker of code that waits for a cancellation.
    pub(super) fn wait_cancelled(&mut self, context: &Context<'_>) {
        match &self.cancel {
            Some(waiter) if waiter.waker.will_wake(context.waker()) => {}
            _ => {
                self.remove_cancelled();
                self.cancel = Some(self.waiter(context));
            }
        }
    }

    pub(super) fn remove_cancelled(&mut self) -> Option<Waker> {
        let waiter = self.cancel.take()?;
        self.direct -= usize::from(waiter.is_direct);
        Some(waiter.waker)
    }

    fn waiter(&mut self, context: &Context<'_>) -> Waiter {
        let is_direct = self.code.as_ref().is_some_and(|code| code.will_wake(context.waker()));
        self.direct += usize::from(is_direct);
        Waiter { waker: context.waker().clone(), is_direct }
    }
}
