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

/// The code of a run: its workflow, then the compensations if it did not succeed.
pub(super) struct Body {
    code: Option<BoxFuture<'static, Result<Payload, WorkflowError>>>,
    outcome: Option<Result<Payload, WorkflowError>>,
    panic: Option<Failure>,
    /// What the compensations need, if there is code.
    context: Option<WorkflowContext>,
}

impl Body {
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
            Err(panic) => Self { panic: Some(panicked(&*panic)), ..Self::absent() },
        }
    }

    /// No code, for a run whose workflow is not there.
    pub(super) fn absent() -> Self {
        Self { code: None, outcome: None, panic: None, context: None }
    }

    /// Code that has ended.
    pub(super) fn ended(outcome: Result<Payload, WorkflowError>) -> Self {
        Self { outcome: Some(outcome), ..Self::absent() }
    }

    /// The run is cancelled: if its code has ended with a result, the result is dropped, and the
    /// compensations run as if the code had been cancelled in its last moment.
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

    /// Lets the code run until it waits.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) {
        let Some(code) = &mut self.code else { return };
        // A replay could not know where tokio's budget ends.
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

    /// Whether the code waits.
    pub(super) fn is_running(&self) -> bool {
        self.code.is_some()
    }

    /// How the code ended, if it did.
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

/// Runs a workflow until it ends or is cancelled, then what is to be compensated.
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

/// Runs the compensations, the last one first. What fails is added to the run's failure.
async fn compensate(context: &WorkflowContext, error: WorkflowError) -> WorkflowError {
    let mut failed = Vec::new();
    while let Some(compensation) = context.take_compensation() {
        if let Err(error) = (compensation.undo)(context.clone()).await {
            let failure = error.failure();
            failed.push(json!({"compensation": compensation.name, "failure": failure}));
        }
    }
    match failed.is_empty() {
        true => error,
        false => error.with_failed_compensations(&failed),
    }
}
