use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aios_core::agent::TaskId;
use tokio::sync::oneshot;

use super::Answer;

/// The calls that wait for an answer.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<TaskId, oneshot::Sender<Answer>>>);

impl Pending {
    fn take(&self, task_id: &TaskId) -> Option<oneshot::Sender<Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task_id)
    }

    pub(super) fn complete(&self, task_id: &TaskId, answer: Answer) {
        if let Some(waiting) = self.take(task_id) {
            // Whoever waited may have gone meanwhile.
            drop(waiting.send(answer));
        }
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
    pub(super) fn new(pending: &'a Pending, task_id: TaskId) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut calls = pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(task_id.clone(), sender);
        drop(calls);
        (Self { pending, task_id }, receiver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.take(&self.task_id);
    }
}
