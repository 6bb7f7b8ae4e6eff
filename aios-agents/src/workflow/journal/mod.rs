//! The journal of a run: its stream, read as entries.

mod codec;
mod entry;
mod journals;

pub use self::entry::{
    Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, Entry, EventEmitted,
    Failed, OfAgent, OperationFailed, Parent, RetryScheduled, SignalAwaited, Signaled, Started,
    StatusSet, StepCompleted, TaskCancelled, TimerFired, TimerStarted, VersionMarked,
};
pub(crate) use self::{
    codec::{Codec, Record, decode},
    journals::{JournalError, Journals},
};
