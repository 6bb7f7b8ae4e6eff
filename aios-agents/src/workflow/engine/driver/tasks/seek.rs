//! Open attempts that the broker may have. Those of a run that was loaded from its journal were
//! dispatched by another engine, or this one earlier, unless it died first. Others were published, and
//! the response of the broker was lost. Both are sought among the agents and in the queue, and
//! dispatched only if they are in neither.
//!
//! ```text
//! recorded attempt ──► question to all processes of the type ──► the broker has it
//!                                                                     │
//!              heartbeat or answer arrives ◄── within 1 s ────────────┤
//!              the queue of the type has tasks ◄──────────────────────┤ it waits there
//!              neither ──► the journal is read ──► dispatched again ◄─┘
//! ```
//!
//! Dispatching at once would run a task twice whenever an engine joins or leaves. Not dispatching would
//! lose the tasks that the predecessor recorded and did not publish before it died.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_core::{
    agent::TaskAssigned,
    broker::Publish,
    catalog::agent::{self, Attempt},
    event::{Event, EventError, EventType, Timestamp},
    failure::Failure,
};

use super::assignment::Assignment;
use crate::workflow::{
    engine::{
        Engine,
        driver::Driver,
        tasks::{dead_letters, lost_after},
    },
    journal::{AgentEvent, Entry},
};

/// How soon a process reports that it has an attempt after the broker received the question.
const REPORT: Duration = Duration::from_secs(1);

/// The attempts that were recorded when a run was loaded, by operation, with their times.
pub(in super::super) type RecordedAttempts = BTreeMap<u64, (u32, Timestamp)>;

/// The latest recorded attempt of each task.
pub(in super::super) fn recorded_attempts<'a>(
    journal: impl Iterator<Item = &'a (Entry, Timestamp)>,
) -> RecordedAttempts {
    let attempts = journal.filter_map(|(entry, at)| match entry {
        Entry::TaskAssigned(task) => Some((entry.operation()?, (task.data.attempt, *at))),
        _ => None,
    });
    attempts.collect()
}

impl Driver {
    /// Seeks an attempt that the broker may have, instead of dispatching it. Returns whether it did.
    pub(in super::super) fn seek(
        &mut self,
        operation: u64,
        task: &AgentEvent<TaskAssigned>,
    ) -> bool {
        // Once: a repeated dispatch is decided on by `unclaimed`.
        let Some((attempt, recorded_at)) = self.tasks.recorded_attempts.remove(&operation) else {
            return false;
        };
        if attempt != task.data.attempt || !may_be_dispatched(&self.engine, recorded_at) {
            return false;
        }
        let question = match self.question(operation, task) {
            Ok(question) => question,
            Err(error) => {
                self.write_failure = Some(Failure::from_error(error.code(), &error));
                return true;
            }
        };
        let sought = self.expect_answer(operation, task);
        let now = self.engine.clock.now();
        if let Some(assignment) = self.tasks.assigned.get_mut(&operation) {
            assignment.seek(recorded_at, now);
        }
        self.engine.activity.seek(now);
        // In case the broker does not take the question: the task is looked at nevertheless.
        let look_at = now + lost_after(&self.engine.options) + dead_letters::CLOSE;
        self.engine.timers.set(look_at, &self.run_id, operation);
        self.enqueue(Publish::new(question), None, Some(sought));
        true
    }

    /// The processes of the agents are asked for an attempt, and those that have it report it at
    /// once.
    pub(in super::super) fn on_sought(&mut self, operation: u64, attempt: u32) {
        let now = self.engine.clock.now();
        let current = self.tasks.assigned.get_mut(&operation).filter(|it| it.attempt == attempt);
        let Some(assignment) = current.filter(|it| it.sought_at.is_some()) else { return };
        assignment.sought_at = Some(now);
        assignment.suspected_at = Some(now);
        // From now on the answer can be expected soon.
        assignment.report_within = REPORT;
        self.engine.activity.seek(now);
        self.engine.timers.set(now + dead_letters::SEEK, &self.run_id, operation);
    }

    /// Asks which process has an attempt.
    fn question(
        &self,
        operation: u64,
        task: &AgentEvent<TaskAssigned>,
    ) -> Result<Event, EventError> {
        let TaskAssigned { task_id, attempt, .. } = &task.data;
        let agent_type = task.agent_type.as_str();
        let event_type = EventType::new(agent::DOMAIN, agent_type, agent::ATTEMPT_SOUGHT)?;
        let data = Attempt::new(task_id.clone(), *attempt);
        let mut metadata = self.task_metadata();
        metadata.causation_id = Some(self.assignment_id(operation, *attempt).to_string().into());
        let event = Event::new(event_type, Arc::clone(self.origin.codec.source()), &data)?;
        Ok(event.with_timestamp(self.engine.clock.now()).with_metadata(metadata))
    }
}

impl Assignment {
    /// Marks an attempt that was recorded at this time as sought.
    fn seek(&mut self, recorded_at: Timestamp, now: Timestamp) {
        self.recorded_at = recorded_at;
        self.dispatched_at = recorded_at;
        self.sought_at = Some(now);
        self.suspected_at = Some(now);
    }
}

/// Whether the broker or an agent may have an attempt that was recorded at this time.
fn may_be_dispatched(engine: &Engine, recorded_at: Timestamp) -> bool {
    #[cfg(feature = "simulation")]
    if aios_core::simulation::plants("a takeover dispatches again") {
        return false;
    }
    engine.options.redispatch_after.is_some() && !engine.activity.has_lost(recorded_at)
}
