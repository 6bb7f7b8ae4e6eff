//! The code of a run as one future: the workflow itself, then the compensations.
//!
//! | outcome of the workflow | what follows |
//! |---|---|
//! | a result | nothing; the run completes |
//! | continue as new | nothing; compensations belong to work that is given up |
//! | a failure | the compensations, the last one first; the run fails |
//! | cancelled while it ran | the workflow is dropped, then the compensations; the run is cancelled |
//! | cancelled after it returned a result, before that was recorded | the same, and the result is dropped |
//! | a panic | nothing; the run is blocked, and continues when the code was corrected |
//! | interrupted | nothing; the run is loaded again |
//!
//! Compensations are code of the run like any other: their operations are numbered and recorded, and a
//! replay repeats them.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Context, Poll},
};

use aios_core::{BoxFuture, catalog::codes, event::Payload, failure::Failure};
use tokio::task::unconstrained;

use super::{Workflow, WorkflowContext, WorkflowError, error::FailedCompensation};
use crate::panic::{is_interrupt, panic_failure};

/// The code of a run: its workflow, then the compensations if it fails or is cancelled.
pub(super) struct WorkflowFuture {
    /// The future while it runs; `None` once it has ended.
    code: Option<BoxFuture<'static, Result<Payload, WorkflowError>>>,
    /// The outcome, once it has ended.
    outcome: Option<Result<Payload, WorkflowError>>,
    /// The panic that ended it.
    panic: Option<Failure>,
    /// Whether that panic was an interruption.
    is_interrupted: bool,
    /// Context for the compensations, if there is code.
    context: Option<WorkflowContext>,
}

impl WorkflowFuture {
    /// Creates the future, and catches a panic of the function that returns it.
    pub(super) fn new(workflow: &dyn Workflow, context: WorkflowContext, input: Payload) -> Self {
        let kept = Some(context.clone());
        // A workflow may panic before it returns its future.
        let running = AssertUnwindSafe(|| workflow.run(context.clone(), input));
        match catch_unwind(running) {
            Ok(code) => Self {
                code: Some(Box::pin(compensated(context, code))),
                outcome: None,
                panic: None,
                is_interrupted: false,
                context: kept,
            },
            Err(panic) => {
                let is_interrupted = is_interrupt(&*panic);
                Self { panic: Some(panicked(&*panic)), is_interrupted, ..Self::none() }
            }
        }
    }

    /// No code, for a run whose workflow is not available.
    pub(super) fn none() -> Self {
        Self { code: None, outcome: None, panic: None, is_interrupted: false, context: None }
    }

    /// Code that has ended.
    pub(super) fn finished(outcome: Result<Payload, WorkflowError>) -> Self {
        Self { outcome: Some(outcome), ..Self::none() }
    }

    /// Cancels the run. If its code has already returned a result, the result is dropped and the
    /// compensations run, as if the code had been cancelled just before it returned.
    pub(super) fn cancel(&mut self) {
        let Some(context) = &self.context else { return };
        // Running code notices the cancellation itself, in `compensated`.
        if matches!(self.outcome, Some(Ok(_))) {
            self.outcome = None;
            let context = context.clone();
            self.code = Some(Box::pin(async move {
                let cancelled = context.cancelled().await;
                Err(compensate(&context, cancelled).await)
            }));
        }
    }

    /// Polls the code once.
    ///
    /// Does nothing once it has ended. A panic ends the code, because a future that panicked may not be
    /// polled again.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) {
        let Some(code) = &mut self.code else { return };
        // Tokio's budget could end at another point in a replay.
        let code = pin!(unconstrained(code.as_mut()));
        match catch_unwind(AssertUnwindSafe(|| code.poll(context))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(outcome)) => {
                self.code = None;
                self.outcome = Some(outcome);
            }
            Err(panic) => {
                self.code = None;
                self.panic = Some(panicked(&*panic));
                self.is_interrupted = is_interrupt(&*panic);
            }
        }
    }

    /// Whether the code has not ended.
    pub(super) fn is_running(&self) -> bool {
        self.code.is_some()
    }

    /// The outcome of the code, if it has ended.
    pub(super) fn outcome(&self) -> Option<&Result<Payload, WorkflowError>> {
        self.outcome.as_ref()
    }

    /// Whether the code was interrupted.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// The panic that ended the code, as the reason to block the run.
    pub(super) fn panic(&self) -> Option<&Failure> {
        self.panic.as_ref()
    }
}

/// The failure of code that panicked.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    panic_failure(codes::WORKFLOW_PANICKED, panic)
}

/// Runs a workflow until it ends or is cancelled. Runs the compensations unless it succeeded.
///
/// A cancellation comes first: if both are ready in the same poll, the run was cancelled before it
/// could record its result.
async fn compensated(
    context: WorkflowContext,
    mut code: BoxFuture<'static, Result<Payload, WorkflowError>>,
) -> Result<Payload, WorkflowError> {
    let outcome = tokio::select! {
        biased;
        cancelled = context.cancelled() => Err(cancelled),
        outcome = &mut code => outcome,
    };
    // Before the compensations: destructors of the workflow abandon its operations, so that what they
    // undo is not in progress any more.
    drop(code);
    match outcome {
        Err(error) if error.failure().is_some() => Err(compensate(&context, error).await),
        outcome => outcome,
    }
}

/// Runs the compensations, the last one first, and adds failed ones to the run's failure. One that
/// fails does not stop the others: each of them undoes something else.
async fn compensate(context: &WorkflowContext, error: WorkflowError) -> WorkflowError {
    let mut failed = Vec::new();
    context.begin_compensations();
    while let Some(compensation) = context.take_compensation() {
        if let Err(error) = (compensation.undo)(context.clone()).await {
            let failure = error.failure().cloned();
            failed.push(FailedCompensation { name: compensation.name, failure });
        }
    }
    let error = error.with_details(context.take_failure_details());
    match failed.is_empty() {
        true => error,
        false => error.with_failed_compensations(&failed),
    }
}
