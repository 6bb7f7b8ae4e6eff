//! What a panic of user code becomes.

use std::any::Any;

use aios_core::failure::Failure;

/// What unwinds from a call that was refused and returns no error.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Failure);

/// A panic as a failure: its message, if it was text, or why a call was refused.
pub(crate) fn panic_failure(code: &str, panic: &(dyn Any + Send)) -> Failure {
    if let Some(Refused(failure)) = panic.downcast_ref() {
        return failure.clone();
    }
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(code, text.unwrap_or("the code panicked without a message"))
}
