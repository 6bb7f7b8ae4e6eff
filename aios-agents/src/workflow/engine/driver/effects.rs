//! The effects that the machine of a run requests.
//!
//! An effect is requested when its entry is durable, and again whenever the run is loaded or resumed.
//! None of them waits here: timers are set in memory, tasks are put into a queue, children are started
//! by tasks of their own. So a slow broker delays no run.

use std::sync::Arc;

use aios_core::{
    agent::{Name, TaskAssigned, TaskCancelled, TaskError, TaskId},
    broker::Publish,
    catalog::codes,
    failure::Failure,
};

use super::Driver;
use crate::{
    agent::mailbox_of,
    workflow::{
        engine::tasks::{Attempt, Dispatch},
        journal::{AgentEvent, Entry},
        machine::Effect,
    },
};

impl Driver {
    /// Performs the effects that are due. A run that is about to leave dispatches what was recorded before,
    /// because its successor would have to seek those tasks, and begins nothing new.
    pub(super) fn perform_effects(&mut self) {
        let effects = match self.is_leaving {
            true => self.execution.machine().take_held_effects(),
            false => self.execution.machine().take_effects(),
        };
        for effect in effects {
            match effect {
                Effect::Timer { operation, at } => {
                    self.engine.timers.set(at, &self.run_id, operation);
                }
                Effect::Dispatch(assignment) => self.dispatch(assignment),
                Effect::CancelTask { agent_type, task_id } => {
                    self.cancel_task(agent_type, task_id);
                }
                Effect::StartChild(child) => self.start_child(child),
                Effect::Settled { operation } => {
                    self.engine.timers.clear(&self.run_id, operation);
                    self.tasks.assigned.remove(&operation);
                    self.tasks.deferred.remove(&operation);
                    self.missed.remove(&operation);
                    self.children.retry_start(operation);
                }
            }
        }
    }

    /// Notifies agents that a task is cancelled.
    ///
    /// Nothing waits for the notice: an agent that misses it finishes its task, and its answer is
    /// ignored.
    pub(super) fn cancel_task(&mut self, agent_type: Name, task_id: TaskId) {
        let data = TaskCancelled::new(task_id);
        let entry = Entry::TaskCancelled(AgentEvent { agent_type, data });
        // A cancelled task needs no listener: its agents may be gone.
        match self.to_publish(entry, false) {
            Ok(publish) => self.send(publish, None),
            Err(failure) => self.write_failure = Some(failure),
        }
    }

    /// Passes a task to the dispatcher. A task with an invalid address fails.
    ///
    /// The attempt is registered before it is published, so that even the fastest answer finds it. One
    /// that the broker may have already is sought instead.
    pub(super) fn dispatch(&mut self, assignment: AgentEvent<TaskAssigned>) {
        let attempt = assignment.data.attempt;
        let operation = assignment.data.task_id.run().map_or(0, |run| run.1);
        // The effect may be outdated: the attempt has ended since it was requested.
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        // It may already be with an agent.
        if self.seek(operation, &assignment) {
            return;
        }
        let expected = self.expect_answer(operation, &assignment);
        // A task that no queue takes must fail, and not vanish.
        match self.to_publish(Entry::TaskAssigned(assignment), true) {
            Ok(publish) => self.send(publish, Some(expected)),
            Err(failure) => {
                self.on_undeliverable(operation, attempt, TaskError::terminal(failure));
            }
        }
    }

    /// Puts an event into the queue of the dispatcher.
    pub(super) fn send(&mut self, publish: Publish, task: Option<Attempt>) {
        self.enqueue(publish, task, None);
    }

    /// Like `send`, also for questions. `sought` is the attempt that a question is about.
    pub(super) fn enqueue(
        &mut self,
        publish: Publish,
        task: Option<Attempt>,
        sought: Option<Attempt>,
    ) {
        let fence = self.fence;
        // Dropped when the broker has answered, which a leaving run waits for.
        let _pending = Arc::clone(&self.tasks.dispatching);
        let dispatch = Dispatch { publish, task, sought, fence, _pending };
        self.tasks.outgoing.push(dispatch, &self.engine.dispatches);
    }

    /// The event of an entry, addressed to an agent type or to one agent.
    ///
    /// `require_route` makes the broker refuse an event that has no listener.
    pub(super) fn to_publish(&self, entry: Entry, require_route: bool) -> Result<Publish, Failure> {
        let mut record =
            self.encode(entry).map_err(|error| Failure::from_error(error.code(), &error))?;
        if let Entry::TaskAssigned(_) = &record.entry {
            // Agents pass it to systems that accept only the latest owner.
            let metadata = record.event.metadata_mut();
            let set = metadata.extra.insert("fence", &self.fence);
            set.map_err(|error| Failure::from_error(error.code(), &error))?;
        }
        let to = match &record.entry {
            Entry::TaskAssigned(AgentEvent { agent_type, data }) => {
                let agent_id = data.agent_id.as_deref();
                agent_id.map(|agent_id| mailbox_of(agent_type, agent_id)).transpose()
            }
            _ => Ok(None),
        };
        let to = to.map_err(|invalid| Failure::from_error(codes::AGENT_NOT_FOUND, &invalid))?;
        Ok(Publish { event: record.event, to, require_route })
    }
}
