//! The attempts that this process knows: those in progress, and the answers of the latest that ended.
//!
//! A broker delivers at least once, and an engine dispatches a task again when its delivery seems to be
//! lost. An attempt that is delivered again is therefore looked up here: it joins the one in progress,
//! or its answer is published again without the work. Attempts are distinguished by the task, the
//! incarnation of its run and their number, so a later run with the same id is not confused with it.
//!
//! The memory is bounded by 4,096 attempts and 64 MiB of answers. What it has forgotten, or what another
//! process did, is done again: a task is done at least once.
//!
//! An attempt is in one of three states: unknown, running (even while it is answered again), or
//! finished. One lock guards all maps. It is held for a few map operations and never across an
//! await. Calls to `TaskState` under the lock only set flags and wake tasks.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use aios_core::{
    agent::{TaskAssigned, TaskId},
    event::{Event, Metadata},
};
use parking_lot::Mutex;

use super::task_state::{StopReason, TaskState};

/// How many finished attempts and how many cancelled tasks are remembered.
const REMEMBERED: usize = 4_096;

/// How many bytes of answers are remembered. The oldest are forgotten first.
const REMEMBERED_BYTES: usize = 64 << 20;

/// Identifies a task across all runs and stores. A run that reuses the id of an earlier run, or of
/// a run in another store, has a different incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TaskKey {
    task_id: TaskId,
    /// `None` for a task without a run, as `TaskClient` sends it.
    incarnation: Option<Arc<str>>,
}

/// Identifies an attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    task: TaskKey,
    /// From 1; the engine counts.
    attempt: u32,
}

impl TaskKey {
    /// The task of an event with this metadata.
    pub(crate) fn new(task_id: TaskId, metadata: &Metadata) -> Self {
        Self { task_id, incarnation: metadata.incarnation.clone() }
    }
}

impl Key {
    /// The attempt that an event with this metadata assigned.
    pub(crate) fn new(assigned: &TaskAssigned, metadata: &Metadata) -> Self {
        Self::of(assigned.task_id.clone(), assigned.attempt, metadata)
    }

    /// An attempt at a task that an event with this metadata is about.
    pub(crate) fn of(task_id: TaskId, attempt: u32, metadata: &Metadata) -> Self {
        Self { task: TaskKey::new(task_id, metadata), attempt }
    }
}

/// The events that an attempt publishes when it ends.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Emitted events that are not published yet.
    pub(super) emitted: Vec<Event>,
    /// Its completion or failure.
    pub(crate) result: Event,
}

impl Answer {
    /// The size that counts towards the limit: that of the data, without envelopes.
    fn bytes(&self) -> usize {
        let events = self.emitted.iter().chain([&self.result]);
        events.map(|event| event.payload.as_str().len()).sum()
    }
}

/// Tracks running attempts and the latest finished ones, so that a repeated dispatch is recognised.
#[derive(Debug, Default)]
pub(crate) struct AttemptCache(Mutex<State>);

/// The content of the lock.
#[derive(Debug, Default)]
struct State {
    /// Ordered, because the order in which attempts are stopped must be the same in every
    /// simulation with the same seed.
    running: BTreeMap<Key, Arc<TaskState>>,
    finished: HashMap<Key, Answer>,
    /// Keys of `finished`, the oldest first.
    order: VecDeque<Key>,
    /// Sum of the sizes of `finished`.
    bytes: usize,
    /// Tasks that were cancelled. A cancellation can arrive before the task that it cancels.
    cancelled: HashSet<TaskKey>,
    /// Entries of `cancelled`, the oldest first.
    cancelled_order: VecDeque<TaskKey>,
    /// Whether the host has ended. An attempt that was spawned before its end may register after it.
    is_abandoned: bool,
}

