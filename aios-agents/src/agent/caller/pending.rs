use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aios_core::{
    agent::TaskId,
    event::{Event, EventId, EventType},
};
use tokio::sync::oneshot;

use super::Answer;

/// The calls that wait for an answer.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<TaskId, (Expected, oneshot::Sender<Answer>)>>);

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
    /// Ends the call that waits for this task. Returns whether the answer is the expected agents',
    /// or comes after the call has ended; a refused answer ends nothing.
    pub(super) fn complete(&self, task_id: &TaskId, from: &Event, answer: Answer) -> bool {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.get(task_id) {
            None => true,
            Some((expected, _)) if !expected.accepts(from) => false,
            Some(_) => {
                let call = calls.remove(task_id);
                drop(calls);
                if let Some((_, waiting)) = call {
                    // The caller may have been dropped.
                    drop(waiting.send(answer));
                }
                true
            }
        }
    }

    fn remove(&self, task_id: &TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task_id);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A call's place among those that wait; dropping it gives it up.
pub(super) struct Waiting<'a> {
    pending: &'a Pending,
    task_id: TaskId,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        pending: &'a Pending,
        task_id: TaskId,
        expected: Expected,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut calls = pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(task_id.clone(), (expected, sender));
        drop(calls);
        (Self { pending, task_id }, receiver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.remove(&self.task_id);
    }
}
