use aios_core::{
    agent::{Name, TaskAssigned, TaskId},
    event::Timestamp,
};

use super::{ChildRequest, Machine, Operation, Request, State, TaskRequest};
use crate::workflow::{
    journal::{AgentEvent, ChildStarted},
    run_id,
};

/// What the host is to do after an entry became durable. Repeating an effect is harmless.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Call [`Machine::timer_due`] then.
    Timer {
        /// The operation that waits.
        operation: u64,
        /// When.
        at: Timestamp,
    },
    /// Publish a task to its agents.
    Dispatch(AgentEvent<TaskAssigned>),
    /// Tell agents that nobody waits for a task any more.
    CancelTask {
        /// Type of the agent.
        agent_type: Name,
        /// The task.
        task_id: TaskId,
    },
    /// Start a child run, and have its end appended to this run's journal.
    StartChild(ChildStarted),
    /// An operation waits no longer: whatever was set to wake it is needless.
    Settled {
        /// The operation.
        operation: u64,
    },
}

impl Machine {
    /// Notes what a waiting operation needs to be done.
    pub(super) fn push_effect(&mut self, operation: u64) {
        let Some(found) = self.operation(operation) else { return };
        let effect = match (&found.request, &found.state) {
            (_, State::Waiting { until: Some(at), .. } | State::Retrying { at, .. }) => {
                Effect::Timer { operation, at: *at }
            }
            (Some(Request::Task(task)), State::Waiting { attempt, .. }) => {
                Effect::Dispatch(self.assignment(operation, task, *attempt))
            }
            (Some(Request::Child(child)), State::Waiting { .. }) => {
                Effect::StartChild(self.child_started(operation, child))
            }
            _ => return,
        };
        self.effects.push(effect);
    }

    /// Looks again for the end of a child, if the operation waits for one.
    pub fn repeat_child(&mut self, operation: u64) {
        let waits = self
            .active()
            .any(|(active, request)| active == operation && matches!(request, Request::Child(_)));
        if waits && self.live {
            self.push_effect(operation);
        }
    }

    /// Gives a task again that no agent got, if the operation waits for one.
    pub fn repeat_task(&mut self, operation: u64) {
        if self.awaits_task(operation, self.task_attempt(operation)) && self.live {
            self.push_effect(operation);
        }
    }

    /// What waits for a time, or for a child, is set up again after a pause, in which nothing was.
    pub(super) fn resume(&mut self) {
        let waits = |found: &Operation| {
            found.timer().is_some() || matches!(found.request, Some(Request::Child(_)))
        };
        let waiting: Vec<u64> = self.active.iter().copied().collect();
        for operation in waiting {
            if self.operation(operation).is_some_and(waits) {
                self.push_effect(operation);
            }
        }
    }

    /// The name of an operation, as agents know it if it is a task.
    #[must_use]
    pub fn task_id(&self, operation: u64) -> TaskId {
        TaskId::of_run(&self.run_id, operation)
    }

    pub(super) fn assignment(
        &self,
        operation: u64,
        task: &TaskRequest,
        attempt: u32,
    ) -> AgentEvent<TaskAssigned> {
        let timeout =
            task.timeout.map(|timeout| timeout.as_millis().try_into().unwrap_or(u64::MAX));
        AgentEvent {
            agent_type: task.agent_type.clone(),
            data: TaskAssigned {
                task_id: TaskId::of_run(&self.run_id, operation),
                agent_id: task.agent_id.clone(),
                parameters: task.parameters.clone(),
                attempt,
                timeout_ms: timeout,
            },
        }
    }

    pub(super) fn child_started(&self, operation: u64, child: &ChildRequest) -> ChildStarted {
        let derived = || run_id::of_child(&self.run_id, operation);
        ChildStarted {
            operation,
            run_id: child.run_id.clone().unwrap_or_else(derived).into(),
            workflow: child.workflow.clone(),
            input: child.input.clone(),
            leave_running: child.leave_running,
        }
    }
}
