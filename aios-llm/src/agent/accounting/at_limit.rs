//! Decisions about a budget that has reached a limit.
//!
//! The kind of the limit says what can be done. A limit of the run or of its subject can be raised by a
//! person, if the budget says `Ask`. A limit that comes from a calling agent can't: only the run
//! that gave the share could raise it. In all other cases the run fails.
//!
//! The signal is kept by the run until it is awaited, so a decision that is sent early is not lost.
//! A signal that cannot be read, names an unknown limit, or changes nothing is refused: the status says
//! why, and the run waits for the next one.

use aios_agents::workflow::WorkflowError;
use aios_core::{event::Payload, failure::Failure};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Accounting, STORE_TIMEOUT, Subject};
use crate::{
    agent::calls::emit,
    budget::{AtLimit, BUDGET_SIGNAL, BudgetDecision, Exceeded, Limits, Scope},
};

impl Accounting {
    /// Handles a limit: fails, or waits until a person raises it.
    ///
    /// Returns `Ok` if the call may be reserved again.
    pub(super) async fn reached(&self, failure: Failure) -> Result<(), WorkflowError> {
        let scope = failure.details.decode::<Exceeded>().map(|exceeded| exceeded.scope);
        let can_be_raised = matches!(scope, Ok(Scope::Run | Scope::Subject));
        if self.at_limit != AtLimit::Ask || !can_be_raised {
            return Err(WorkflowError::failed(failure));
        }
        emit(&self.context, "budget", "limit_reached", &failure.details)?;
        let is_of_subject = matches!(scope, Ok(Scope::Subject));
        match (self.decide(&failure, is_of_subject).await?, scope) {
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
    async fn decide(
        &self,
        failure: &Failure,
        is_of_subject: bool,
    ) -> Result<BudgetDecision, WorkflowError> {
        let waits = format!("waits for the signal `{BUDGET_SIGNAL}`: {}", failure.message);
        let mut status = waits.clone();
        loop {
            self.context.set_status(status);
            let decision: Payload = self.context.signal(BUDGET_SIGNAL).await?;
            match read(&decision, is_of_subject) {
                Ok(decision) => {
                    self.context.set_status("working");
                    return Ok(decision);
                }
                Err(reason) => status = format!("{waits}; the last signal was refused: {reason}"),
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

/// Reads a decision that changes something.
fn read(signal: &Payload, is_of_subject: bool) -> Result<BudgetDecision, String> {
    let decision = serde_json::from_str(signal.as_str()).map_err(|error| error.to_string())?;
    let BudgetDecision::Raise { limits } = decision else { return Ok(decision) };
    // Others may have fields that older versions of this do not know. A person has to know that a limit
    // does not change.
    let given: Raise = serde_json::from_str(signal.as_str()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(limits).map_err(|error| error.to_string())?;
    let is_unknown =
        |(name, value): &(&String, &Value)| !value.is_null() && known.get(name).is_none();
    if let Some((name, _)) = given.limits.iter().find(is_unknown) {
        return Err(format!("there is no limit `{name}`"));
    }
    let effective = match is_of_subject {
        // A subject has neither.
        true => Limits { wall_time: None, depth: None, ..limits },
        false => limits,
    };
    if effective == Limits::default() {
        return Err("it raises no limit".to_owned());
    }
    Ok(BudgetDecision::Raise { limits })
}

/// The limits of a decision, with the names that its author has given them.
#[derive(Deserialize)]
struct Raise {
    limits: Map<String, Value>,
}
