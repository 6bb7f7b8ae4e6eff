//! Child runs: their start, their end and their cancellation, on whichever engine they run.

mod cancel;
mod child;

pub(crate) use child::Child;
