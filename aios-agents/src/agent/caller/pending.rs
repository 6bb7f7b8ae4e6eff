//! The calls of a client that wait, and the tasks whose calls ended without an answer.
//!
//! A call is in one of these states:
//!
//! | state | where | how it ends |
//! |---|---|---|
//! | waits | `waiting` | the router completes it, or `Waiting` is dropped |
//! | ended without an answer | `unanswered` | a late answer removes it, or the client cancels the task when it is dropped |
//! | refused | nowhere | `closed` is set: no call begins any more |
//!
//! One lock guards all of it. Results are sent after the lock is released, so that the task that
//! they wake never waits for the lock.

use std::collections::{HashMap, VecDeque};

use aios_core::{
    agent::{TaskError, TaskId},
    event::{Event, EventId, EventType},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Answer;

/// How many tasks without an answer are remembered after their calls ended.
const REMEMBERED: usize = 4_096;

/// The calls that are waiting for an answer.
#[derive(Default)]
pub(super) struct Pending(Mutex<Calls>);

/// The content of the lock.
#[derive(Default)]
struct Calls {
    /// The answer that each waiting call accepts, and where it goes.
    waiting: HashMap<TaskId, (Expected, oneshot::Sender<Answer>)>,
    /// The latest tasks whose calls ended without an answer, with the types of the events that
    /// assigned them.
    unanswered: VecDeque<(TaskId, EventType)>,
    /// Why no more answers can arrive.
    closed: Option<TaskError>,
}

/// Which answer a call accepts: one from the agent type that was assigned the task, caused by that
/// assignment.
#[derive(Debug)]
pub(super) struct Expected {
    /// Type of the event that assigned the task. It names the agent type.
    pub(super) event_type: EventType,
    /// Id of that event.
    pub(super) assignment: EventId,
}

impl Expected {
    /// Whether an answer comes from the agent type of the assignment, and names the assignment as
    /// its cause.
    fn accepts(&self, answer: &Event) -> bool {
        let cause = answer.metadata.causation_id.as_deref().and_then(|id| id.parse().ok());
        answer.event_type.entity() == self.event_type.entity()
            && cause.as_ref() == Some(&self.assignment)
    }
}

impl Pending {
    /// Completes the call that waits for this task. Returns `false` if the answer does not come
    /// from the expected agent type; the call then keeps waiting. An answer after the end of its
    /// call is ignored.
    pub(super) fn complete(&self, task_id: &TaskId, from: &Event, answer: Answer) -> bool {
        let mut calls = self.0.lock();
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

    /// Why no more answers can arrive, if that is so.
    pub(super) fn closed(&self) -> Option<TaskError> {
        self.0.lock().closed.clone()
    }

    /// Fails every waiting call, and all later ones, with this error.
    pub(super) fn close(&self, error: &TaskError) {
        let mut calls = self.0.lock();
        calls.closed.get_or_insert_with(|| error.clone());
        let waiting = std::mem::take(&mut calls.waiting);
        drop(calls);
        for (_, call) in waiting.into_values() {
            // The caller may have been dropped.
            drop(call.send(Err(error.clone())));
        }
    }

    /// Takes the remembered tasks whose calls ended without an answer, with the types of the events
    /// that assigned them.
    pub(super) fn take_unanswered(&self) -> VecDeque<(TaskId, EventType)> {
        std::mem::take(&mut self.0.lock().unanswered)
    }
}

/// Registration of a waiting call. Dropping it ends the call.
pub(super) struct Waiting<'a> {
    /// The registration; it borrows, because a call keeps its client alive.
    pending: &'a Pending,
    task_id: TaskId,
    /// Whether the broker may have the task.
    pub(super) is_sent: bool,
}

impl<'a> Waiting<'a> {
    /// Registers a call. Fails if no more answers can arrive, so that no call waits for its whole
    /// timeout without a reader.
    ///
    /// # Errors
    ///
    /// The reason why no more answers can arrive.
    pub(super) fn new(
        pending: &'a Pending,
        task_id: TaskId,
        expected: Expected,
    ) -> Result<(Self, oneshot::Receiver<Answer>), TaskError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = pending.0.lock();
        if let Some(error) = &calls.closed {
            return Err(error.clone());
        }
        calls.waiting.insert(task_id.clone(), (expected, sender));
        drop(calls);
        Ok((Self { pending, task_id, is_sent: false }, receiver))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut calls = self.pending.0.lock();
        // Already completed, or closed with an error: nothing is left to remember.
        let Some((expected, _)) = calls.waiting.remove(&self.task_id) else { return };
        if !self.is_sent {
            return;
        }
        // Bounded: the oldest task is forgotten, and its agent works without a receiver.
        if calls.unanswered.len() == REMEMBERED {
            calls.unanswered.pop_front();
        }
        calls.unanswered.push_back((self.task_id.clone(), expected.event_type));
    }
}
