//! The journal of a run: its stream, read as entries.

mod codec;
mod copy;
mod entry;
mod error;
mod journals;
mod parentage;
mod same;
mod seed;
mod waits;

pub use aios_core::{
    agent::TaskCancelled,
    catalog::workflow::{
        Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, DrawnFrom,
        EventEmitted, Failed, Moved, OperationFailed, Parent, Predecessor, RetryScheduled, Seed,
        SignalAwaited, Signaled, Started, StatusSet, StepCompleted, TimerFired, TimerStarted,
        VersionMarked,
    },
};

pub use self::entry::{AgentEvent, Entry};
pub(crate) use self::{
    codec::{Codec, Record, decode},
    copy::{Fork, is_copy, mark_copy},
    error::JournalError,
    journals::{Journals, NOT_CONTINUED},
    same::is_same,
    seed::{seed_of, uuid_at},
};
