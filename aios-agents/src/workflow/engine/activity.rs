use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_core::{agent::Name, broker::Address, event::Timestamp};
use metrics::gauge;
use tokio::sync::Notify;

use super::{Engine, EngineOptions};
use crate::agent::{FIRST_BEAT, group_of, mailbox_of};

/// How often the log may say of one queue that nobody takes its tasks.
const COMPLAINT: Duration = Duration::from_secs(600);

/// What this engine has heard of the agents of each type: how far their queue has moved.
#[derive(Debug, Default)]
pub(super) struct Activity {
    heard: Mutex<HashMap<Name, Heard>>,
    queued: Mutex<HashMap<Queue, Waiting>>,
    /// When the log said last that nobody takes the tasks of a queue.
    complaints: Mutex<HashMap<Queue, Timestamp>>,
    /// The broker may have lost tasks.
    suspected: Notify,
}

/// An agent type, and the one agent of it that is to do a task, if any.
pub(super) type Queue = (Name, Option<Box<str>>);

/// Tasks of a queue that no agent has begun.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    count: usize,
    /// When the broker was first and last seen to have none of them, since it was seen to have some.
    empty: Option<(Timestamp, Timestamp)>,
    /// Whether the broker did not have the queue when it was asked last.
    is_gone: bool,
}

impl Waiting {
    fn note(&mut self, is_empty: bool, at: Timestamp) {
        let first = self.empty.map_or(at, |(first, _)| first);
        self.empty = is_empty.then_some((first, at));
    }
}

/// Counts a task among those that no agent has begun, until it is dropped.
#[derive(Debug)]
pub(super) struct Queued {
    engine: Arc<Engine>,
    queue: Queue,
    /// Whether it was said that nobody takes it.
    is_unclaimed: bool,
    /// When it was first seen that agents have begun later ones.
    overtaken_at: Option<Timestamp>,
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
    pub(super) fn heard(&self, agent_type: &Name, at: Timestamp, assigned_at: Timestamp) {
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

    pub(super) fn of(&self, agent_type: &Name) -> Option<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(agent_type).copied()
    }

    /// The broker may have lost tasks.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Completes when the broker may have lost tasks.
    pub(super) async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// The queues of the tasks that no agent has begun, by address.
    pub(super) fn queued(&self) -> BTreeMap<Address, Queue> {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.keys().filter_map(|queue| Some((address(queue)?, queue.clone()))).collect()
    }

    /// Whether the broker has no tasks in a queue at this moment.
    pub(super) fn note(&self, queue: &Queue, is_empty: bool, at: Timestamp) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = queued.get_mut(queue) {
            waiting.note(is_empty, at);
            waiting.is_gone = false;
        }
    }

    /// The broker has no such queue at this moment. Returns whether that is news.
    pub(super) fn note_gone(&self, queue: &Queue, at: Timestamp) -> bool {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = queued.get_mut(queue) else { return false };
        waiting.note(true, at);
        !std::mem::replace(&mut waiting.is_gone, true)
    }

    /// When the broker was first and last seen to have no tasks in a queue, if it had none lately.
    fn empty(&self, queue: &Queue) -> Option<(Timestamp, Timestamp)> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).get(queue)?.empty
    }

    /// Whether the log is to say now that nobody takes the tasks of a queue.
    pub(super) fn may_complain(&self, queue: &Queue, now: Timestamp) -> bool {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.retain(|_, at| *at + COMPLAINT > now);
        let is_new = !complaints.contains_key(queue);
        if is_new {
            complaints.insert(queue.clone(), now);
        }
        is_new
    }

    fn count(&self, queue: &Queue) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        match queued.get_mut(queue) {
            Some(waiting) => waiting.count += 1,
            None => drop(queued.insert(queue.clone(), Waiting { count: 1, ..Waiting::default() })),
        }
    }

    fn discount(&self, queue: &Queue) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = queued.get_mut(queue) {
            waiting.count -= 1;
            if waiting.count == 0 {
                queued.remove(queue);
            }
        }
    }
}

/// How long a task is missing before it seems to be lost: whoever has it says so before.
pub(super) fn silence(options: &EngineOptions) -> Duration {
    FIRST_BEAT + options.task_grace
}

/// The group or mailbox of a queue; `None` for an agent that there can't be.
fn address((agent_type, agent_id): &Queue) -> Option<Address> {
    match agent_id {
        Some(agent_id) => Some(mailbox_of(agent_type, agent_id).ok()?.into()),
        None => Some(group_of(agent_type).ok()?.into()),
    }
}

impl Queued {
    pub(super) fn new(engine: &Arc<Engine>, agent_type: &Name, agent_id: Option<&str>) -> Self {
        let queue = (agent_type.clone(), agent_id.map(Into::into));
        engine.activity.count(&queue);
        Self { engine: Arc::clone(engine), queue, is_unclaimed: false, overtaken_at: None }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn is_unclaimed(&self) -> bool {
        self.is_unclaimed
    }

    /// Counts the task among those that nobody takes.
    pub(super) fn set_unclaimed(&mut self) {
        if !std::mem::replace(&mut self.is_unclaimed, true) {
            gauge!("aios_tasks_unclaimed", "agent_type" => self.queue.0.to_string()).increment(1.0);
        }
    }

    /// Whether the message of a task seems to be gone that nobody has begun, and that was given, or
    /// heard of, at `since`: the broker has had none for so long, or later ones were begun so long ago,
    /// that a process that holds it would have reported it.
    pub(super) fn seems_lost(&mut self, since: Timestamp, now: Timestamp) -> bool {
        let silence = silence(&self.engine.options);
        let empty = self.engine.activity.empty(&self.queue);
        let is_absent = empty.is_some_and(|(first, last)| first.max(since) + silence <= last);
        let heard = self.engine.activity.of(&self.queue.0);
        let is_overtaken = self.queue.1.is_none() && heard.is_some_and(|it| it.newest > since);
        if !is_overtaken {
            self.overtaken_at = None;
            return is_absent;
        }
        is_absent || *self.overtaken_at.get_or_insert(now) + silence <= now
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.engine.activity.discount(&self.queue);
        if self.is_unclaimed {
            gauge!("aios_tasks_unclaimed", "agent_type" => self.queue.0.to_string()).decrement(1.0);
        }
    }
}
