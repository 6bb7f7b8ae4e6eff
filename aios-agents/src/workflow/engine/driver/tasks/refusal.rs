//! Answers that are not accepted.
//!
//! An event in the mailbox of an engine may come from anywhere. If it is not an answer, it becomes a dead
//! letter, with a reason for the author of the agent, and is not dropped silently.

use aios_core::{Chain, broker::Delivery};
use tracing::warn;

/// Reason for refusing an answer that names no cause.
pub(in super::super::super) const ANONYMOUS: &str = "it does not name the event that assigned the task: its metadata must \
    contain the id of that event as causation_id";

/// Why an event in the mailbox is not accepted as an answer.
#[derive(Debug)]
pub(in super::super::super) enum Refusal {
    /// The attempt has been answered or abandoned.
    NotAwaited,
    /// It does not come from the agents that were assigned the task, or is not a valid answer.
    Foreign(&'static str),
}

/// Dead-letters an answer, with the reason.
pub(in super::super::super) async fn refuse(delivery: Delivery, reason: &str) {
    warn!(
        event_id = %delivery.event.id, reason,
        event_type = %delivery.event.event_type, "refused an answer"
    );
    if let Err(error) = delivery.dead_letter(reason).await {
        warn!(error = %Chain(&error), "could not dead-letter an answer; it will be delivered again");
    }
}
