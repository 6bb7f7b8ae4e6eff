//! The open attempts at tasks: which agents may answer them, and by when.
//!
//! The engine alone ends attempts: neither agents nor brokers repeat a task on their own. For that it
//! has an `Assignment` for each open attempt, and these deadlines, all of which are timers of the
//! operation:
//!
//! | deadline | counts from | what follows |
//! |---|---|---|
//! | timeout, plus `task_grace` | the first heartbeat; before that, the last activity of the agents of the type | the attempt fails with `TASK_TIMEOUT` |
//! | `heartbeat_timeout` | the last heartbeat | the attempt fails with `HEARTBEAT_MISSED` |
//! | half of it | the last heartbeat | the engine looks for its dead letter |
//! | total timeout | the first assignment of the task | the task fails permanently |
//! | `unclaimed_after` | the last activity of the agents | it is reported as unclaimed |
//! | `redispatch_after` | the last dispatch or report | it is dispatched again if it seems to be lost (`unclaimed`) |
//!
//! Silence counts only while agents can be heard. While the broker is not connected, the first three
//! deadlines and the report do not come closer, and afterwards `task_grace` or the whole of the other
//! limits passes before an attempt ends (`Engine::audible_since`). So an outage of the broker ends no
//! attempt.
//!
//! None of this is recorded, except the ends of attempts. An engine that takes the run over counts
//! again from the takeover, and asks the agents first (`seek`).
//!
//! Heartbeats are not recorded either. An answer names the event that assigned the attempt as its
//! cause. This distinguishes it from answers to other attempts, to an earlier run with the same id, and to
//! a run of another store.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{Name, TaskAssigned, TaskError, TaskId},
    broker::{DeadLetter, Delivery},
    catalog::codes,
    event::{Event, EventId, Metadata, Timestamp},
    failure::Failure,
};

use super::refusal::{ANONYMOUS, refuse};
use crate::{
    agent::letters::dead_lettered,
    runtime::AnonymousAnswers,
    trace::SpanId,
    workflow::{
        engine::{
            driver::Driver,
            tasks::{Attempt, Queued, lost_after},
        },
        journal::{AgentEvent, Entry},
    },
};

/// An attempt that was published to its agents.
#[derive(Debug)]
pub(in super::super) struct Assignment {
    /// Type of the agents that may answer.
    agent_type: Name,
    /// The agent that has to perform it; any agent of the type if `None`.
    agent_id: Option<Box<str>>,
    /// Number of the attempt, from 1.
    pub(in super::super) attempt: u32,
    /// Time that the agent's code may take.
    timeout: Option<Duration>,
    /// When this engine began to wait for an answer.
    pub(in super::super) assigned_at: Timestamp,
    /// When it was recorded, which is about its place in the queue of its agents.
    pub(in super::super) recorded_at: Timestamp,
    /// When it was last dispatched, and how often it was repeated.
    pub(in super::super) dispatched_at: Timestamp,
    /// Number of repeated dispatches, from which the pause before the next one follows.
    pub(in super::super) repeated: u32,
    /// When an agent's process last reported that it holds the attempt and has not begun it.
    pub(in super::super) held_at: Option<Timestamp>,
    /// When the processes of its agents were asked who has it, because another engine, or this one
    /// earlier, may have dispatched it.
    pub(in super::super) sought_at: Option<Timestamp>,
    /// How soon a process that has it reports it, after it was dispatched or sought.
    pub(in super::super) report_within: Duration,
    /// Since when the broker may have lost it.
    pub(in super::super) suspected_at: Option<Timestamp>,
    /// When an agent was first known to work on this attempt.
    started_at: Option<Timestamp>,
    /// When the agent was last heard of.
    last_heartbeat: Option<Timestamp>,
    /// Counts the attempt among those that no agent has begun.
    pub(in super::super) queued: Option<Queued>,
    /// Makes the engine look for its dead letter: it was begun, and its agent may have abandoned
    /// it.
    silent: Option<Queued>,
    /// An answer that names no assignment, and when it arrived. It is not acknowledged while it is
    /// here.
    anonymous: Option<(AnonymousAnswer, Timestamp)>,
    /// Alive while the run waits for this attempt. The dispatcher has a weak reference, and drops a
    /// task that no run waits for.
    awaited: Arc<()>,
}

