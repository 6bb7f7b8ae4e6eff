//! The state of the queues of agents, as far as this engine can tell.
//!
//! The broker does not tell an engine whether a task that it took still exists, and no agent reports a
//! task that it does not have. So the engine draws conclusions from what it sees:
//!
//! | it sees | it concludes |
//! |---|---|
//! | an agent begins or ends a task | the queue has moved up to that task |
//! | an agent begins a task that was assigned later than another one | the other one may be lost |
//! | the broker has no tasks in the queue for longer than a process would be silent | the tasks that no process reports are lost |
//! | the queue does not exist any more | the same, and other queues may have lost tasks too |
//! | the mailbox of the engine was gone when it joined | all tasks that were dispatched before are lost |
//!
//! `dead_letters` counts the queues, `driver/assignment` and `driver/unclaimed` decide for each
//! attempt. All locks here are held for single look-ups, and none while another one is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use aios_core::{agent::Name, broker::Address, event::Timestamp};
use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    agent::{FIRST_BEAT, group_of, mailbox_of},
    workflow::engine::{Engine, EngineOptions},
};

/// How often the log may warn about one queue whose tasks no agent takes.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// How long the queues of sought tasks are counted frequently.
const SEEKING: Duration = Duration::from_secs(4);

/// The activity of the agents of each type: how far their queues have moved.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// How far the queue of each type has moved.
    by_type: Mutex<HashMap<Name, TypeActivity>>,
    /// The queues that have tasks of this engine which no agent has begun.
    queued: Mutex<BTreeMap<Queue, Waiting>>,
    /// When the log last warned about a queue.
    warned_at: Mutex<HashMap<Queue, Timestamp>>,
    /// Notified when the broker may have lost tasks.
    suspected: Notify,
    /// When the engine joined, if the broker had lost everything that was dispatched before.
    broker_empty_at: OnceLock<Timestamp>,
    /// When a task was last sought.
    sought_at: Mutex<Option<Timestamp>>,
}

/// An agent type, and the agent of it that the tasks are addressed to, if any.
pub(crate) type Queue = (Name, Option<Box<str>>);

/// Tasks of a queue that no agent has begun.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// Number of tasks, each of which has a `Queued`.
    count: usize,
    /// When the broker was first and last seen to have none of them, since it last had some.
    empty: Option<(Timestamp, Timestamp)>,
    /// Whether the queue did not exist at the last check.
    is_gone: bool,
}

impl Waiting {
    /// Notes what a check has seen. A queue that has tasks again restarts the time.
    fn note(&mut self, is_empty: bool, at: Timestamp) {
        let first = self.empty.map_or(at, |(first, _)| first);
        self.empty = is_empty.then_some((first, at));
    }
}

/// Counts a task among those that no agent has begun, until it is dropped.
#[derive(Debug)]
pub(crate) struct Queued {
    /// To count down when it is dropped.
    engine: Arc<Engine>,
    /// The queue that the task is in.
    queue: Queue,
    /// Whether an agent had begun the task and has stopped sending heartbeats.
    is_silent: bool,
    /// Whether the task was reported as unclaimed.
    is_unclaimed: bool,
    /// When agents were first seen to have begun later tasks.
    overtaken_at: Option<Timestamp>,
}

/// Activity of the agents of one type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TypeActivity {
    /// When an agent last began or ended a task.
    pub(crate) at: Timestamp,
    /// Assignment time of the newest task that an agent began or ended.
    pub(crate) newest: Timestamp,
}

impl Activity {
    /// Records that an agent began or ended a task that was assigned at `assigned_at`.
    pub(crate) fn record(&self, agent_type: &Name, at: Timestamp, assigned_at: Timestamp) {
        let mut types = self.by_type.lock();
        match types.get_mut(agent_type) {
            Some(activity) => {
                activity.at = activity.at.max(at);
                activity.newest = activity.newest.max(assigned_at);
            }
            None => {
                types.insert(agent_type.clone(), TypeActivity { at, newest: assigned_at });
            }
        }
    }

    /// The activity of a type, if an agent of it has been active since this engine started.
    pub(crate) fn of(&self, agent_type: &Name) -> Option<TypeActivity> {
        self.by_type.lock().get(agent_type).copied()
    }

    /// Notes that the broker may have lost tasks.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Notes that the broker has lost everything that was dispatched until now.
    pub(crate) fn set_broker_empty(&self, now: Timestamp) {
        // An engine joins for the first time once.
        let _ = self.broker_empty_at.set(now);
    }

    /// Whether the broker is known to have lost a task that was dispatched at this time.
    pub(crate) fn has_lost(&self, dispatched_at: Timestamp) -> bool {
        self.broker_empty_at.get().is_some_and(|at| dispatched_at <= *at)
    }

    /// Notes that a task is sought, which the broker may have lost.
    pub(crate) fn seek(&self, now: Timestamp) {
        let mut sought_at = self.sought_at.lock();
        // A takeover seeks the tasks of many runs.
        if sought_at.is_none_or(|at| at + FIRST_BEAT <= now) {
            *sought_at = Some(now);
            self.suspect();
        }
    }

    /// Whether tasks are sought, so that their queues are counted frequently.
    pub(super) fn is_seeking(&self, now: Timestamp) -> bool {
        let sought_at = self.sought_at.lock();
        sought_at.is_some_and(|at| now < at + SEEKING)
    }

