//! Tells the failures that the function of a tool returns from all others.
//!
//! A function may use any code, also one of the engine, so a code does not say who failed. The process
//! that runs the function marks what it returns, in the details of the failure. A failure without the
//! mark is one of the engine, the broker or the store, and says nothing about the outcome of the call.

use aios_core::{catalog::codes, failure::Failure};
use serde_json::Value;

/// The field of the details that marks a failure.
const MARK: &str = "is_of_tool";
/// Codes of a function that was stopped before it returned, or does not know its outcome.
const UNKNOWN: [&str; 2] = [codes::INTERRUPTED, codes::WRITE_IN_DOUBT];

/// Marks a failure that the function of a tool has returned, unless its code says that the outcome is
/// unknown. Details that are not an object move to the field `cause`.
pub(super) fn returned(failure: Failure) -> Failure {
    let is_known = !UNKNOWN.contains(&&*failure.code);
    let details = failure.details.with_field(MARK, Value::Bool(is_known));
    Failure { details, ..failure }
}

/// Whether the function of the tool has returned this failure, and knows its outcome.
pub(crate) fn is_returned(failure: &Failure) -> bool {
    failure.details.get(MARK) == Some(true)
}
