use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    agent::{TaskAssigned, TaskId},
    event::{Event, Metadata},
};

use super::running::{Running, Stop};

/// How many finished attempts, and cancelled tasks, are remembered.
const REMEMBERED: usize = 4_096;

/// How many bytes of answers are remembered; older ones are forgotten first.
const REMEMBERED_BYTES: usize = 64 << 20;

/// Identifies a task among those of all runs and stores: a run that reuses the id of an earlier one,
/// or of a run in another store, has another incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TaskKey {
    task_id: TaskId,
    incarnation: Option<Arc<str>>,
}

/// Identifies an attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    task: TaskKey,
    attempt: u32,
}

impl TaskKey {
    /// The task that an event with this metadata is about.
    pub(super) fn new(task_id: TaskId, metadata: &Metadata) -> Self {
        Self { task_id, incarnation: metadata.incarnation.clone() }
    }
}

impl Key {
    /// The attempt that an event with this metadata assigned.
    pub(super) fn new(assigned: &TaskAssigned, metadata: &Metadata) -> Self {
        let task = TaskKey::new(assigned.task_id.clone(), metadata);
        Self { task, attempt: assigned.attempt }
    }
}

/// What an attempt has to say.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// What its code emitted and is not published yet.
    pub(super) emitted: Vec<Event>,
    /// Its completion or failure.
    pub(super) result: Event,
}

impl Answer {
    fn bytes(&self) -> usize {
        let events = self.emitted.iter().chain([&self.result]);
        events.map(|event| event.payload.as_str().len()).sum()
    }
}

/// Knows the attempts that run, and the latest that have finished, so that a repeated dispatch is
/// recognised.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<Key, Arc<Running>>,
    finished: HashMap<Key, Answer>,
    order: VecDeque<Key>,
    bytes: usize,
    cancelled: HashSet<TaskKey>,
    cancelled_order: VecDeque<TaskKey>,
}

