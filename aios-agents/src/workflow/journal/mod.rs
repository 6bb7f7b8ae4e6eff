//! The journal of a run: its stream, read as entries.

mod codec;
mod copy;
mod entry;
mod journals;
mod parentage;
mod same;
mod seed;

pub use self::entry::{
    Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, Entry, EventEmitted,
    Failed, Moved, OfAgent, OperationFailed, Parent, Predecessor, RetryScheduled, SignalAwaited,
    Signaled, Started, StatusSet, StepCompleted, TaskCancelled, TimerFired, TimerStarted,
    VersionMarked,
};
pub use self::seed::{DrawnFrom, Seed};
pub(crate) use self::{
    codec::{Codec, Record, decode},
    copy::{Fork, is_copy, mark_copy},
    journals::{JournalError, Journals, NOT_CONTINUED},
    same::is_same,
};