impl Assignment {
    /// Type of the agents that may answer.
    pub(in super::super) fn agent_type(&self) -> &Name {
        &self.agent_type
    }

    /// Whether an agent has begun the attempt, or its process has reported that it holds it.
    pub(in super::super) fn is_known_to_agents(&self) -> bool {
        self.started_at.is_some() || self.held_at.is_some()
    }

    /// The data that the dispatcher needs.
    fn attempt(&self, run_id: &Arc<str>, operation: u64) -> Attempt {
        let run_id = Arc::clone(run_id);
        let awaited = Arc::downgrade(&self.awaited);
        Attempt { run_id, operation, number: self.attempt, awaited }
    }
}

/// An answer that names no assignment.
#[derive(Debug)]
pub(in super::super) struct AnonymousAnswer {
    /// The attempt that it is taken to answer.
    pub(in super::super) attempt: u32,
    /// The answer as an entry.
    pub(in super::super) entry: Entry,
    /// To be acknowledged once it is accepted.
    pub(in super::super) delivery: Delivery,
}

impl Driver {
    /// The id of the event that assigns an attempt; every answer names it as its cause. It differs
    /// between runs that used the same id one after the other or in different stores.
    pub(in super::super) fn assignment_id(&self, operation: u64, attempt: u32) -> EventId {
        assignment_id(&self.origin.incarnation, operation, attempt)
    }

    /// Metadata of the events that are published about a task.
    pub(in super::super) fn task_metadata(&self) -> Metadata {
        let incarnation = Some(Arc::clone(&self.origin.incarnation_text));
        let reply_to = self.engine.ownership.mailbox();
        Metadata { incarnation, reply_to, ..(*self.origin.metadata).clone() }
    }

    /// Metadata of the event that assigns an attempt. Its trace context is the span of the attempt, so
    /// that the spans of the agent belong to it.
    pub(in super::super) fn assignment_metadata(&self, task: &TaskAssigned) -> Metadata {
        let operation = task.task_id.run().map_or(0, |(_, operation)| operation);
        let span = SpanId::of_attempt(&self.origin.incarnation, operation, task.attempt);
        let traceparent = Some(self.origin.trace.with_span(span).to_string().into());
        Metadata { traceparent, ..self.task_metadata() }
    }

    /// Registers an attempt that is passed to the dispatcher, and sets its timers.
    ///
    /// A repeated dispatch of an attempt that is registered already changes nothing but the time of the
    /// last dispatch.
    pub(in super::super) fn expect_answer(
        &mut self,
        operation: u64,
        task: &AgentEvent<TaskAssigned>,
    ) -> Attempt {
        let assigned_at = self.engine.clock.now();
        if let Some(assignment) = self.tasks.assigned.get_mut(&operation)
            && assignment.attempt == task.data.attempt
        {
            // A repeated dispatch of the same attempt does not restart its time.
            assignment.dispatched_at = assigned_at;
            return assignment.attempt(&self.run_id, operation);
        }
        let assignment = Assignment {
            agent_type: task.agent_type.clone(),
            agent_id: task.data.agent_id.as_deref().map(Into::into),
            attempt: task.data.attempt,
            timeout: task.data.timeout(),
            assigned_at,
            recorded_at: assigned_at,
            dispatched_at: assigned_at,
            repeated: 0,
            held_at: None,
            sought_at: None,
            report_within: lost_after(&self.engine.options),
            suspected_at: None,
            started_at: None,
            last_heartbeat: None,
            queued: Some(Queued::new(
                &self.engine,
                &task.agent_type,
                task.data.agent_id.as_deref(),
            )),
            silent: None,
            anonymous: None,
            awaited: Arc::default(),
        };
        let unclaimed_at = assigned_at + self.engine.options.unclaimed_after;
        self.engine.timers.set(unclaimed_at, &self.run_id, operation);
        if let Some(timeout) = assignment.timeout {
            let deadline = assigned_at + timeout + self.engine.options.task_grace;
            self.engine.timers.set(deadline, &self.run_id, operation);
        }
        if let Some(expiry) = self.execution.machine().task_expiry(operation) {
            self.engine.timers.set(expiry, &self.run_id, operation);
        }
        let attempt = assignment.attempt(&self.run_id, operation);
        self.tasks.assigned.insert(operation, assignment);
        attempt
    }

