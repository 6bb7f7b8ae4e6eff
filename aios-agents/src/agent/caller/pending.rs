use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aios_core::agent::TaskId;
use tokio::sync::oneshot;

use super::Answer;

/// The calls that wait for an answer.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<TaskId, (Expected, oneshot::Sender<Answer>)>>);

/// Who may answer a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The type of the agents that got the task.
    pub(super) agent_type: Box<str>,
    /// Id of the event that assigned the task.
    pub(super) assignment: Box<str>,
}

impl Pending {
    /// Ends the call that waits for this task. Returns whether the answer is the expected agents',
    /// or comes after the call has ended; a refused answer ends nothing.
    pub(super) fn complete(&self, task_id: &TaskId, from: &Expected, answer: Answer) -> bool {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.get(task_id) {
            None => true,
            Some((expected, _)) if expected != from => false,
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
