//! The journal of a run: its stream, read as entries.
//!
//! Every event of the stream is an [`Entry`]. A run has no other state: the replay of its entries leads
//! to the same code, with the same values, at the same place.
//!
//! | file | contents |
//! |---|---|
//! | `entry`, `codec` | entries, and how they become events |
//! | `journals`, `parentage`, `waits` | what a process may ask of a journal and append to it without owning the run |
//! | `copy`, `seed` | forks, and the seed of a run's UUIDs |
//! | `same` | whether two inputs are the same, to recognise a repeated start |

mod codec;
mod copy;
mod entry;
mod error;
mod journals;
mod parentage;
mod same;
mod seed;
mod selection;
mod waits;

pub use aios_core::{
    agent::TaskCancelled,
    catalog::workflow::{
        Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, DrawnFrom,
        EventEmitted, Failed, InheritedChild, Moved, OperationFailed, Parent, Predecessor,
        RetryScheduled, Seed, SignalAwaited, Signaled, Started, StatusSet, StepCompleted,
        TimerFired, TimerStarted, Unblocked, VersionMarked,
    },
};

pub use self::entry::{AgentEvent, Entry};
pub(crate) use self::{
    codec::{Codec, Record, decode},
    copy::{Fork, is_copy, mark_copy, unmark_copy},
    error::JournalError,
    journals::{Journals, on_behalf_of},
    same::is_same,
    seed::{seed_of, uuid_at},
    selection::Selection,
};