    /// An agent works on the current attempt. From now on, silence means that it died.
    pub(in super::super) async fn on_heartbeat(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        let Some(assignment) = self.tasks.assigned.get_mut(&operation) else { return };
        // The first heartbeat shows that the queue has moved up to this task.
        if assignment.started_at.replace(assignment.started_at.unwrap_or(now)).is_none() {
            self.engine.activity.record(&assignment.agent_type, now, assignment.recorded_at);
        }
        assignment.last_heartbeat = Some(now);
        assignment.silent = None;
        let queued = assignment.queued.take();
        let attempt = assignment.attempt;
        // The first of the two deadlines of silence; the check of this timer sets the second.
        let silence = now + self.engine.options.heartbeat_timeout / 2;
        self.engine.timers.set(silence, &self.run_id, operation);
        let anonymous = assignment.anonymous.take();
        if let Some(queued) = queued {
            self.on_claimed(operation, attempt, &queued);
        }
        if let Some((answer, _)) = anonymous {
            refuse(answer.delivery, ANONYMOUS).await;
        }
    }

    /// An agent starts the code of the current attempt, perhaps again: its time counts from now.
    pub(in super::super) async fn on_attempt_started(&mut self, operation: u64) {
        if let Some(assignment) = self.tasks.assigned.get_mut(&operation) {
            assignment.started_at = None;
        }
        self.on_heartbeat(operation).await;
    }

    /// Keeps an answer that names no assignment. It is refused if an agent that names the
    /// assignment is heard of within the grace; otherwise it is accepted, so that agents which are
    /// not built with aios can answer, unless the options say otherwise.
    ///
    /// An attempt that waits for its dispatch has no grace, because the run is paused say, or the broker may
    /// not have taken it. Its answer is accepted at once, as that of a blocked run is.
    pub(in super::super) async fn keep_anonymous(
        &mut self,
        operation: u64,
        answer: AnonymousAnswer,
    ) {
        if self.engine.options.anonymous_answers != AnonymousAnswers::AcceptAfterGrace {
            return refuse(answer.delivery, ANONYMOUS).await;
        }
        let now = self.engine.clock.now();
        match self.tasks.assigned.get_mut(&operation) {
            None => self.accept_anonymous(operation, answer),
            Some(assignment)
                if assignment.started_at.is_none() && assignment.anonymous.is_none() =>
            {
                assignment.anonymous = Some((answer, now));
                let until = now + self.engine.options.task_grace;
                self.engine.timers.set(until, &self.run_id, operation);
            }
            _ => refuse(answer.delivery, ANONYMOUS).await,
        }
    }

    /// Accepts an answer that names no assignment.
    fn accept_anonymous(&mut self, operation: u64, answer: AnonymousAnswer) {
        tracing::warn!(
            run = %self.run_id, event_id = %answer.delivery.event.id,
            "accepted an answer that does not name the assignment of its task as its cause"
        );
        self.accept(operation, answer.attempt, answer.entry, answer.delivery);
    }

    /// Accepts an anonymous answer that was kept long enough; otherwise returns when to accept it.
    ///
    /// An agent that names the assignment had the whole grace to be heard of, and was not.
    fn accept_kept(&mut self, operation: u64, now: Timestamp) -> Option<Timestamp> {
        let assignment = self.tasks.assigned.get_mut(&operation)?;
        let (answer, since) = assignment.anonymous.take()?;
        let until = self.engine.audible_since(since) + self.engine.options.task_grace;
        if until > now {
            assignment.anonymous = Some((answer, since));
            return Some(until);
        }
        self.accept_anonymous(operation, answer);
        None
    }

