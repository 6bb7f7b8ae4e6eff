//! Events that a group has not received although they count as published.

use aios_core::{
    Chain,
    broker::BrokerError,
    event::{EventId, EventType},
};

/// Reports that groups have missed an event whose mailbox has it.
pub(crate) fn report(event_type: &EventType, event_id: &EventId, error: &BrokerError) {
    metrics::counter!("aios_events_missed_by_groups_total").increment(1);
    tracing::warn!(
        error = %Chain(error), %event_type, %event_id,
        "an event has reached its mailbox, but not every group"
    );
}
