//! Effects: what the host of a run must do once an entry is durable.
//!
//! An effect follows from the state of an operation and not from the entry that led to it. So the same
//! function gives the effects of a new entry, of a run that was loaded (all its waiting operations),
//! and of a run that was resumed. A crash between an append and its effects therefore loses nothing:
//! the next load requests them again, which is why all of them are idempotent. Only `CancelTask` and
//! `Settled` are requested once: they save work, and nothing depends on them. The host requests a
//! cancellation again whose entry is not durable when the run is loaded.

use aios_core::{
    agent::{Name, TaskAssigned, TaskId},
    event::Timestamp,
};

use super::{ChildRequest, Machine, Operation, Request, State, TaskRequest};
use crate::workflow::{
    journal::{AgentEvent, ChildStarted},
    run_id,
};

/// An action for the host after an entry became durable. Effects are idempotent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Call [`Machine::timer_due`] at a time.
    Timer {
        /// The operation that waits.
        operation: u64,
        /// The time.
        at: Timestamp,
    },
    /// Publish a task to its agents.
    Dispatch(AgentEvent<TaskAssigned>),
    /// Tell agents that the result of a task is no longer awaited.
    CancelTask {
        /// Type of the agent.
        agent_type: Name,
        /// The task.
        task_id: TaskId,
    },
    /// Start a child run and append its end to this run's journal.
    StartChild(ChildStarted),
    /// An operation no longer waits. Anything that was set up to wake it can be removed.
    Settled {
        /// The operation.
        operation: u64,
    },
}

impl Machine {
    /// Adds the effect that a waiting operation requires.
    ///
    /// A timer comes first: a task that is retrying has one and is not dispatched before it.
    pub(super) fn push_effect(&mut self, operation: u64) {
        let Some(found) = self.operation(operation) else { return };
        let effect = match (found.request(), &found.state) {
            (_, State::Waiting { until: Some(at), .. } | State::Retrying { at, .. }) => {
                Effect::Timer { operation, at: *at }
            }
            (Some(Request::Task(task)), State::Waiting { attempt, .. }) => {
                Effect::Dispatch(self.assignment(operation, task, *attempt))
            }
            (Some(Request::Child(child)), State::Waiting { .. }) => {
                Effect::StartChild(self.child_started(operation, child, found.compensates))
            }
            _ => return,
        };
        self.effects.push(effect);
    }

    /// Checks again for the end of a child, if the operation waits for one.
    pub fn repeat_child(&mut self, operation: u64) {
        let waits = self
            .active()
            .any(|(active, request)| active == operation && matches!(request, Request::Child(_)));
        if waits && self.live {
            self.push_effect(operation);
        }
    }

    /// Dispatches a task again that reached no agent, if the operation waits for one.
    ///
    /// Called for a task that the broker did not take or may have lost. It does not begin another
    /// attempt.
    pub fn repeat_task(&mut self, operation: u64) {
        if self.awaits_task(operation, self.task_attempt(operation)) && self.live {
            self.push_effect(operation);
        }
    }

    /// Sets up the timers and children of waiting operations again. None were set up during the pause.
    pub(super) fn resume(&mut self) {
        let waits = |found: &Operation| {
            found.timer().is_some() || matches!(found.request(), Some(Request::Child(_)))
        };
        // Tasks are not among them: a dispatch that was not taken before the pause is still in the list.
        let waiting: Vec<u64> = self.active.iter().copied().collect();
        for operation in waiting {
            if self.operation(operation).is_some_and(waits) {
                self.push_effect(operation);
            }
        }
    }

    /// The task id of an operation.
    #[must_use]
    pub fn task_id(&self, operation: u64) -> TaskId {
        TaskId::of_run(&self.run_id, operation)
    }

    /// The data of the event that assigns an attempt of a task.
    pub(super) fn assignment(
        &self,
        operation: u64,
        task: &TaskRequest,
        attempt: u32,
    ) -> AgentEvent<TaskAssigned> {
        let task_id = TaskId::of_run(&self.run_id, operation);
        let mut data = TaskAssigned::new(task_id, task.parameters.clone(), attempt);
        data.agent_id = task.agent_id.clone();
        data.timeout_ms =
            task.timeout.map(|timeout| timeout.as_millis().try_into().unwrap_or(u64::MAX));
        AgentEvent { agent_type: task.agent_type.clone(), data }
    }

    /// The data of the entry that starts a child, perhaps for a compensation. Its id is derived from the
    /// run and the operation unless the code chose one.
    pub(super) fn child_started(
        &self,
        operation: u64,
        child: &ChildRequest,
        compensates: bool,
    ) -> ChildStarted {
        let derived = || run_id::of_child(&self.run_id, operation);
        let mut started = ChildStarted::new(
            operation,
            child.run_id.clone().unwrap_or_else(derived).into(),
            child.workflow.clone(),
            child.input.clone(),
            child.leave_running,
        );
        started.compensates = compensates;
        started
    }
}
