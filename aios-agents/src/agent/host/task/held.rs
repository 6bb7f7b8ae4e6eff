//! Tasks that this process has received but can't begin yet.
//!
//! A consumer pops a task from here as soon as a slot is free, in the order of delivery. Until then
//! the host sends heartbeats that say that the task waits, the first within a second. Dropping the
//! collection releases all deliveries to the broker.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    agent::{TaskAssigned, TaskHeartbeat},
    broker::Delivery,
    clock::Clock,
    event::Event,
};

use super::sought::HeldAssignment;
use crate::{
    agent::host::{FIRST_BEAT, hosted::HostedType},
    task,
};

/// Deliveries that wait for a slot, in order. The broker no longer counts them as waiting, so this
/// process sends heartbeats for them; otherwise the engine would consider them lost.
#[derive(Default)]
pub(crate) struct Held(VecDeque<Waiting>);

/// One delivery that waits.
struct Waiting {
    delivery: Delivery,
    /// When its next heartbeat is due, by the monotonic time of the clock.
    beat_at: Duration,
    /// Lists the assignment among those that this process has.
    _listed: HeldAssignment,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a delivery at the end, and lists its assignment as held by this process.
    pub(crate) fn push(&mut self, delivery: Delivery, hosted: &HostedType) {
        let first = hosted.shared.options.heartbeat_interval.min(FIRST_BEAT);
        let beat_at = hosted.shared.clock.elapsed().saturating_add(first);
        let listed = HeldAssignment::new(&hosted.shared, &delivery.event.id);
        self.0.push_back(Waiting { delivery, beat_at, _listed: listed });
    }

    /// Takes the delivery that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        self.0.pop_front().map(|waiting| waiting.delivery)
    }

    /// Completes when the next heartbeat is due.
    pub(crate) fn beat_due(&self, clock: &dyn Clock) -> BoxFuture<'static, ()> {
        let next = self.0.iter().map(|waiting| waiting.beat_at).min();
        clock.sleep(next.unwrap_or(Duration::MAX).saturating_sub(clock.elapsed()))
    }

    /// Sends the heartbeats that are due.
    pub(crate) fn beat(&mut self, hosted: &Arc<HostedType>) {
        let now = hosted.shared.clock.elapsed();
        let due = self.0.iter_mut().filter(|waiting| waiting.beat_at <= now);
        let beats: Vec<(Event, TaskHeartbeat)> = due
            .filter_map(|waiting| {
                waiting.beat_at = now.saturating_add(hosted.shared.options.heartbeat_interval);
                let event = waiting.delivery.event.clone();
                // A task that can't be decoded is refused when it gets its slot.
                let TaskAssigned { task_id, attempt, .. } = event.data().ok()?;
                let mut beat = TaskHeartbeat::new(task_id, attempt);
                beat.waits = true;
                Some((event, beat))
            })
            .collect();
        let hosted = Arc::clone(hosted);
        // Spawned, because the consumer must not wait for the broker while slots become free.
        task::spawn(async move {
            for (task, beat) in beats {
                hosted.publish_heartbeat(&task, &beat).await;
            }
        });
    }
}
