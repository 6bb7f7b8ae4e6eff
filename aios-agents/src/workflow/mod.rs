//! Durable workflows: plain async functions that survive any crash.
//!
//! A workflow is a future that the engine polls. What it awaits of its [`WorkflowContext`] is
//! numbered and recorded in the run's journal before the workflow sees it; after a crash the
//! function runs again from the top, gets what is recorded, and goes on where it was.
//!
//! The code must be deterministic: the same results lead to the same calls in the same order.
//! Whatever depends on time, chance or the outside belongs into a step, a task, or
//! [`now`](WorkflowContext::now), [`random`](WorkflowContext::random),
//! [`uuid`](WorkflowContext::uuid).
//!
//! Branches may run side by side with [`join!`](crate::join), [`try_join!`](crate::try_join),
//! `join_all` or `FuturesUnordered` and share channels, locks and semaphores. The macros of tokio
//! begin with another branch in each poll, unless they are `biased;`, and a replay polls less often
//! than the live run. [`select!`](crate::select) and [`race`] choose between operations: the
//! winner is the outcome that stands first in the journal. The `select!` macros of tokio and
//! futures poll in random order, so that branches which begin operations of their own do not
//! replay.
//!
//! Only the code of the run may use its context: not a step, a spawned task or another run, where
//! every call fails with `OPERATION_OUTSIDE_WORKFLOW`. The code may await nothing that is not
//! recorded, as a timer of tokio: the run is blocked then with `FOREIGN_AWAIT`. Code that wakes
//! itself without end is blocked with `WORKFLOW_BUSY`.

mod alarm;
mod body;
mod context;
mod deferred;
mod definition;
pub(crate) mod engine;
mod error;
mod execution;
pub mod journal;
pub mod machine;
mod race;
pub(crate) mod run_id;
mod turn;

pub(crate) use self::execution::Execution;
pub use self::{
    context::{
        Answer, ChildCall, OperationCall, RunInfo, SignalCall, SleepCall, StepCall, StepContext,
        Target, TaskCall, WorkflowContext,
    },
    definition::{FnWorkflow, Workflow},
    error::WorkflowError,
    race::{Race, race},
    run_id::InvalidRunId,
};
