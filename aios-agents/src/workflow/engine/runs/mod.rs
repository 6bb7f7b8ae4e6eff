//! The runs in memory, and what wakes them: messages, timers, and events that other processes append.

pub(super) mod blocked;
pub(super) mod foreign_appends;
mod inbox;
mod live;
mod message;
pub(super) mod timers;
mod waiters;

pub(crate) use self::blocked::BlockingRuns;
pub(crate) use self::inbox::Inbox;
pub(crate) use self::live::{Activation, ActiveRuns, Starting};
pub(crate) use self::message::Message;
pub(crate) use self::timers::Timers;
pub(crate) use self::waiters::{RunOutcome, Waiter, Waiters};
