//! Dead-letter reasons of tasks, written by the agent host and read by the engine.
//!
//! The reason is the only part of a dead letter that every broker keeps, so it carries whether
//! another attempt may help. Its prefix is a contract between hosts and engines of different
//! versions.

use aios_core::{agent::TaskError, catalog::codes, failure::Failure};

/// Prefix of a reason that another attempt would not change.
const FINAL: &str = "the agent gave it up for good: ";

/// The reason for dead-lettering a task that no attempt can answer.
pub(crate) fn final_reason(failure: &Failure) -> String {
    format!("{FINAL}{failure}")
}

/// The error of an attempt whose task became a dead letter for this reason.
pub(crate) fn dead_lettered(reason: &str) -> TaskError {
    let is_final = reason.starts_with(FINAL);
    let who = if is_final { "the task is a dead letter" } else { "the broker gave the task up" };
    let failure = Failure::new(codes::TASK_DEAD_LETTERED, format!("{who}: {reason}"));
    TaskError::retryable(failure).with_retryable(!is_final)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_distinguish_permanent_failures_from_transient_ones() {
        let refused = Failure::new("REJECTED", "the broker refused the event");
        let error = dead_lettered(&final_reason(&refused));
        assert_eq!((error.failure.code.as_str(), error.retryable), ("TASK_DEAD_LETTERED", false));
        assert!(error.failure.message.ends_with("the broker refused the event (REJECTED)"));
        assert!(dead_lettered("delivered too often").retryable);
    }
}