/// What a dispatch turns out to be.
#[derive(Debug)]
pub(super) enum Dispatch<'a> {
    /// A new attempt.
    New(Entry<'a>),
    /// The attempt runs already.
    Running(Arc<Running>),
    /// The attempt has finished, with this answer, which is to be given again.
    Finished(Box<Answer>, Entry<'a>),
}

impl Ledger {
    pub(super) fn begin(&self, key: Key) -> Dispatch<'_> {
        let mut state = self.state();
        if let Some(running) = state.running.get(&key) {
            return Dispatch::Running(Arc::clone(running));
        }
        let running = Arc::new(Running::default());
        state.running.insert(key.clone(), Arc::clone(&running));
        if let Some(answer) = state.finished.get(&key).cloned() {
            return Dispatch::Finished(Box::new(answer), Entry { ledger: self, key, running });
        }
        if state.cancelled.contains(&key.task) {
            running.stop(Stop::Cancelled);
        }
        Dispatch::New(Entry { ledger: self, key, running })
    }

    /// Cancels every attempt at a task, also one that is yet to come.
    pub(super) fn cancel(&self, task: &TaskKey) {
        let mut state = self.state();
        state.remember_cancelled(task.clone());
        let attempts = state.running.iter().filter(|(key, _)| key.task == *task);
        attempts.for_each(|(_, running)| running.stop(Stop::Cancelled));
    }

    /// Gives up everything that runs, and says what that was.
    pub(super) fn abandon(&self) -> Vec<TaskId> {
        let state = self.state();
        state.running.values().for_each(|running| running.stop(Stop::Abandoned));
        state.running.keys().map(|key| key.task.task_id.clone()).collect()
    }

    /// Gives up the tasks of an agent type, or of all, whose code has not begun. Says how many.
    pub(super) fn withdraw(&self, agent_type: Option<&str>) -> usize {
        let state = self.state();
        let all = state.running.values();
        all.filter(|running| running.is_of(agent_type) && running.withdraw()).count()
    }

    /// The tasks whose code runs, of an agent type or of all.
    pub(super) fn begun(&self, agent_type: Option<&str>) -> Vec<TaskId> {
        let state = self.state();
        let begun = state.running.iter();
        let begun = begun.filter(|(_, running)| running.is_of(agent_type) && running.has_begun());
        begun.map(|(key, _)| key.task.task_id.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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

/// An attempt that runs, or is answered again. Dropping it forgets the attempt, unless it has finished.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    ledger: &'a Ledger,
    key: Key,
    pub(super) running: Arc<Running>,
}

impl Entry<'_> {
    /// Remembers what the attempt has to say.
    pub(super) fn finish(&self, answer: &Answer) {
        self.ledger.state().remember(self.key.clone(), answer.clone());
    }

    /// Remembers that what was emitted is published.
    pub(super) fn published_emitted(&self) {
        let mut state = self.ledger.state();
        let Some(answer) = state.finished.get_mut(&self.key) else { return };
        let before = answer.bytes();
        answer.emitted.clear();
        let freed = before.saturating_sub(answer.bytes());
        state.bytes = state.bytes.saturating_sub(freed);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.ledger.state().running.remove(&self.key);
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

    fn do_task(ledger: &Ledger, number: usize, answer: &Answer) {
        match ledger.begin(key(number)) {
            Dispatch::New(entry) => entry.finish(answer),
            repeated => panic!("{repeated:?}"),
        }
    }

    #[test]
    fn should_tell_new_running_and_finished_attempts_apart() {
        let ledger = Ledger::default();
        let Dispatch::New(entry) = ledger.begin(key(1)) else { panic!("it is new") };
        assert!(matches!(ledger.begin(key(1)), Dispatch::Running(_)));
        entry.finish(&answer("a"));
        drop(entry);
        assert!(matches!(ledger.begin(key(1)), Dispatch::Finished(..)));
    }

    #[test]
    fn should_take_a_task_of_another_incarnation_for_another_task() {
        let ledger = Ledger::default();
        do_task(&ledger, 1, &answer("a"));
        ledger.cancel(&key(1).task);
        let again = Key { task: task(1, Some("later")), attempt: 1 };
        let Dispatch::New(entry) = ledger.begin(again) else { panic!("it is new") };
        assert_eq!(entry.running.stopped(), None);
    }

    #[test]
    fn should_forget_an_attempt_that_did_not_finish() {
        let ledger = Ledger::default();
        drop(ledger.begin(key(1)));
        assert!(matches!(ledger.begin(key(1)), Dispatch::New(_)));
    }

    #[test]
    fn should_forget_the_oldest_answers_by_number_and_by_size() {
        let (ledger, small) = (Ledger::default(), answer("a"));
        (0..=REMEMBERED).for_each(|number| do_task(&ledger, number, &small));
        assert!(matches!(ledger.begin(key(0)), Dispatch::New(_)));
        assert!(matches!(ledger.begin(key(1)), Dispatch::Finished(..)));
        let large = answer(&"x".repeat(1 << 20));
        let larges = REMEMBERED + 1..REMEMBERED + 65;
        larges.clone().for_each(|number| do_task(&ledger, number, &large));
        assert!(matches!(ledger.begin(key(REMEMBERED)), Dispatch::New(_)));
        assert!(matches!(ledger.begin(key(larges.end - 1)), Dispatch::Finished(..)));
        assert!(ledger.state().bytes <= REMEMBERED_BYTES);
    }

    #[test]
    fn should_remember_a_bounded_number_of_cancelled_tasks() {
        let ledger = Ledger::default();
        (0..=REMEMBERED).for_each(|number| ledger.cancel(&key(number).task));
        for (number, stopped) in [(0, None), (1, Some(Stop::Cancelled))] {
            let Dispatch::New(entry) = ledger.begin(key(number)) else { panic!("it is new") };
            assert_eq!(entry.running.stopped(), stopped);
        }
    }
}
