//! Tasks that no agent begins.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::TaskId,
    catalog::agent::{self, TaskUnclaimed},
    event::{Event, EventType, Timestamp},
    failure::Failure,
};
use metrics::counter;
use serde_json::json;
use tracing::{info, warn};

use super::Driver;
use crate::{
    agent::{FIRST_BEAT, codes},
    workflow::{
        engine::{
            activity::{Queued, lost_after},
            suspicion::WINDOW,
        },
        journal::Entry,
    },
};

/// The longest pause before a task is dispatched again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

impl Driver {
    /// Checks whether an agent has begun a task: reports an unclaimed task, and dispatches it again
    /// if its message seems to be lost. Returns when to check again, unless an agent has begun it.
    pub(super) fn check_unclaimed(&mut self, operation: u64, now: Timestamp) -> Option<Timestamp> {
        let unclaimed_after = self.engine.options.unclaimed_after;
        let assignment = self.assigned.get_mut(&operation)?;
        let attempt = assignment.attempt;
        let (held_at, patience) = (assignment.held_at, self.engine.options.heartbeat_timeout);
        let is_held = held_at.is_some_and(|at| at + patience > now);
        let known_at =
            held_at.map_or(assignment.dispatched_at, |at| at.max(assignment.dispatched_at));
        let queued = assignment.queued.as_mut()?;
        // While agents begin and end other tasks, this one counts as queued.
        let activity = self.engine.activity.of(&queued.queue().0);
        let since = activity.map_or(assignment.assigned_at, |it| it.at.max(assignment.assigned_at));
        let is_new = !queued.is_unclaimed() && since + unclaimed_after <= now;
        if is_new {
            queued.set_unclaimed();
        }
        let pause = self.engine.options.redispatch_after.map(|first| {
            first.saturating_mul(2_u32.saturating_pow(assignment.repeated)).min(LONGEST_PAUSE)
        });
        let suspected_at = assignment.suspected_at.filter(|at| *at + WINDOW > now);
        let sought_at = assignment.sought_at;
        let silent_since = sought_at.map_or(known_at, |at| at.max(known_at));
        let is_due =
            pause.is_some_and(|pause| suspected_at.is_some() || silent_since + pause <= now);
        // Tasks that several engines dispatched are not queued exactly in the order of their
        // records. One that was just taken over and is behind later ones may still be queued.
        let is_just_sought = suspected_at.is_some() && suspected_at == sought_at;
        let place = (!is_just_sought).then_some(known_at);
        let is_lost = is_due && !is_held && queued.seems_lost(silent_since, place, now);
        if is_lost {
            assignment.repeated += 1;
            assignment.suspected_at = None;
            assignment.sought_at = None;
        }
        let queue = queued.queue().clone();
        if is_new {
            if self.engine.activity.should_warn(&queue, now) {
                let (agent_type, agent_id) = (&queue.0, queue.1.as_deref());
                warn!(
                    %agent_type, agent_id, run = %self.run_id, operation, %since,
                    "no agent begins tasks of this type; they wait"
                );
            }
            let message = match &queue.1 {
                None => format!("no agent of type {} has begun it since {since}", queue.0),
                Some(id) => {
                    format!("agent {id} of type {} has not begun it since {since}", queue.0)
                }
            };
            self.record_claim_status(operation, attempt, agent::TASK_UNCLAIMED, Some(message));
        }
        if is_lost {
            info!(run = %self.run_id, operation, attempt, "a task seems to be lost; dispatching it again");
            counter!("aios_tasks_redispatched_total", "agent_type" => queue.0.to_string())
                .increment(1);
            self.execution.machine().repeat_task(operation);
        }
        let next = match suspected_at {
            // At increasing intervals.
            Some(at) if !is_lost => {
                (now.duration_since(at) / 2).clamp(FIRST_BEAT, unclaimed_after.max(FIRST_BEAT))
            }
            _ => unclaimed_after,
        };
        Some(now + next)
    }

    /// Whether the broker may have lost a task that no agent is known to have begun.
    pub(super) fn is_suspected(&self, operation: u64) -> bool {
        let assignment = self.assigned.get(&operation);
        assignment.is_some_and(|it| it.queued.is_some() && it.suspected_at.is_some())
    }

    /// The broker may have lost the tasks that no agent has begun.
    pub(super) fn suspect(&mut self) {
        let now = self.engine.clock.now();
        let look_at = now + lost_after(&self.engine.options);
        for (operation, assignment) in &mut self.assigned {
            if assignment.queued.is_some() {
                assignment.suspected_at = Some(now);
                self.engine.timers.set(look_at, &self.run_id, *operation);
            }
        }
    }

    /// An agent's process holds a task that it has not begun, so the task is not lost.
    pub(super) fn on_held(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        if let Some(assignment) = self.assigned.get_mut(&operation) {
            assignment.held_at = Some(now);
        }
    }

    /// An agent has begun a task that may have been reported as unclaimed.
    pub(super) fn on_claimed(&mut self, operation: u64, attempt: u32, queued: &Queued) {
        if queued.is_unclaimed() {
            self.record_claim_status(operation, attempt, agent::TASK_CLAIMED, None);
        }
    }

    /// Records whether an agent has begun a task, for readers of the run's status.
    fn record_claim_status(
        &mut self,
        operation: u64,
        attempt: u32,
        action: &str,
        message: Option<String>,
    ) {
        let Some(agent_type) = self.execution.machine().task(operation).map(|it| it.0.clone())
        else {
            return;
        };
        let task_id = TaskId::of_run(&self.run_id, operation);
        let failure = message.map(|message| {
            Failure::new(codes::TASK_UNCLAIMED, message).with_details(json!({ "attempt": attempt }))
        });
        let data = TaskUnclaimed { task_id, attempt, failure };
        let event = EventType::new(agent::DOMAIN, agent_type.as_str(), action)
            .and_then(|event_type| Event::new(event_type, Arc::clone(self.codec.source()), &data));
        match event {
            Ok(event) => {
                let event = event.with_timestamp(self.engine.clock.now());
                self.write(Entry::Other(Box::new(event)));
            }
            Err(error) => self.write_failure = Some(Failure::from_error(error.code(), &error)),
        }
    }
}
