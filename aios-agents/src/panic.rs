//! Conversion of panics in user code to failures.
//!
//! Code of users runs in agents, steps, workflows, factories and projections. Each catches panics,
//! and turns them into a failure with a code of its own, so that one panic never ends the process.

use std::{any::Any, panic::resume_unwind};

use aios_core::failure::Failure;

/// The panic payload of a refused call that cannot return an error.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Failure);

/// The panic payload of code that was interrupted.
#[derive(Debug)]
struct Interrupted;

/// Leaves the code of a workflow without an outcome, because its process is about to end.
///
/// For workflows that run in another language, whose interpreter may end the process in the middle of
/// any code. The run is neither failed nor blocked, and nothing is recorded of what its code has
/// requested since the last outcome. It leaves memory and is loaded again: here after a pause, if the
/// process survives, or by the next owner.
///
/// # Panics
///
/// Always: it unwinds without a call of the panic hook. The engine catches it.
pub fn interrupt() -> ! {
    resume_unwind(Box::new(Interrupted))
}

/// Leaves the code of a workflow and blocks its run with this failure.
///
/// For workflows that run in another language and can't continue: the run continues when its code was
/// corrected.
///
/// # Panics
///
/// Always: it unwinds without a call of the panic hook. The engine catches it.
pub fn block(failure: Failure) -> ! {
    resume_unwind(Box::new(Refused(failure)))
}

/// Whether a panic is that of [`interrupt`].
pub(crate) fn is_interrupt(panic: &(dyn Any + Send)) -> bool {
    panic.is::<Interrupted>()
}

/// A panic as a failure: its message, if it was text, or why a call was refused.
pub(crate) fn panic_failure(code: &str, panic: &(dyn Any + Send)) -> Failure {
    if let Some(Refused(failure)) = panic.downcast_ref() {
        return failure.clone();
    }
    if is_interrupt(panic) {
        return Failure::new(code, "the code was interrupted");
    }
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(code, text.unwrap_or("the code panicked without a message"))
}