    /// Completes once the broker may have lost tasks.
    pub(super) async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// The queues of the tasks that no agent has begun, by address.
    pub(crate) fn queued(&self) -> BTreeMap<Address, Queue> {
        let queued = self.queued.lock();
        queued.keys().filter_map(|queue| Some((address(queue)?, queue.clone()))).collect()
    }

    /// Notes whether the broker has no tasks in a queue.
    pub(crate) fn note(&self, queue: &Queue, is_empty: bool, at: Timestamp) {
        let mut queued = self.queued.lock();
        if let Some(waiting) = queued.get_mut(queue) {
            waiting.note(is_empty, at);
            waiting.is_gone = false;
        }
    }

    /// Notes that a queue does not exist. Returns whether it existed at the last check.
    pub(super) fn note_gone(&self, queue: &Queue, at: Timestamp) -> bool {
        let mut queued = self.queued.lock();
        let Some(waiting) = queued.get_mut(queue) else { return false };
        waiting.note(true, at);
        !std::mem::replace(&mut waiting.is_gone, true)
    }

    /// When the broker was first and last seen to have no tasks in a queue, unless it had some at
    /// the last check.
    fn empty(&self, queue: &Queue) -> Option<(Timestamp, Timestamp)> {
        self.queued.lock().get(queue)?.empty
    }

    /// Whether to warn now that no agent takes the tasks of a queue.
    pub(crate) fn should_warn(&self, queue: &Queue, now: Timestamp) -> bool {
        let mut warned_at = self.warned_at.lock();
        warned_at.retain(|_, at| *at + WARN_INTERVAL > now);
        let is_new = !warned_at.contains_key(queue);
        if is_new {
            warned_at.insert(queue.clone(), now);
        }
        is_new
    }

    /// Counts a task of a queue.
    fn increment(&self, queue: &Queue) {
        let mut queued = self.queued.lock();
        match queued.get_mut(queue) {
            Some(waiting) => waiting.count += 1,
            None => drop(queued.insert(queue.clone(), Waiting { count: 1, ..Waiting::default() })),
        }
    }

    /// Counts a task of a queue no longer. A queue without tasks is forgotten.
    fn decrement(&self, queue: &Queue) {
        let mut queued = self.queued.lock();
        if let Some(waiting) = queued.get_mut(queue) {
            waiting.count -= 1;
            if waiting.count == 0 {
                queued.remove(queue);
            }
        }
    }
}

/// How long a task may be missing before it counts as lost: a process that holds it reports it
/// earlier.
pub(crate) fn lost_after(options: &EngineOptions) -> Duration {
    FIRST_BEAT + options.task_grace
}

/// The group or mailbox of a queue; `None` if its name is invalid.
fn address((agent_type, agent_id): &Queue) -> Option<Address> {
    match agent_id {
        Some(agent_id) => Some(mailbox_of(agent_type, agent_id).ok()?.into()),
        None => Some(group_of(agent_type).ok()?.into()),
    }
}

impl Queued {
    /// A task that was dispatched and that no agent has begun.
    pub(crate) fn new(engine: &Arc<Engine>, agent_type: &Name, agent_id: Option<&str>) -> Self {
        engine.durations.queued(agent_type, 1.0);
        let mut queued = Self::silent(engine, agent_type, agent_id);
        queued.is_silent = false;
        queued
    }

    /// A task that an agent has begun and may have abandoned.
    pub(crate) fn silent(engine: &Arc<Engine>, agent_type: &Name, agent_id: Option<&str>) -> Self {
        let queue = (agent_type.clone(), agent_id.map(Into::into));
        engine.activity.increment(&queue);
        let engine = Arc::clone(engine);
        Self { engine, queue, is_silent: true, is_unclaimed: false, overtaken_at: None }
    }

    /// The queue that the task is in.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether the task was reported as unclaimed.
    pub(crate) fn is_unclaimed(&self) -> bool {
        self.is_unclaimed
    }

    /// Counts the task as unclaimed.
    pub(crate) fn set_unclaimed(&mut self) {
        if !std::mem::replace(&mut self.is_unclaimed, true) {
            gauge!("aios_tasks_unclaimed", "agent_type" => self.queue.0.to_string()).increment(1.0);
        }
    }

    /// Whether the delivery of a task that no agent has begun seems to be lost. `since` is when it
    /// was last dispatched, sought or reported; tasks that were recorded after `place` are behind
    /// it in the queue. The queue has been empty, or agents have begun later tasks, for so long that
    /// a process that holds the task would have reported it.
    pub(crate) fn seems_lost(
        &mut self,
        since: Timestamp,
        place: Timestamp,
        lost_after: Duration,
        now: Timestamp,
    ) -> bool {
        let empty = self.engine.activity.empty(&self.queue);
        let is_absent = empty.is_some_and(|(first, last)| first.max(since) + lost_after <= last);
        let activity = self.engine.activity.of(&self.queue.0);
        // Only for the queue of a type: the tasks of one agent are not ordered with those of others.
        let is_overtaken = self.queue.1.is_none() && activity.is_some_and(|it| it.newest > place);
        if !is_overtaken {
            self.overtaken_at = None;
            return is_absent;
        }
        is_absent || *self.overtaken_at.get_or_insert(now) + lost_after <= now
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.engine.activity.decrement(&self.queue);
        if !self.is_silent {
            self.engine.durations.queued(&self.queue.0, -1.0);
        }
        if self.is_unclaimed {
            gauge!("aios_tasks_unclaimed", "agent_type" => self.queue.0.to_string()).decrement(1.0);
        }
    }
}
