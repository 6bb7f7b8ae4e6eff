//! Child runs: their start, their end, their checks and their cancellation, on whichever engine they run.

mod cancel;
mod child;
mod watch;

pub(crate) use child::Child;
pub(crate) use watch::{AwaitedChild, ChildWatch};
