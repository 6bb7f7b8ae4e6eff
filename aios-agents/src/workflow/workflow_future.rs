use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Context, Poll},
};

use aios_core::{BoxFuture, event::Payload, failure::Failure};
use serde_json::json;
use tokio::task::unconstrained;

use super::{Workflow, WorkflowContext, WorkflowError};
use crate::panic::panic_failure;

/// The code of a run: its workflow, then the compensations if it fails or is cancelled.
pub(super) struct WorkflowFuture {
    code: Option<BoxFuture<'static, Result<Payload, WorkflowError>>>,
    outcome: Option<Result<Payload, WorkflowError>>,
    panic: Option<Failure>,
    /// Context for the compensations, if there is code.
    context: Option<WorkflowContext>,
}

impl WorkflowFuture {
    pub(super) fn new(workflow: &dyn Workflow, context: WorkflowContext, input: Payload) -> Self {
        let kept = Some(context.clone());
        // A workflow may panic before it returns its future.
        let running = AssertUnwindSafe(|| workflow.run(context.clone(), input));
        match catch_unwind(running) {
            Ok(code) => Self {
                code: Some(Box::pin(compensated(context, code))),
                outcome: None,
                panic: None,
                context: kept,
            },
            Err(panic) => Self { panic: Some(panicked(&*panic)), ..Self::none() },
        }
    }

    /// No code, for a run whose workflow is not available.
    pub(super) fn none() -> Self {
        Self { code: None, outcome: None, panic: None, context: None }
    }

    /// Code that has ended.
    pub(super) fn finished(outcome: Result<Payload, WorkflowError>) -> Self {
        Self { outcome: Some(outcome), ..Self::none() }
    }

    /// Cancels the run. If its code has already returned a result, the result is dropped and the
    /// compensations run, as if the code had been cancelled just before it returned.
    pub(super) fn cancel(&mut self) {
        let Some(context) = &self.context else { return };
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

    pub(super) fn panic(&self) -> Option<&Failure> {
        self.panic.as_ref()
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    panic_failure("WORKFLOW_PANICKED", panic)
}

/// Runs a workflow until it ends or is cancelled. Runs the compensations unless it succeeded.
async fn compensated(
    context: WorkflowContext,
    mut code: BoxFuture<'static, Result<Payload, WorkflowError>>,
) -> Result<Payload, WorkflowError> {
    let outcome = tokio::select! {
        biased;
        cancelled = context.cancelled() => Err(cancelled),
        outcome = &mut code => outcome,
    };
    drop(code);
    match outcome {
        Err(error) if error.failure().is_some() => Err(compensate(&context, error).await),
        outcome => outcome,
    }
}

/// Runs the compensations, the last one first, and adds failed ones to the run's failure.
async fn compensate(context: &WorkflowContext, error: WorkflowError) -> WorkflowError {
    let mut failed = Vec::new();
    while let Some(compensation) = context.take_compensation() {
        if let Err(error) = (compensation.undo)(context.clone()).await {
            let failure = error.failure();
            failed.push(json!({"compensation": compensation.name, "failure": failure}));
        }
    }
    let error = error.with_details(context.take_failure_details());
    match failed.is_empty() {
        true => error,
        false => error.with_failed_compensations(&failed),
    }
}
