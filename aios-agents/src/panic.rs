//! Conversion of panics in user code to failures.
//!
//! Code of users runs in agents, steps, workflows, factories and projections. Each catches panics,
//! and turns them into a failure with a code of its own, so that one panic never ends the process.

use std::any::Any;

use aios_core::failure::Failure;

/// The panic payload of a refused call that cannot return an error.
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
