//! The runs in memory, and what wakes them: messages, timers, and events that other processes append.

pub(super) mod blocked;
pub(super) mod foreign_appends;
mod inbox;
mod live;
mod message;
pub(super) mod timers;
mod waiters;

pub(crate) use self::{
    blocked::BlockingRuns,
    inbox::Inbox,
    live::{Activation, ActiveRuns, Starting},
    message::Message,
    timers::{Timers, measure_lateness},
    waiters::{RunOutcome, Waiter, Waiters},
};
