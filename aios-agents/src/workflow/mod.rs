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
        ChildCall, OperationCall, RunInfo, SignalCall, SleepCall, StepCall, StepContext, Target,
        TaskCall, WorkflowContext,
    },
    definition::{FnWorkflow, Workflow},
    error::WorkflowError,
    race::{Race, race},
    run_id::InvalidRunId,
};
