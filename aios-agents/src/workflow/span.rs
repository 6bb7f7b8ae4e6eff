//! The spans of `tracing` in which the code of runs, steps and tasks is polled, so that every line it
//! logs names them. They have the level `ERROR`, so that lines of every level get their fields.
//!
//! The span of a run is created once, when its code is attached, and entered for each poll. If no
//! subscriber listens, nothing is entered.

use aios_core::agent::TaskInfo;
use tracing::{Span, error_span};

use super::RunInfo;

/// The span `run` of a run's code.
pub(super) fn of_run(info: &RunInfo) -> Span {
    error_span!(
        "run",
        run_id = &*info.run_id,
        workflow = info.workflow.as_str(),
        version = info.version,
        correlation_id = info.correlation_id.as_deref(),
        traceparent = info.traceparent.as_deref(),
    )
}

/// The span `step` of an attempt of a step.
pub(super) fn of_step(run: &Span, operation: u64, attempt: u32) -> Span {
    error_span!(parent: run, "step", operation, attempt)
}

/// The span `replay`, in which the code of a run repeats what it has done before. A log leaves out
/// lines within it.
pub(super) fn of_replay() -> Span {
    error_span!("replay")
}

/// The span `task` of an attempt of a task.
pub(crate) fn of_task(info: &TaskInfo) -> Span {
    let run = info.task_id.run();
    error_span!(
        "task",
        task_id = info.task_id.as_str(),
        agent_type = &*info.agent_type,
        agent_id = &*info.agent_id,
        attempt = info.attempt,
        run_id = run.map(|(run_id, _)| run_id),
        operation = run.map(|(_, operation)| operation),
        correlation_id = info.metadata.correlation_id.as_deref(),
        traceparent = info.metadata.traceparent.as_deref(),
    )
}
