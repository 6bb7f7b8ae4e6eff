//! Durable workflows: plain async functions that survive crashes.
//!
//! A workflow is a future that the engine polls. Every operation of its [`WorkflowContext`] is
//! numbered, and its result is recorded in the run's journal before the workflow sees it. After a
//! crash the function runs again from the top, gets the recorded results, and resumes where it
//! stopped.
//!
//! The code must be deterministic: the same results lead to the same calls in the same order.
//! Anything that depends on time, randomness or I/O belongs in a step, in a task, or in
//! [`now`](WorkflowContext::now), [`random`](WorkflowContext::random) or
//! [`uuid`](WorkflowContext::uuid).
//!
//! Branches can run concurrently with [`join!`](crate::join), [`try_join!`](crate::try_join),
//! `join_all` or `FuturesUnordered`, and share channels, locks and semaphores. Without `biased;` the
//! macros of tokio begin each poll with a different branch, and a replay polls less often than the
//! live run. [`select!`](crate::select) and [`race`] choose between operations: the operation whose
//! outcome comes first in the journal wins. The `select!` macros of tokio and futures poll in random
//! order, so branches that begin operations of their own do not replay.
//!
//! Only the code of the run may use its context: not a step, a spawned task or another run, where
//! every call fails with `OPERATION_OUTSIDE_WORKFLOW`. An operation that has begun must not be dropped
//! there either: the run is then blocked with the same code. The code may await only what is recorded. A
//! run that awaits anything else, such as a timer of tokio, is blocked with `FOREIGN_AWAIT`. A run whose
//! code wakes itself without end is blocked with `WORKFLOW_BUSY`.

mod context;
mod deferred;
mod definition;
pub(crate) mod engine;
mod error;
mod execution;
pub mod journal;
#[doc(hidden)]
pub mod machine;
mod polling;
mod probe;
mod race;
mod registry;
pub(crate) mod run_id;
mod signal_name;
pub(crate) mod span;
mod turn;
mod wake_flag;
mod workflow_future;

pub(crate) use self::{
    context::InvalidTarget,
    execution::Execution,
    registry::{Registry, SINGLE_TASK},
};
pub use self::{
    context::{
        Answer, ChildCall, OperationCall, RunInfo, SignalCall, SleepCall, StepCall, StepContext,
        Target, TaskCall, WorkflowContext,
    },
    definition::{FnWorkflow, Workflow},
    error::WorkflowError,
    race::{Race, race},
    run_id::InvalidRunId,
    signal_name::InvalidSignalName,
};
pub use crate::panic::{block, interrupt};
