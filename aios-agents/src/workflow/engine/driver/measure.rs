//! Reports what a run did, once it is recorded. Nothing is reported while a journal is replayed.
//!
//! A duration is reported when the driver applies the entry that ends the operation. An entry whose
//! engine dies before that is not reported: these are measurements, not records.

use aios_core::{event::Timestamp, failure::Failure};
use metrics::counter;

use super::Driver;
use crate::workflow::{engine::RunOutcome, journal::Entry, machine::Request};

impl Driver {
    /// Reports how long a step or task took that a recorded entry ends. Call it before the entry is
    /// applied.
    pub(super) fn measure_operation(&self, entry: &Entry, at: Timestamp) {
        let machine = self.execution.machine();
        let Some((request, began_at)) = machine.ends(entry) else { return };
        let outcome = match entry {
            Entry::OperationFailed(_) => "failed",
            _ => "completed",
        };
        let durations = &self.engine.durations;
        let took = at.duration_since(began_at);
        match request {
            Request::Step { .. } => {
                durations.step(&self.origin.workflow, outcome, took, self.origin.trace)
            }
            Request::Task(task) => {
                durations.task(&task.agent_type, outcome, took, self.origin.trace)
            }
            _ => {}
        }
    }

    /// Reports the recorded end of the run, or that it is blocked.
    pub(super) fn measure_end(&self, ended: &RunOutcome, at: Timestamp) {
        if !ended.status.is_final() {
            return ended.failure.iter().for_each(count_block);
        }
        let status = ended.status.as_str();
        counter!("aios_runs_ended_total", "status" => status).increment(1);
        let took = at.duration_since(self.origin.started_at);
        self.engine.durations.run(&self.origin.workflow, status, took, self.origin.trace);
    }
}

/// Counts a run that was blocked. It has not ended, and may be blocked again.
pub(super) fn count_block(failure: &Failure) {
    counter!("aios_runs_blocked_total", "code" => failure.code.clone()).increment(1);
}
