//! What a panic of user code becomes.

use std::any::Any;

use aios_core::failure::Failure;

/// A panic as a failure: its message, if it was text.
pub(crate) fn panic_failure(code: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(code, text.unwrap_or("the code panicked without a message"))
}
