//! The effects that the machine of a run requests.

use std::sync::Arc;

use aios_core::{
    agent::{Name, TaskAssigned, TaskCancelled, TaskError, TaskId},
    broker::Publish,
    failure::Failure,
};

use super::Driver;
use crate::{
    agent::{codes::AGENT_NOT_FOUND, mailbox_of},
    workflow::{
        engine::dispatch::{Attempt, Dispatch},
        journal::{AgentEvent, Entry},
        machine::Effect,
    },
};

impl Driver {
    pub(super) fn perform_effects(&mut self) {
        let effects = match self.is_leaving {
            true => self.execution.machine().take_dispatches(),
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
                    self.assigned.remove(&operation);
                    self.deferred.remove(&operation);
                    self.missed.remove(&operation);
                }
            }
        }
    }

    /// Notifies agents that a task is cancelled.
    pub(super) fn cancel_task(&mut self, agent_type: Name, task_id: TaskId) {
        let data = TaskCancelled::new(task_id);
        let entry = Entry::TaskCancelled(AgentEvent { agent_type, data });
        match self.to_publish(entry, false) {
            Ok(publish) => self.send(publish, None),
            Err(failure) => self.write_failure = Some(failure),
        }
    }

    /// Passes a task to the dispatcher. A task with an invalid address fails.
    pub(super) fn dispatch(&mut self, assignment: AgentEvent<TaskAssigned>) {
        let attempt = assignment.data.attempt;
        let operation = assignment.data.task_id.run().map_or(0, |run| run.1);
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        if self.seek(operation, &assignment) {
            return;
        }
        let expected = self.expect_answer(operation, &assignment);
        match self.to_publish(Entry::TaskAssigned(assignment), true) {
            Ok(publish) => self.send(publish, Some(expected)),
            Err(failure) => self.on_undeliverable(operation, attempt, TaskError::terminal(failure)),
        }
    }

    pub(super) fn send(&mut self, publish: Publish, task: Option<Attempt>) {
        self.enqueue(publish, task, None);
    }

    pub(super) fn enqueue(
        &mut self,
        publish: Publish,
        task: Option<Attempt>,
        sought: Option<Attempt>,
    ) {
        let fence = self.fence;
        let _pending = Arc::clone(&self.dispatching);
        let dispatch = Dispatch { publish, task, sought, fence, _pending };
        self.outgoing.push(dispatch, &self.engine.dispatches);
    }

    /// The event of an entry, addressed to an agent type or to one agent.
    pub(super) fn to_publish(&self, entry: Entry, require_route: bool) -> Result<Publish, Failure> {
        let mut record =
            self.encode(entry).map_err(|error| Failure::from_error(error.code(), &error))?;
        if let Entry::TaskAssigned(_) = &record.entry {
            let fence = serde_json::json!(self.fence);
            record.event.metadata_mut().extra.insert("fence".to_owned(), fence);
        }
        let to = match &record.entry {
            Entry::TaskAssigned(AgentEvent { agent_type, data }) => {
                let agent_id = data.agent_id.as_deref();
                agent_id.map(|agent_id| mailbox_of(agent_type, agent_id)).transpose()
            }
            _ => Ok(None),
        };
        let to = to.map_err(|invalid| Failure::from_error(AGENT_NOT_FOUND, &invalid))?;
        Ok(Publish { event: record.event, to, require_route })
    }
}
