//! The part of a budget that a calling agent gives, and the report of the agent that it calls.
//!
//! A calling agent passes a share of its budget in the prompt, which is why `Prompt` has a hidden
//! field. The called agent returns its output together with what it has spent, as one result. If it
//! fails, the sum is in the details of its failure, under `spent`, so that the caller can settle it
//! in any case.
//!
//! An agent charges the subject of its prompt only if it has a budget for subjects itself. It reports
//! which part of its sum was not charged, under `uncharged`, and the caller charges that.

use aios_agents::workflow::WorkflowError;
use aios_core::{
    event::Payload,
    failure::{Details, Failure},
};
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
/// The field of the details of a failure that says which part of it the subject was not charged for.
pub(super) const UNCHARGED: &str = "uncharged";

/// The sums that a run reports which another agent has called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// The sum of the run, including its own children.
    pub(super) spent: Spent,
    /// The part of it that the subject was not charged for.
    pub(super) uncharged: Spent,
}

/// The result of a run that another agent has called.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The result of the agent.
    pub(super) output: Payload,
    /// See [`Sums`].
    spent: Spent,
    /// See [`Sums`].
    #[serde(default, skip_serializing_if = "is_nothing")]
    uncharged: Spent,
}

impl Report {
    /// The sums of the run.
    pub(super) fn sums(&self) -> Sums {
        Sums { spent: self.spent, uncharged: self.uncharged }
    }
}

/// For `skip_serializing_if`.
fn is_nothing(spent: &Spent) -> bool {
    *spent == Spent::default()
}

/// The end of a run that another agent has called, with what the run has spent.
pub(super) fn report(
    ended: Result<Payload, WorkflowError>,
    Sums { spent, uncharged }: Sums,
) -> Result<Payload, WorkflowError> {
    let error = match ended {
        Ok(output) => return Ok(Payload::encode(&Report { output, spent, uncharged })?),
        Err(error) => error,
    };
    let Some(failure) = error.failure() else { return Err(error) };
    let mut failure = failure.clone();
    // The former details are kept under `cause`.
    failure.details = Details::default()
        .with_field("cause", std::mem::take(&mut failure.details))
        .with_field(SPENT, json!(spent))
        .with_field(UNCHARGED, json!(uncharged));
    Err(WorkflowError::failed(failure))
}

/// The sums of a run that failed; `None` if its failure does not say them.
pub(super) fn sums_of(failure: &Failure) -> Option<Sums> {
    // The engine wraps the details if a compensation has failed.
    let details = [Some(failure.details.clone()), failure.details.get("cause")];
    details.into_iter().flatten().find_map(|details: Details| {
        let spent = details.get(SPENT)?;
        Some(Sums { spent, uncharged: details.get(UNCHARGED).unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_report_what_was_spent_whatever_the_outcome() {
        let spent = Spent { requests: 3, ..Spent::default() };
        let sums = Sums { spent, uncharged: Spent { requests: 1, ..Spent::default() } };
        let output = report(Payload::encode("done").map_err(Into::into), sums).unwrap();
        let read: Report = output.decode().unwrap();
        assert_eq!((read.output.as_str(), read.sums()), (r#""done""#, sums));

        let failed = Failure::new("X", "").with_details(json!({"spent": "a detail of its own"}));
        let error = report(Err(WorkflowError::failed(failed)), sums).unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!((failure.code.as_str(), sums_of(failure)), ("X", Some(sums)));
        let wrapped = Details::default().with_field("cause", failure.details.clone());
        assert_eq!(sums_of(&Failure::new("X", "").with_details(wrapped)), Some(sums));
        let cancelled = Failure::new("RUN_CANCELLED", "").with_details(json!({ SPENT: spent }));
        assert_eq!(sums_of(&cancelled), Some(Sums { spent, ..Sums::default() }));
        assert_eq!(sums_of(&Failure::new("RUN_CANCELLED", "")), None);
    }
}
