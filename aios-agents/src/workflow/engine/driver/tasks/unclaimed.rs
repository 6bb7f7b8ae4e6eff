//! Tasks that no agent begins.
//!
//! These things are decided here, from what the queue and the agents of the type do:
//!
//! - **Unclaimed** is a report for people: no agent has begun the task for `unclaimed_after`, although
//!   agents of the type are not busy with others. Nothing about the task changes.
//! - A task is also reported if no queue takes it and it will be tried again. Its attempts fail too fast to be
//!   seen waiting.
//! - **Lost** is a conclusion about the broker: the delivery is not in the queue, and no process that
//!   had it would be silent for so long. The task is dispatched again, at the same attempt, and a
//!   process that has it after all recognises it.
//!
//! A conclusion of the second kind is checked against the journal first: another engine may have
//! recorded the answer.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::TaskId,
    catalog::{
        agent::{self, TaskUnclaimed},
        codes,
    },
    event::{Event, EventType, Timestamp},
    failure::Failure,
};
use metrics::counter;
use serde_json::json;
use tracing::{info, warn};

use crate::{
    agent::FIRST_BEAT,
    workflow::{
        engine::{
            driver::Driver,
            tasks::{Queued, SEEK, WINDOW, lost_after},
        },
        journal::Entry,
    },
};

/// The longest pause before a task is dispatched again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

impl Driver {
    /// Checks whether an agent has begun a task: reports an unclaimed task, and dispatches it again
    /// if its delivery seems to be lost and the journal was just read. Returns when to check again,
    /// unless an agent has begun it.
    pub(in super::super) fn check_unclaimed(
        &mut self,
        operation: u64,
        now: Timestamp,
        is_read: bool,
    ) -> Option<Timestamp> {
        // `None`: an agent has begun it, and the deadlines of `assignment` apply.
        self.report_unclaimed(operation, now)?;
        if self.is_lost(operation, now) {
            if !is_read {
                return Some(now + self.engine.options.backoff.initial_delay);
            }
            self.repeat_lost(operation);
        }
        Some(now + self.until_next_check(operation, now)?)
    }

    /// Reports a task that no agent has begun for a long time. Returns `None` if an agent has begun
    /// it.
    fn report_unclaimed(&mut self, operation: u64, now: Timestamp) -> Option<()> {
        let unclaimed_after = self.engine.options.unclaimed_after;
        let assignment = self.tasks.assigned.get_mut(&operation)?;
        let attempt = assignment.attempt;
        let assigned_at = assignment.assigned_at;
        let queued = assignment.queued.as_mut()?;
        // While agents begin and end other tasks, this one counts as queued.
        let activity = self.engine.activity.of(&queued.queue().0);
        let since = activity.map_or(assigned_at, |it| it.at.max(assigned_at));
        let since = self.engine.audible_since(since);
        if queued.is_unclaimed() || since + unclaimed_after > now {
            return Some(());
        }
        queued.set_unclaimed();
        let queue = queued.queue().clone();
        if self.engine.activity.should_warn(&queue, now) {
            let agent_type = &queue.0;
            let agent_id = queue.1.as_deref();
            warn!(
                %agent_type, agent_id, run = %self.run_id, operation, %since,
                "no agent begins tasks of this type; they wait"
            );
        }
        let message = match &queue.1 {
            None => format!("no agent of type {} has begun it since {since}", queue.0),
            Some(id) => format!("agent {id} of type {} has not begun it since {since}", queue.0),
        };
        let failure = Failure::new(codes::TASK_UNCLAIMED, message);
        self.record_claim_status(operation, attempt, agent::TASK_UNCLAIMED, Some(failure));
        Some(())
    }

    /// Reports a task that no queue has taken and that will be tried again, unless it is reported already.
    /// The report lasts until an agent begins the task, or the task ends.
    pub(in super::super) fn report_unreached(
        &mut self,
        operation: u64,
        attempt: u32,
        failure: Failure,
    ) {
        if failure.code == codes::AGENT_NOT_FOUND && !self.tasks.open.is_unclaimed(operation) {
            self.record_claim_status(operation, attempt, agent::TASK_UNCLAIMED, Some(failure));
        }
    }

