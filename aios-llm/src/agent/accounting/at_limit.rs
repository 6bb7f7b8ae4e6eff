//! Decisions about a budget that has reached a limit.
//!
//! The kind of the limit says what can be done. A limit of the run or of its subject can be raised by a
//! person, if the budget says `Ask`. A limit that comes from a calling agent can't: only the run
//! that gave the share could raise it. In all other cases the run fails.
//!
//! The signal is kept by the run until it is awaited, so a decision that is sent early is not lost.
//! A signal that is not a decision is refused: the status says why, and the run waits for the next
//! one.

use aios_agents::workflow::WorkflowError;
use aios_core::failure::Failure;
use serde::Deserialize;
use serde_json::Value;

use super::{Accounting, STORE_TIMEOUT, Subject};
use crate::{
    agent::decisions::emit,
    budget::{AtLimit, BUDGET_SIGNAL, BudgetDecision, Exceeded, Limits, Scope},
};

impl Accounting {
    /// Handles a limit: fails, or waits until a person raises it.
    ///
    /// Returns `Ok` if the call may be reserved again.
    pub(super) async fn reached(&self, failure: Failure) -> Result<(), WorkflowError> {
        let scope = Exceeded::deserialize(&failure.details).map(|exceeded| exceeded.scope);
        let can_be_raised = matches!(scope, Ok(Scope::Run | Scope::Subject));
        if self.at_limit != AtLimit::Ask || !can_be_raised {
            return Err(WorkflowError::failed(failure));
        }
        emit(&self.context, "budget", "limit_reached", &failure.details)?;
        match (self.decide(&failure).await?, scope) {
            (BudgetDecision::Raise { limits }, Ok(Scope::Subject)) => {
                self.raise_of_subject(limits).await
            }
            (BudgetDecision::Raise { limits }, _) => {
                self.state.lock().account.raise(limits);
                Ok(())
            }
            (BudgetDecision::Stop, _) => Err(WorkflowError::failed(failure)),
        }
    }

    /// Waits for a decision about a limit. The status says why a signal was not accepted.
    ///
    /// The event `llm.budget.limit_reached` was emitted before, so a watcher needs no polling.
    async fn decide(&self, failure: &Failure) -> Result<BudgetDecision, WorkflowError> {
        let waits = format!("waits for the signal `{BUDGET_SIGNAL}`: {}", failure.message);
        let mut status = waits.clone();
        loop {
            self.context.set_status(status);
            let decision: Value = self.context.signal(BUDGET_SIGNAL).await?;
            match serde_json::from_value(decision) {
                Ok(decision) => {
                    self.context.set_status("working");
                    return Ok(decision);
                }
                Err(error) => status = format!("{waits}; the last signal was refused: {error}"),
            }
        }
    }

    /// Raises the limits of the subject in this window, for all its runs.
    async fn raise_of_subject(&self, limits: Limits) -> Result<(), WorkflowError> {
        let Some(subject) = &self.subject else { return Ok(()) };
        let at = self.context.now();
        let raising = self.context.step_with("raise_of_subject", |step| async move {
            let Subject { budget, name } = subject;
            budget.raise(name, at, step.idempotency_key(), limits).await
        });
        raising.timeout(STORE_TIMEOUT).await
    }
}