/// The state of a dispatched attempt.
#[derive(Debug)]
pub(super) enum Lookup<'a> {
    /// A new attempt.
    New(AttemptGuard<'a>),
    /// The attempt is already running.
    Running(Arc<TaskState>),
    /// The attempt has finished with this answer, which must be published again.
    Finished(Box<Answer>, AttemptGuard<'a>),
}

impl AttemptCache {
    /// Registers an attempt that was delivered, unless it runs here. A task that was cancelled
    /// before it arrived starts as stopped, so that it is answered without running. An attempt that
    /// begins after the end of the host starts as abandoned.
    pub(super) fn begin(&self, key: Key) -> Lookup<'_> {
        let mut state = self.0.lock();
        if let Some(running) = state.running.get(&key) {
            return Lookup::Running(Arc::clone(running));
        }
        let running = Arc::new(TaskState::default());
        // Also for a finished attempt: a second redelivery while it is answered again must join,
        // not start another answer.
        state.running.insert(key.clone(), Arc::clone(&running));
        if state.is_abandoned {
            running.stop(StopReason::Abandoned);
        }
        if let Some(answer) = state.finished.get(&key).cloned() {
            return Lookup::Finished(
                Box::new(answer),
                AttemptGuard { attempt_cache: self, key, state: running },
            );
        }
        // The cancellation came before the task. The attempt still gets an answer.
        if state.cancelled.contains(&key.task) {
            running.stop(StopReason::Cancelled);
        }
        Lookup::New(AttemptGuard { attempt_cache: self, key, state: running })
    }

    /// The state of an attempt that is running or being answered.
    pub(super) fn running(&self, key: &Key) -> Option<Arc<TaskState>> {
        self.0.lock().running.get(key).cloned()
    }

    /// The answer of an attempt that has ended and is remembered.
    pub(crate) fn answered(&self, key: &Key) -> Option<Event> {
        self.0.lock().finished.get(key).map(|answer| answer.result.clone())
    }

    /// Cancels all attempts at a task, including future ones.
    pub(super) fn cancel(&self, task: &TaskKey) {
        let mut state = self.0.lock();
        state.remember_cancelled(task.clone());
        let attempts = state.running.iter().filter(|(key, _)| key.task == *task);
        attempts.for_each(|(_, running)| running.stop(StopReason::Cancelled));
    }

    /// Abandons all running attempts and those that begin later, and returns the tasks of the running
    /// ones.
    pub(crate) fn abandon(&self) -> Vec<TaskId> {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        for running in state.running.values() {
            running.withdraw();
            running.stop(StopReason::Abandoned);
        }
        state.running.keys().map(|key| key.task.task_id.clone()).collect()
    }

    /// Abandons the tasks of one agent type, or of all types, whose code has not begun. Returns how
    /// many.
    pub(crate) fn withdraw(&self, agent_type: Option<&str>) -> usize {
        let state = self.0.lock();
        let all = state.running.values();
        all.filter(|running| running.is_of(agent_type) && running.withdraw()).count()
    }

    /// The tasks of one agent type, or of all types, whose code is running.
    pub(crate) fn begun(&self, agent_type: Option<&str>) -> Vec<TaskId> {
        let state = self.0.lock();
        let begun = state.running.iter();
        let begun = begun.filter(|(_, running)| running.is_of(agent_type) && running.has_begun());
        begun.map(|(key, _)| key.task.task_id.clone()).collect()
    }
}

impl State {
    /// Remembers an answer and forgets the oldest until both limits hold. An answer that alone
    /// exceeds the limit of bytes is forgotten at once.
    fn remember(&mut self, key: Key, answer: Answer) {
        self.bytes += answer.bytes();
        match self.finished.insert(key.clone(), answer) {
            Some(replaced) => self.bytes = self.bytes.saturating_sub(replaced.bytes()),
            None => self.order.push_back(key),
        }
        while self.order.len() > REMEMBERED || self.bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(forgotten) = self.finished.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(forgotten.bytes());
            }
        }
    }

    /// Remembers a cancelled task, and forgets the oldest if there are too many.
    fn remember_cancelled(&mut self, task: TaskKey) {
        if !self.cancelled.insert(task.clone()) {
            return;
        }
        self.cancelled_order.push_back(task);
        if self.cancelled_order.len() > REMEMBERED
            && let Some(oldest) = self.cancelled_order.pop_front()
        {
            self.cancelled.remove(&oldest);
        }
    }
}

/// Registration of an attempt that is running or being answered again. Dropping it forgets the
/// attempt, unless it has finished.
#[derive(Debug)]
pub(super) struct AttemptGuard<'a> {
    /// The cache in which `key` is registered as running.
    attempt_cache: &'a AttemptCache,
    key: Key,
    /// State of the attempt, shared with the code of the agent.
    pub(crate) state: Arc<TaskState>,
}

