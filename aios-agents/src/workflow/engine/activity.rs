use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aios_core::{agent::Segment, event::Timestamp};

/// What this engine has heard of the agents of each type: how far their queue has moved.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<HashMap<Segment, Heard>>);

/// What was heard of the agents of one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// When an agent last began or ended a task.
    pub(super) at: Timestamp,
    /// When the task that was assigned last, of those heard of, was assigned.
    pub(super) newest: Timestamp,
}

impl Activity {
    /// An agent began or ended a task that was assigned at `assigned_at`.
    pub(super) fn note(&self, agent_type: &Segment, at: Timestamp, assigned_at: Timestamp) {
        let mut types = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match types.get_mut(agent_type) {
            Some(heard) => {
                heard.at = heard.at.max(at);
                heard.newest = heard.newest.max(assigned_at);
            }
            None => {
                types.insert(agent_type.clone(), Heard { at, newest: assigned_at });
            }
        }
    }

    pub(super) fn of(&self, agent_type: &Segment) -> Option<Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(agent_type).copied()
    }
}