    /// Ends the current attempt if its agent is silent or its time is over; otherwise sets the
    /// timer of the next check.
    ///
    /// `is_read` says that the journal was just read, so that a task may be dispatched again.
    pub(in super::super) fn check_assignment(
        &mut self,
        operation: u64,
        now: Timestamp,
        is_read: bool,
    ) {
        if let Some(until) = self.accept_kept(operation, now) {
            return self.engine.timers.set(until, &self.run_id, operation);
        }
        let unclaimed_at = self.check_unclaimed(operation, now, is_read);
        let quiet_at = self.check_silence(operation, now);
        let Some(assignment) = self.tasks.assigned.get(&operation) else { return };
        let attempt = assignment.attempt;
        let heard_at = assignment.last_heartbeat.map(|seen| self.engine.audible_since(seen));
        let silent_at = heard_at.map(|at| at + self.engine.options.heartbeat_timeout);
        let late_at = self.deadline(assignment);
        let failure = match (silent_at, late_at) {
            (Some(at), _) if at <= now => {
                Failure::new(codes::HEARTBEAT_MISSED, "the agent stopped sending heartbeats")
            }
            (_, Some(at)) if at <= now => timed_out(assignment),
            (silent_at, late_at) => {
                let expires_at = self.execution.machine().task_expiry(operation);
                let times = [quiet_at, silent_at, late_at, expires_at, unclaimed_at];
                if let Some(next) = times.into_iter().flatten().min() {
                    self.engine.timers.set(next, &self.run_id, operation);
                }
                return;
            }
        };
        // Before the failure is recorded: what arrives from now on is too late for this attempt.
        self.tasks.assigned.remove(&operation);
        self.on_undeliverable(operation, attempt, TaskError::retryable(failure));
    }

    /// Makes the engine look for the dead letter of an attempt whose agent has been silent for half
    /// of the heartbeat timeout. Returns when to start looking, if it is later.
    fn check_silence(&mut self, operation: u64, now: Timestamp) -> Option<Timestamp> {
        let assignment = self.tasks.assigned.get_mut(&operation)?;
        let heard_at = self.engine.audible_since(assignment.last_heartbeat?);
        let quiet_at = heard_at + self.engine.options.heartbeat_timeout / 2;
        if quiet_at > now {
            return Some(quiet_at);
        }
        if assignment.silent.is_none() {
            let agent_id = assignment.agent_id.as_deref();
            let queued = Queued::silent(&self.engine, &assignment.agent_type, agent_id);
            assignment.silent = Some(queued);
        }
        None
    }

    /// Ends a task if the time for all its attempts is over. Returns whether it did.
    pub(in super::super) fn expire(&mut self, operation: u64, now: Timestamp) -> bool {
        let (expires_at, task) = {
            let machine = self.execution.machine();
            let task = machine.task(operation).map(|(agent, attempt)| (agent.clone(), attempt));
            (machine.task_expiry(operation), task)
        };
        let Some((agent_type, attempt)) = task.filter(|_| expires_at.is_some_and(|at| at <= now))
        else {
            return false;
        };
        self.tasks.assigned.remove(&operation);
        self.tasks.deferred.remove(&operation);
        let message = format!("task {operation} of agent {agent_type} has not succeeded in time");
        let failure = Failure::new(codes::TASK_TIMEOUT, message);
        // First, while the machine still knows the attempt; then later answers are ignored, and agents
        // learn of it.
        self.record_failure(operation, attempt, TaskError::terminal(failure));
        self.execution.machine().task_answered(operation);
        self.cancel_task(agent_type, TaskId::of_run(&self.run_id, operation));
        true
    }

    /// The delivery of an attempt became a dead letter: no agent will answer it.
    pub(in super::super) fn on_dead_letter(
        &mut self,
        operation: u64,
        attempt: u32,
        letter: &DeadLetter,
    ) {
        // A letter of an earlier run with the same id, or of another store.
        if letter.event.id != self.assignment_id(operation, attempt) {
            return;
        }
        // The letter of an earlier attempt stays in the broker, and each check finds it again.
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        self.tasks.assigned.remove(&operation);
        self.on_undeliverable(operation, attempt, dead_lettered(&letter.reason));
    }

