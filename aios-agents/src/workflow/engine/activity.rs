use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use aios_core::{agent::Segment, broker::Address, event::Timestamp};

use super::Engine;
use crate::agent::{group_of, mailbox_of};

/// What this engine has heard of the agents of each type: how far their queue has moved.
#[derive(Debug, Default)]
pub(super) struct Activity {
    heard: Mutex<HashMap<Segment, Heard>>,
    queued: Mutex<HashMap<Queue, usize>>,
}

/// An agent type, and the one agent of it that is to do a task, if any.
type Queue = (Segment, Option<Box<str>>);

/// Counts a task among those that no agent has begun, until it is dropped.
#[derive(Debug)]
pub(super) struct Queued {
    engine: Arc<Engine>,
    queue: Queue,
}

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
        let mut types = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(agent_type).copied()
    }

    /// The addresses of the tasks that no agent has begun.
    pub(super) fn queued(&self) -> BTreeSet<Address> {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.keys().filter_map(address).collect()
    }

    fn count(&self, queue: &Queue) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        match queued.get_mut(queue) {
            Some(count) => *count += 1,
            None => drop(queued.insert(queue.clone(), 1)),
        }
    }

    fn discount(&self, queue: &Queue) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = queued.get_mut(queue) {
            *count -= 1;
            if *count == 0 {
                queued.remove(queue);
            }
        }
    }
}

/// The group or mailbox of a queue; `None` for an agent that there can't be.
fn address((agent_type, agent_id): &Queue) -> Option<Address> {
    match agent_id {
        Some(agent_id) => Some(mailbox_of(agent_type, agent_id).ok()?.into()),
        None => Some(group_of(agent_type).ok()?.into()),
    }
}

impl Queued {
    pub(super) fn new(engine: &Arc<Engine>, agent_type: &Segment, agent_id: Option<&str>) -> Self {
        let queue = (agent_type.clone(), agent_id.map(Into::into));
        engine.activity.count(&queue);
        Self { engine: Arc::clone(engine), queue }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.engine.activity.discount(&self.queue);
    }
}
