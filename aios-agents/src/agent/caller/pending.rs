use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    agent::{TaskError, TaskId},
    event::{Event, EventId, EventType},
};
use tokio::sync::oneshot;

use super::Answer;

/// How many tasks are remembered whose calls ended without an answer.
const REMEMBERED: usize = 4_096;

/// The calls that wait for an answer.
#[derive(Default)]
pub(super) struct Pending(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    waiting: HashMap<TaskId, (Expected, oneshot::Sender<Answer>)>,
    /// Tasks whose calls ended without an answer, and which agents have them, the latest.
    unanswered: VecDeque<(TaskId, EventType)>,
    /// Why no answer comes any more.
    closed: Option<TaskError>,
}

/// Who may answer a call: the agent type that was assigned the task, and says so.
#[derive(Debug)]
pub(super) struct Expected {
    /// Type of the event that assigned the task, which names the type of its agents.
    pub(super) event_type: EventType,
    /// Id of that event.
    pub(super) assignment: EventId,
}

impl Expected {
    fn accepts(&self, answer: &Event) -> bool {
        let cause = answer.metadata.causation_id.as_deref().and_then(|id| id.parse().ok());
        answer.event_type.entity() == self.event_type.entity()
            && cause.as_ref() == Some(&self.assignment)
    }
}

impl Pending {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call that waits for this task. Returns whether the answer is the expected agents',
    /// or comes after the call has ended; a refused answer ends nothing.
    pub(super) fn complete(&self, task_id: &TaskId, from: &Event, answer: Answer) -> bool {
        let mut calls = self.calls();
        match calls.waiting.get(task_id) {
            None => {
                calls.unanswered.retain(|(unanswered, _)| unanswered != task_id);
                true
            }
            Some((expected, _)) if !expected.accepts(from) => false,
            Some(_) => {
                let call = calls.waiting.remove(task_id);
                drop(calls);
                if let Some((_, waiting)) = call {
                    // The caller may have been dropped.
                    drop(waiting.send(answer));
                }
                true
            }
        }
    }

    /// Why no answer comes any more, if none does.
    pub(super) fn closed(&self) -> Option<TaskError> {
        self.calls().closed.clone()
    }

    /// Ends every call that waits, and all that follow, with this error.
    pub(super) fn close(&self, error: &TaskError) {
        let mut calls = self.calls();
        calls.closed.get_or_insert_with(|| error.clone());
        let waiting = std::mem::take(&mut calls.waiting);
        drop(calls);
        for (_, call) in waiting.into_values() {
            // The caller may have been dropped.
            drop(call.send(Err(error.clone())));
        }
    }

    /// The tasks whose calls ended without an answer, and the events that assigned them, as far as they
    /// are remembered.
    pub(super) fn take_unanswered(&self) -> VecDeque<(TaskId, EventType)> {
        std::mem::take(&mut self.calls().unanswered)
    }
}

/// A call's place among those that wait; dropping it gives it up.
pub(super) struct Waiting<'a> {
    pending: &'a Pending,
    task_id: TaskId,
    /// Whether the broker has the task.
    pub(super) is_given: bool,
}

impl<'a> Waiting<'a> {
    /// # Errors
    ///
    /// Why no answer comes any more.
    pub(super) fn new(
        pending: &'a Pending,
        task_id: TaskId,
        expected: Expected,
    ) -> Result<(Self, oneshot::Receiver<Answer>), TaskError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = pending.calls();
        if let Some(error) = &calls.closed {
            return Err(error.clone());
        }
        calls.waiting.insert(task_id.clone(), (expected, sender));
        drop(calls);
        Ok((Self { pending, task_id, is_given: false }, receiver))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut calls = self.pending.calls();
        let Some((expected, _)) = calls.waiting.remove(&self.task_id) else { return };
        if !self.is_given {
            return;
        }
        if calls.unanswered.len() == REMEMBERED {
            calls.unanswered.pop_front();
        }
        calls.unanswered.push_back((self.task_id.clone(), expected.event_type));
    }
}
