//! The part of a budget that a calling agent gives, and the report of the agent that it calls.
//!
//! A calling agent passes a share of its budget in the prompt, which is why `Prompt` has a hidden
//! field. The called agent returns its output together with what it has spent, as one result. If it
//! fails, the sum is in the details of its failure, under `spent`, so that the caller can settle it
//! in any case.

use aios_agents::workflow::WorkflowError;
use aios_core::{event::Payload, failure::Failure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::budget::{Limits, Spent};

/// The part of a budget that a calling agent gives to the agent that it calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delegation {
    /// Limits that apply in addition to those of the called agent.
    pub(super) share: Limits,
}

/// The field of the details of a failure that says what a run has spent.
pub(super) const SPENT: &str = "spent";

/// The result of a run that another agent has called.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The result of the agent.
    pub(super) output: Payload,
    /// The sum of the run, including its own children.
    pub(super) spent: Spent,
}

/// The end of a run that another agent has called, with what the run has spent.
pub(super) fn report(
    ended: Result<Payload, WorkflowError>,
    spent: Spent,
) -> Result<Payload, WorkflowError> {
    let error = match ended {
        Ok(output) => return Ok(Payload::encode(&Report { output, spent })?),
        Err(error) => error,
    };
    let Some(failure) = error.failure() else { return Err(error) };
    let mut failure = failure.clone();
    // The former details are kept under `cause`.
    failure.details = json!({ "cause": failure.details, SPENT: spent });
    Err(WorkflowError::failed(failure))
}

/// The sum of a run that failed; `None` if its failure does not say it.
pub(super) fn spent_of(failure: &Failure) -> Option<Spent> {
    // The engine wraps the details if a compensation has failed.
    let details = [Some(&failure.details), failure.details.get("cause")];
    details.into_iter().flatten().find_map(|details| Spent::deserialize(details.get(SPENT)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_report_what_was_spent_whatever_the_outcome() {
        let spent = Spent { requests: 3, ..Spent::default() };
        let output = report(Payload::encode("done").map_err(Into::into), spent).unwrap();
        let Report { output, spent: read } = output.decode().unwrap();
        assert_eq!((output.as_str(), read), (r#""done""#, spent));

        let failed = Failure::new("X", "").with_details(json!({"spent": "a detail of its own"}));
        let error = report(Err(WorkflowError::failed(failed)), spent).unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!((failure.code.as_str(), spent_of(failure)), ("X", Some(spent)));
        let wrapped = json!({"cause": failure.details, "failed_compensations": []});
        assert_eq!(spent_of(&Failure::new("X", "").with_details(wrapped)), Some(spent));
        let cancelled = Failure::new("RUN_CANCELLED", "").with_details(json!({ SPENT: spent }));
        assert_eq!(spent_of(&cancelled), Some(spent));
        assert_eq!(spent_of(&Failure::new("RUN_CANCELLED", "")), None);
    }
}
