//! The tasks that a run has assigned and that have not ended, by its journal.
//!
//! The agents of a task that the run no longer awaits are notified, and the journal records it. The machine
//! requests that when live code drops a call. Here are the other cases:
//!
//! | the call is dropped | then |
//! |---|---|
//! | in a replay, since its engine recorded the reason and no more | the task is cancelled when the run goes live |
//! | with the run, which ends although its code does not fit | the task is cancelled with the end of the run |

use std::collections::{BTreeMap, BTreeSet};

use aios_core::{
    agent::{Name, TaskCancelled, TaskId},
    catalog::agent::{TASK_CLAIMED, TASK_UNCLAIMED, TaskUnclaimed},
    event::Event,
};

use crate::workflow::{
    engine::driver::Driver,
    journal::{AgentEvent, Entry},
};

/// The tasks that have not ended.
#[derive(Debug, Default)]
pub(in super::super) struct OpenTasks {
    /// The types of their agents, by operation.
    agents: BTreeMap<u64, Name>,
    /// Those that are reported as unclaimed.
    unclaimed: BTreeSet<u64>,
}

impl OpenTasks {
    /// The open tasks after these entries, the first ones of a run.
    pub(in super::super) fn of<'a>(journal: impl Iterator<Item = &'a Entry>) -> Self {
        let mut open = Self::default();
        journal.for_each(|entry| open.note(entry));
        open
    }

    /// Notes the next entry.
    pub(in super::super) fn note(&mut self, entry: &Entry) {
        if let Entry::Other(event) = entry {
            return self.note_report(event);
        }
        let Some(operation) = entry.operation() else { return };
        match entry {
            Entry::TaskAssigned(task) => {
                self.agents.insert(operation, task.agent_type.clone());
            }
            // Agents of another type can't end it.
            Entry::TaskCompleted(task) if self.agents.get(&operation) != Some(&task.agent_type) => {
            }
            // An agent has answered an attempt, so the next one that finds no queue is reported again.
            Entry::TaskFailed(_) => {
                self.unclaimed.remove(&operation);
            }
            Entry::TaskCompleted(_) | Entry::TaskCancelled(_) | Entry::OperationFailed(_) => {
                self.agents.remove(&operation);
                self.unclaimed.remove(&operation);
            }
            _ => {}
        }
    }

    /// Notes a report that no agent begins a task, or that one has begun it.
    fn note_report(&mut self, event: &Event) {
        let is_unclaimed = match event.event_type.action() {
            TASK_UNCLAIMED => true,
            TASK_CLAIMED => false,
            _ => return,
        };
        let Ok(report) = event.data::<TaskUnclaimed>() else { return };
        match report.task_id.run() {
            Some((_, operation)) if is_unclaimed => drop(self.unclaimed.insert(operation)),
            Some((_, operation)) => drop(self.unclaimed.remove(&operation)),
            None => {}
        }
    }

    /// The type of the agents of a task.
    pub(in super::super) fn agent_type(&self, operation: u64) -> Option<Name> {
        self.agents.get(&operation).cloned()
    }

    /// Whether a task is reported as unclaimed.
    pub(in super::super) fn is_unclaimed(&self, operation: u64) -> bool {
        self.unclaimed.contains(&operation)
    }
}

impl Driver {
    /// Cancels the tasks whose calls the code has dropped during the replay.
    pub(in super::super) fn cancel_dropped_tasks(&mut self) {
        let mut machine = self.execution.machine();
        for (&operation, agent_type) in &self.tasks.open.agents {
            if machine.is_abandoned(operation) {
                machine.cancel_task(operation, agent_type.clone());
            }
        }
    }

    /// Adds to the next append that all open tasks are cancelled. Returns them.
    pub(in super::super) fn write_cancelled_tasks(&mut self) -> Vec<(Name, TaskId)> {
        let machine = self.execution.machine();
        let open = std::mem::take(&mut self.tasks.open.agents).into_iter();
        let open: Vec<_> =
            open.map(|(operation, agent_type)| (agent_type, machine.task_id(operation))).collect();
        drop(machine);
        for (agent_type, task_id) in open.iter().cloned() {
            let data = TaskCancelled::new(task_id);
            self.write(Entry::TaskCancelled(AgentEvent { agent_type, data }));
        }
        open
    }
}