impl AttemptGuard<'_> {
    /// Remembers the answer of the attempt.
    pub(crate) fn finish(&self, answer: &Answer) {
        self.attempt_cache.0.lock().remember(self.key.clone(), answer.clone());
    }

    /// Remembers that the emitted events are published.
    ///
    /// An answer that is published again then consists of the result only.
    pub(super) fn published_emitted(&self) {
        let mut state = self.attempt_cache.0.lock();
        let Some(answer) = state.finished.get_mut(&self.key) else { return };
        let before = answer.bytes();
        answer.emitted.clear();
        let freed = before.saturating_sub(answer.bytes());
        state.bytes = state.bytes.saturating_sub(freed);
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        // A finished attempt stays in `finished`; its entry here was that of the guard.
        self.attempt_cache.0.lock().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: usize, incarnation: Option<&str>) -> TaskKey {
        let task_id = TaskId::new(number.to_string());
        TaskKey { task_id, incarnation: incarnation.map(Into::into) }
    }

    fn key(number: usize) -> Key {
        Key { task: task(number, None), attempt: 1 }
    }

    fn answer(data: &str) -> Answer {
        let result = Event::new("agents.a.task_completed".parse().unwrap(), "test", data).unwrap();
        Answer { emitted: Vec::new(), result }
    }

    fn do_task(attempt_cache: &AttemptCache, number: usize, answer: &Answer) {
        match attempt_cache.begin(key(number)) {
            Lookup::New(guard) => guard.finish(answer),
            repeated => panic!("{repeated:?}"),
        }
    }

    #[test]
    fn should_distinguish_new_running_and_finished_attempts() {
        let attempt_cache = AttemptCache::default();
        let Lookup::New(guard) = attempt_cache.begin(key(1)) else { panic!("it is new") };
        assert!(matches!(attempt_cache.begin(key(1)), Lookup::Running(_)));
        guard.finish(&answer("a"));
        drop(guard);
        assert!(matches!(attempt_cache.begin(key(1)), Lookup::Finished(..)));
    }

    #[test]
    fn should_distinguish_tasks_of_different_incarnations() {
        let attempt_cache = AttemptCache::default();
        do_task(&attempt_cache, 1, &answer("a"));
        attempt_cache.cancel(&key(1).task);
        let again = Key { task: task(1, Some("later")), attempt: 1 };
        let Lookup::New(guard) = attempt_cache.begin(again) else { panic!("it is new") };
        assert_eq!(guard.state.stopped(), None);
    }

    #[test]
    fn should_abandon_attempts_that_begin_after_the_host_has_ended() {
        let attempt_cache = AttemptCache::default();
        let Lookup::New(before) = attempt_cache.begin(key(1)) else { panic!("it is new") };
        assert_eq!(attempt_cache.abandon(), [key(1).task.task_id]);
        let Lookup::New(after) = attempt_cache.begin(key(2)) else { panic!("it is new") };
        for guard in [before, after] {
            assert_eq!(guard.state.stopped(), Some(StopReason::Abandoned));
        }
    }

    #[test]
    fn should_forget_an_attempt_that_did_not_finish() {
        let attempt_cache = AttemptCache::default();
        drop(attempt_cache.begin(key(1)));
        assert!(matches!(attempt_cache.begin(key(1)), Lookup::New(_)));
    }

    #[test]
    fn should_forget_the_oldest_answers_by_number_and_by_size() {
        let attempt_cache = AttemptCache::default();
        let small = answer("a");
        (0..=REMEMBERED).for_each(|number| do_task(&attempt_cache, number, &small));
        assert!(matches!(attempt_cache.begin(key(0)), Lookup::New(_)));
        assert!(matches!(attempt_cache.begin(key(1)), Lookup::Finished(..)));
        let large = answer(&"x".repeat(1 << 20));
        let larges = REMEMBERED + 1..REMEMBERED + 65;
        larges.clone().for_each(|number| do_task(&attempt_cache, number, &large));
        assert!(matches!(attempt_cache.begin(key(REMEMBERED)), Lookup::New(_)));
        assert!(matches!(attempt_cache.begin(key(larges.end - 1)), Lookup::Finished(..)));
        assert!(attempt_cache.0.lock().bytes <= REMEMBERED_BYTES);
    }

    #[test]
    fn should_remember_a_bounded_number_of_cancelled_tasks() {
        let attempt_cache = AttemptCache::default();
        (0..=REMEMBERED).for_each(|number| attempt_cache.cancel(&key(number).task));
        for (number, stopped) in [(0, None), (1, Some(StopReason::Cancelled))] {
            let Lookup::New(guard) = attempt_cache.begin(key(number)) else { panic!("it is new") };
            assert_eq!(guard.state.stopped(), stopped);
        }
    }
}