    /// Whether the delivery of a task that no agent has begun seems to be lost.
    ///
    /// It is due if the broker is suspected to have lost tasks in the last `WINDOW`, or if the pause
    /// since the last dispatch, report or question is over. The pause doubles with each repeated
    /// dispatch. A process that reported it within the heartbeat timeout holds it.
    pub(in super::super) fn is_lost(&mut self, operation: u64, now: Timestamp) -> bool {
        let options = &self.engine.options;
        let patience = options.heartbeat_timeout;
        let first_pause = options.redispatch_after;
        let Some(assignment) = self.tasks.assigned.get_mut(&operation) else { return false };
        let held_at = assignment.held_at;
        let dispatched_at = assignment.dispatched_at;
        // When the broker last received the task, or a process last reported it.
        let known_at = held_at.map_or(dispatched_at, |at| at.max(dispatched_at));
        let sought_at = assignment.sought_at;
        // A process that has it has got it, or was asked for it, by then.
        let silent_since = sought_at.map_or(known_at, |at| at.max(known_at));
        let suspected_at = assignment.suspected_at.filter(|at| *at + WINDOW > now);
        let pause = first_pause.map(|first| {
            first.saturating_mul(2_u32.saturating_pow(assignment.repeated)).min(LONGEST_PAUSE)
        });
        let is_due =
            pause.is_some_and(|pause| suspected_at.is_some() || silent_since + pause <= now);
        let is_held = held_at.is_some_and(|at| at + patience > now);
        // Tasks that several engines dispatched are not queued exactly in the order of their
        // records. One that was just taken over may be queued until agents begin tasks that were
        // recorded after the takeover.
        let is_just_sought = suspected_at.is_some() && suspected_at == sought_at;
        let place = if is_just_sought { silent_since } else { known_at };
        let report_within = assignment.report_within;
        let Some(queued) = assignment.queued.as_mut().filter(|_| is_due && !is_held) else {
            return false;
        };
        queued.seems_lost(silent_since, place, report_within, now)
    }

    /// Dispatches a task again whose delivery seems to be lost.
    ///
    /// Everything that was noted about its former delivery is reset; the deadlines of the attempt are
    /// not.
    fn repeat_lost(&mut self, operation: u64) {
        let Some(assignment) = self.tasks.assigned.get_mut(&operation) else { return };
        assignment.repeated += 1;
        assignment.suspected_at = None;
        assignment.sought_at = None;
        assignment.report_within = lost_after(&self.engine.options);
        let attempt = assignment.attempt;
        let agent_type = assignment.agent_type().to_string();
        info!(run = %self.run_id, operation, attempt, "a task seems to be lost; dispatching it again");
        counter!("aios_tasks_redispatched_total", "agent_type" => agent_type).increment(1);
        self.execution.machine().repeat_task(operation);
    }

    /// The time until the next check: at increasing intervals while the broker may have lost the
    /// task.
    fn until_next_check(&self, operation: u64, now: Timestamp) -> Option<Duration> {
        let unclaimed_after = self.engine.options.unclaimed_after;
        let assignment = self.tasks.assigned.get(&operation)?;
        Some(match assignment.suspected_at.filter(|at| *at + WINDOW > now) {
            Some(at) => {
                let least = if assignment.sought_at.is_some() { SEEK } else { FIRST_BEAT };
                // Half of the time since the suspicion: often at first, then less.
                (now.duration_since(at) / 2).clamp(least, unclaimed_after.max(least))
            }
            None => unclaimed_after,
        })
    }

    /// The broker may have lost the tasks that no agent has begun.
    pub(in super::super) fn suspect(&mut self) {
        let now = self.engine.clock.now();
        let look_at = now + lost_after(&self.engine.options);
        for (operation, assignment) in &mut self.tasks.assigned {
            if assignment.queued.is_some() {
                assignment.suspected_at = Some(now);
                self.engine.timers.set(look_at, &self.run_id, *operation);
            }
        }
    }

    /// An agent's process holds a task that it has not begun, so the task is not lost.
    pub(in super::super) fn on_held(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        if let Some(assignment) = self.tasks.assigned.get_mut(&operation) {
            assignment.held_at = Some(now);
        }
    }

    /// An agent has begun a task that may have been reported as unclaimed.
    pub(in super::super) fn on_claimed(&mut self, operation: u64, attempt: u32, queued: &Queued) {
        if queued.is_unclaimed() || self.tasks.open.is_unclaimed(operation) {
            self.record_claim_status(operation, attempt, agent::TASK_CLAIMED, None);
        }
    }

    /// Records whether an agent has begun a task, for readers of the run's status.
    ///
    /// The event has no meaning for the machine: it changes the read model, and nothing in the run.
    fn record_claim_status(
        &mut self,
        operation: u64,
        attempt: u32,
        action: &str,
        failure: Option<Failure>,
    ) {
        let Some(agent_type) = self.tasks.open.agent_type(operation) else { return };
        let task_id = TaskId::of_run(&self.run_id, operation);
        let failure = failure.map(|failure| failure.with_details(json!({ "attempt": attempt })));
        let data = TaskUnclaimed::new(task_id, attempt, failure);
        let event =
            EventType::new(agent::DOMAIN, agent_type.as_str(), action).and_then(|event_type| {
                Event::new(event_type, Arc::clone(self.origin.codec.source()), &data)
            });
        match event {
            Ok(event) => {
                let event = event.with_timestamp(self.engine.clock.now());
                self.write(Entry::Other(Box::new(event)));
            }
            Err(error) => self.write_failure = Some(Failure::from_error(error.code(), &error)),
        }
    }
}
