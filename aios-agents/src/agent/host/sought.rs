//! Tells an engine which attempts this process has, when it asks after it has taken over their run.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    agent::TaskHeartbeat,
    catalog::agent::Attempt,
    event::{Event, EventId, Payload},
};

use super::{Shared, attempt_cache::Key, hosted::HostedType};
use crate::task;

/// The assignments that wait in this process for a slot, by the ids of their events.
#[derive(Debug, Default)]
pub(super) struct HeldAssignments(Mutex<HashSet<EventId>>);

impl HeldAssignments {
    fn ids(&self) -> MutexGuard<'_, HashSet<EventId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, id: &EventId) -> bool {
        self.ids().contains(id)
    }
}

/// An assignment that waits for a slot, until it is dropped.
pub(super) struct HeldAssignment {
    shared: Arc<Shared>,
    id: EventId,
}

impl HeldAssignment {
    pub(super) fn new(shared: &Arc<Shared>, id: &EventId) -> Self {
        shared.held.ids().insert(id.clone());
        Self { shared: Arc::clone(shared), id: id.clone() }
    }
}

impl Drop for HeldAssignment {
    fn drop(&mut self) {
        self.shared.held.ids().remove(&self.id);
    }
}

/// Sends a heartbeat to the engine that asks, if this process has the attempt. A blocked process
/// does not report, so that its tasks are assigned to others.
pub(super) fn report(types: &[Arc<HostedType>], question: &Event) {
    let of_type = |hosted: &&Arc<HostedType>| *hosted.type_name == *question.event_type.entity();
    let Some(hosted) = types.iter().find(of_type).filter(|hosted| !hosted.place.is_blocked())
    else {
        return;
    };
    let assignment = question.metadata.causation_id.as_deref().and_then(|id| id.parse().ok());
    let (Some(assignment), Ok(Attempt { task_id, attempt })) = (assignment, question.data()) else {
        tracing::warn!(event_id = %question.id, "ignored a question about an attempt that can't be read");
        return;
    };
    let key = Key::of(task_id.clone(), attempt, &question.metadata);
    let has_begun = hosted.shared.attempt_cache.running(&key).map(|running| running.has_begun());
    let is_held = || hosted.shared.held.contains(&assignment);
    let waits = match has_begun {
        Some(has_begun) => !has_begun,
        None if is_held() => true,
        None => return,
    };
    let progress = Payload::null();
    let beat = TaskHeartbeat { task_id, attempt, progress, waits, asks: false };
    // Heartbeats name the assignment as their cause. This one goes to the engine that asks.
    let parent = question.clone().with_id(assignment);
    let hosted = Arc::clone(hosted);
    task::spawn(async move { hosted.publish_heartbeat(&parent, &beat).await });
}