    /// When the attempt has taken too long: its timeout, plus the grace for the agent's own report,
    /// after an agent began it.
    ///
    /// An attempt that no agent has begun is queued or lost. It counts as queued while the agents
    /// of its type begin and end tasks that were assigned before it, or not much later. Its time
    /// counts from their last activity, or from its own assignment.
    fn deadline(&self, assignment: &Assignment) -> Option<Timestamp> {
        let timeout = assignment.timeout?;
        let grace = self.engine.options.task_grace;
        if let Some(started_at) = assignment.started_at {
            return Some(self.engine.audible_since(started_at + timeout) + grace);
        }
        let allowed = timeout + grace;
        let activity = self.engine.activity.of(&assignment.agent_type);
        let moving = activity.filter(|activity| activity.newest < assignment.assigned_at + allowed);
        let since = moving.map_or(assignment.assigned_at, |it| it.at.max(assignment.assigned_at));
        Some(self.engine.audible_since(since) + allowed)
    }

    /// The current attempt has ended with an answer.
    pub(in super::super) fn end_assignment(&mut self, operation: u64) {
        if let Some(assignment) = self.tasks.assigned.remove(&operation) {
            let now = self.engine.clock.now();
            self.engine.activity.record(&assignment.agent_type, now, assignment.recorded_at);
        }
    }

    /// The event of an answer as it is recorded in the journal.
    pub(in super::super) fn recorded(&self, answer: &Event, operation: u64, attempt: u32) -> Event {
        recorded(answer, &self.origin.incarnation, operation, attempt, &self.origin.metadata)
    }
}

/// The id of the event that assigns an attempt at a task of an incarnation of a run.
pub(in super::super::super) fn assignment_id(
    incarnation: &EventId,
    operation: u64,
    attempt: u32,
) -> EventId {
    EventId::derive_from(incarnation, &format!("{operation}#{attempt}"))
}

/// The event of an answer as it is recorded in the journal. Its id is derived, because an id chosen
/// by the agent may be stored already, and so that two engines that record the same answer record
/// it once.
pub(in super::super::super) fn recorded(
    answer: &Event,
    incarnation: &EventId,
    operation: u64,
    attempt: u32,
    run_metadata: &Metadata,
) -> Event {
    let name = format!("{operation}/answer#{attempt}/{}", answer.event_type);
    recorded_as(answer, EventId::derive_from(incarnation, &name), run_metadata)
}

/// Like [`recorded`], for an answer that names no assignment and whose attempt is not known for sure.
///
/// The id derives from that of the agent too, so that the answer to an earlier attempt does not hide one
/// to a later attempt.
pub(in super::super::super) fn recorded_anonymous(
    answer: &Event,
    incarnation: &EventId,
    operation: u64,
    attempt: u32,
    run_metadata: &Metadata,
) -> Event {
    let (kind, id) = (&answer.event_type, &answer.id);
    let name = format!("{operation}/anonymous#{attempt}/{kind}/{id}");
    recorded_as(answer, EventId::derive_from(incarnation, &name), run_metadata)
}

/// The event of an answer with this id and the metadata of the run. Its source is the one of the agent
/// without NUL, which not every store can keep.
fn recorded_as(answer: &Event, id: EventId, run_metadata: &Metadata) -> Event {
    let mut answer = answer.clone().with_id(id);
    if answer.source.contains('\0') {
        answer.source = answer.source.replace('\0', "\u{fffd}").into();
    }
    answer.metadata_mut().fill_from(run_metadata);
    answer
}

/// The failure of an attempt whose time is over, which says whether an agent had begun it.
fn timed_out(assignment: &Assignment) -> Failure {
    let timeout = assignment.timeout.unwrap_or_default();
    let message = match assignment.started_at {
        Some(_) => format!("the agent did not answer within the timeout of {timeout:?}"),
        None => format!("no agent began the task within the timeout of {timeout:?}"),
    };
    Failure::new(codes::TASK_TIMEOUT, message)
}
