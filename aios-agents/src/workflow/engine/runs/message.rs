//! The messages to a run in memory.
//!
//! Most of them are hints: the journal, the timers of the machine or the leases say what is true, and a
//! hint that is lost costs time. The exception is an answer, which the broker keeps until it is
//! acknowledged.

use aios_core::{
    broker::{DeadLetter, Delivery},
    failure::Failure,
};

/// Messages sent to a run.
#[derive(Debug)]
pub(crate) enum Message {
    /// Another process or task appended to its stream.
    Wake,
    /// A timer of this operation is due.
    TimerDue(u64),
    /// An agent answered.
    Answer(Box<Delivery>),
    /// A task could not be delivered to any agent.
    Undeliverable { operation: u64, attempt: u32, failure: Failure, retryable: bool },
    /// The delivery of a task became a dead letter.
    DeadLettered {
        /// The operation.
        operation: u64,
        /// The attempt.
        attempt: u32,
        /// The dead letter.
        letter: Box<DeadLetter>,
    },
    /// The broker could not take a task now.
    Deferred {
        /// The operation.
        operation: u64,
        /// The attempt.
        attempt: u32,
        /// Whether the broker may have taken it nevertheless.
        is_uncertain: bool,
    },
    /// The broker has the question which process has an attempt.
    Sought { operation: u64, attempt: u32 },
    /// The broker may have lost the tasks that no agent has begun.
    Suspect,
    /// The run is about to move to another engine: it begins nothing new, and leaves memory as soon
    /// as no step of it is running.
    Leave,
    /// The run does not move after all.
    Stay,
    /// This engine no longer owns the run.
    Lost,
}
