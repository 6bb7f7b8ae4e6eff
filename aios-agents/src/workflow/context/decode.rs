//! The results of operations as types of the user.

use std::error::Error;

use aios_core::{catalog::codes, event::EventError, failure::Failure};
use serde::de::DeserializeOwned;

use crate::workflow::WorkflowError;

/// A type that a task, a signal or a child can resolve to: every type that serde can deserialise
/// without borrowing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result type of an operation",
    note = "name the type, as in `let answer: Plan = ...` or `context.task::<Plan>(...)`; use `()` if \
            there is no result or `serde_json::Value` for any result",
    note = "the type must implement `serde::Deserialize` (`#[derive(serde::Deserialize)]`) and own its \
            data: `String`, not `&str`"
)]
pub trait Answer: DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> Answer for T {}

/// The failure of an outcome that cannot be decoded as a `T`.
///
/// The result itself is recorded and stays in the journal.
pub(super) fn decode_error<T>(whose: &str, error: &EventError) -> WorkflowError {
    let expected = short(std::any::type_name::<T>());
    let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let message = format!("{whose} is not a valid {expected}: {reason}");
    WorkflowError::failed(Failure::new(codes::INVALID_RESULT, message))
}

/// A type name without module paths.
///
/// `Vec<Plan>` instead of `alloc::vec::Vec<shop::Plan>`: the message is for the author of the workflow.
fn short(type_name: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    for letter in type_name.chars() {
        match letter {
            ':' => word.clear(),
            letter if letter.is_alphanumeric() || letter == '_' => word.push(letter),
            letter => {
                short.push_str(&word);
                short.push(letter);
                word.clear();
            }
        }
    }
    short + &word
}
