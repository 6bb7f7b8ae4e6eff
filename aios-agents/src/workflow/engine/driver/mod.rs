//! Drives one run: the only place where the machine meets store, broker and clock.

mod answer;
mod assignment;
mod children;
mod commit;
mod load;
mod outgoing;
mod place;
mod stay;
mod successor;
mod unclaimed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    BoxFuture, Chain,
    agent::{Name, TaskError, TaskId},
    broker::{Delivery, Publish},
    event::{EventError, EventId, Metadata},
    failure::Failure,
    store::{Appended, Fence, StoreError, StreamId},
};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

pub(super) use self::{
    answer::refuse,
    assignment::{ANONYMOUS, Refusal, assignment_id, recorded},
    commit::too_large,
    load::origin,
    stay::run,
};
use self::{assignment::Assignment, children::Children, outgoing::Outgoing, successor::Succession};
use super::{
    Ended, Engine, Message,
    dispatch::{Attempt, Dispatch},
    inbox::Inbox,
    parking::Parked,
};
use crate::{
    agent::{codes::AGENT_NOT_FOUND, mailbox_of},
    task,
    workflow::{
        Execution,
        journal::{AgentEvent, ChildStarted, Codec, Entry, Parent, Record, TaskCancelled},
        machine::{Effect, Request},
    },
};

/// Turns that a run takes without waiting before others get theirs.
const TURNS: u32 = 64;
/// How long a run stays in memory whose code something foreign may wake.
const WATCH: Duration = Duration::from_secs(10);

/// Why a run leaves memory.
#[derive(Debug)]
enum Exit {
    /// It has ended, or stands still until its code changes.
    Ended(Ended),
    /// It waits for something that will wake it; if for nothing but events and timers, that can be
    /// noted.
    Waiting(Option<Parked>),
    /// Its time has not come; a timer wakes it.
    Premature(Option<Parked>),
    /// Somebody else owns it.
    Lost,
    /// There is no such run.
    Unknown,
    /// Its journal can't be read.
    Unreadable(EventError),
    /// The store refused.
    Failed(StoreError),
}

/// A run in memory.
struct Driver {
    engine: Arc<Engine>,
    run_id: Arc<str>,
    stream: StreamId,
    workflow: Name,
    workflow_version: u32,
    codec: Arc<Codec>,
    execution: Execution,
    /// Proof that this engine owns the run, since it was loaded.
    fence: Fence,
    /// Version of the last event of the stream that was applied or held.
    version: u64,
    /// Metadata for the events that this run causes.
    metadata: Metadata,
    /// Id of the event that started the run.
    incarnation: EventId,
    incarnation_text: Arc<str>,
    parent: Option<Parent>,
    children: Children,
    /// The run that this one continues as.
    succession: Succession,
    /// Records that wait for the next append.
    outbox: Vec<Record>,
    /// Answers to be acknowledged once the outbox is durable.
    answers: Vec<Delivery>,
    append: Option<InFlight>,
    /// Tasks on their way to the dispatcher.
    outgoing: Outgoing,
    /// Tasks that the broker did not take, and how long to wait before the next attempt.
    deferred: BTreeMap<u64, Duration>,
    /// Timers that were due while the run was paused.
    missed: BTreeSet<u64>,
    /// Whether to look for what others appended, once the append in flight is answered.
    nudged: bool,
    /// When to look again for what others appended, after the store did not answer.
    look_again: Option<BoxFuture<'static, ()>>,
    /// Why the run was blocked when it was loaded, if it was.
    blocked: Option<Failure>,
    /// Whether the journal is still to say that the run is blocked no longer.
    unblocks: bool,
    /// What could not be written, if anything: the run can't go on without it.
    unwritten: Option<Failure>,
    /// Why somebody wants it cancelled, if anybody does: what is to be done with code that no
    /// longer fits.
    cancel_requested: Option<String>,
    /// The attempts at tasks that agents have, or should have, by operation.
    assigned: HashMap<u64, Assignment>,
    /// The engines that said that they have no code for it.
    declined: BTreeSet<Box<str>>,
    /// Whether it is about to move to another engine.
    is_leaving: bool,
    /// Turns since the run waited last.
    turns: u32,
    /// Until when the run stays in memory in any case, once it may rest.
    watched_until: Option<aios_core::event::Timestamp>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Records on their way into the journal.
struct InFlight {
    records: Vec<Record>,
    answers: Vec<Delivery>,
    /// How often the store did not take them.
    failures: u32,
    appending: BoxFuture<'static, Result<Appended, StoreError>>,
}

enum Happened {
    Appended(Result<Appended, StoreError>),
    Told(Message),
    Asked,
}

impl Driver {
    async fn drive(&mut self, inbox: &Inbox) -> Exit {
        loop {
            self.catch_up_on_timers();
            self.perform_effects();
            self.cancel_children();
            if self.append.is_none() {
                let unfit = self.unwritten.take().or_else(|| self.execution.misfit());
                if let Some(failure) = unfit.or_else(|| self.children.uncancelled().cloned()) {
                    return self.block(failure).await;
                }
                if let Err(exit) = Box::pin(self.begin_successor()).await {
                    return exit;
                }
                if let Err(exit) = self.pass_cancellation_on().await {
                    return exit;
                }
                self.unblock();
                if let Err(failure) = self.begin_append() {
                    return self.block(failure).await;
                }
            }
            if self.may_leave() {
                return Exit::Lost;
            }
            if self.may_rest() && inbox.is_empty() {
                return Exit::Waiting(self.parked());
            }
            if self.turns >= TURNS {
                self.turns = 0;
                self.permit = None;
                tokio::task::yield_now().await;
            }
            let happened = poll_fn(|context| self.poll(inbox, context)).await;
            let exit = match happened {
                Happened::Appended(result) => {
                    self.watched_until = None;
                    self.appended(result).await
                }
                Happened::Told(message) => self.told(message).await,
                Happened::Asked => None,
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    fn poll(&mut self, inbox: &Inbox, context: &mut Context<'_>) -> Poll<Happened> {
        self.turns += 1;
        if !self.engine.ownership.is_valid() {
            return Poll::Ready(Happened::Told(Message::Lost));
        }
        // What waits for the dispatcher holds up nothing else.
        if !self.outgoing.is_empty() {
            match self.is_paused() {
                true => self.outgoing.rest(),
                false => drop(self.outgoing.poll(&self.engine.dispatches, context)),
            }
        }
        if let Some(append) = &mut self.append
            && let Poll::Ready(result) = append.appending.as_mut().poll(context)
        {
            return Poll::Ready(Happened::Appended(result));
        }
        if let Poll::Ready(message) = inbox.poll_pop(context) {
            return Poll::Ready(Happened::Told(message));
        }
        if let Some(look_again) = &mut self.look_again
            && look_again.as_mut().poll(context).is_ready()
        {
            self.look_again = None;
            return Poll::Ready(Happened::Told(Message::Nudge));
        }
        if self.execution.poll(context).is_pending() {
            return Poll::Pending;
        }
        if self.append.is_none() && (self.has_records() || self.execution.is_misfit()) {
            return Poll::Ready(Happened::Asked);
        }
        let has_effects = self.execution.machine().has_effects();
        if has_effects || self.children.poll_cancelling(context).is_ready() {
            return Poll::Ready(Happened::Asked);
        }
        self.turns = 0;
        self.permit = None;
        Poll::Pending
    }

    /// Whether the run is to move to another engine, and nothing that it began is to be recorded.
    fn may_leave(&self) -> bool {
        let is_recorded = || self.append.is_none() && !self.has_records();
        self.is_leaving && is_recorded() && !self.execution.machine().runs_step()
    }

    /// Whether nothing but timers, signals and children is waited for, none of them soon.
    fn may_rest(&mut self) -> bool {
        let is_ending = self.execution.outcome().is_some() && !self.is_paused();
        let is_busy = self.append.is_some() || self.has_records() || self.look_again.is_some();
        if is_busy || is_ending || self.children.is_cancelling() {
            return false;
        }
        let machine = self.execution.machine();
        if machine.is_paused() {
            return !machine.runs_step();
        }
        let mut active = machine.active().peekable();
        let rests = active.peek().is_some() && active.all(|(_, request)| waits(request));
        drop(active);
        let soon = || self.engine.clock.now() + self.engine.options.eviction_delay;
        let rests = rests && machine.next_timer().is_none_or(|due| due > soon());
        drop(machine);
        rests && !self.is_watched()
    }

    /// What is to be noted of a run that rests, unless it has tasks.
    fn parked(&self) -> Option<Parked> {
        let only_waits = self.execution.machine().active().all(|(_, request)| waits(request));
        only_waits.then(|| self.as_parked())
    }

    fn as_parked(&self) -> Parked {
        Parked { fence: self.fence, version: self.version }
    }

    /// Whether the run stays to see if something foreign wakes its code, which would be lost with
    /// the code.
    fn is_watched(&mut self) -> bool {
        if !self.execution.is_watched() {
            return false;
        }
        let now = self.engine.clock.now();
        let until = *self.watched_until.get_or_insert_with(|| {
            let until = now + WATCH;
            self.engine.timers.set(until, &self.run_id, 0);
            until
        });
        now < until
    }

    /// Says that a blocked run goes on, once it does: one that is paused still stands still.
    fn unblock(&mut self) {
        if self.unblocks && !self.is_paused() {
            self.unblocks = false;
            self.write(Entry::Unblocked);
        }
    }

    /// Adds a record to the next append.
    fn write(&mut self, entry: Entry) {
        match self.encode(entry) {
            Ok(record) => self.outbox.push(record),
            Err(error) => self.unwritten = Some(Failure::from_error(error.code(), &error)),
        }
    }

    fn is_paused(&self) -> bool {
        self.execution.machine().is_paused()
    }

    /// Timers that were due while the run was paused are due now.
    fn catch_up_on_timers(&mut self) {
        if self.missed.is_empty() || self.is_paused() {
            return;
        }
        for operation in std::mem::take(&mut self.missed) {
            self.timer_due(operation);
        }
    }

    fn perform_effects(&mut self) {
        let effects = self.execution.machine().take_effects();
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

    /// Starts a child, or looks whether it has ended, unless nothing waits for it any more.
    fn start_child(&mut self, child: ChildStarted) {
        if !self.execution.machine().is_active(child.operation) {
            return;
        }
        let check = self.engine.clock.now() + self.engine.options.child_poll_interval;
        self.engine.timers.set(check, &self.run_id, child.operation);
        let (engine, run_id) = (Arc::clone(&self.engine), Arc::clone(&self.run_id));
        let (operation, metadata) = (child.operation, self.metadata.clone());
        let incarnation = self.incarnation.clone();
        // A task of its own, because starting a child starts a driver like this one.
        let starting = task::spawn(async move {
            engine.start_child(run_id, incarnation, child, metadata).await;
        });
        self.children.starting(operation, starting);
    }

    /// Tells agents that a task is not waited for any more.
    fn cancel_task(&mut self, agent_type: Name, task_id: TaskId) {
        let data = TaskCancelled { task_id };
        let entry = Entry::TaskCancelled(AgentEvent { agent_type, data });
        match self.addressed(entry, false) {
            Ok(publish) => self.send(publish, None),
            Err(failure) => self.unwritten = Some(failure),
        }
    }

    /// Gives a task to the dispatcher. One that can't be addressed fails.
    fn dispatch(&mut self, assignment: AgentEvent<aios_core::agent::TaskAssigned>) {
        let attempt = assignment.data.attempt;
        let operation = assignment.data.task_id.run().map_or(0, |run| run.1);
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        let expected = self.expect_answer(operation, &assignment);
        match self.addressed(Entry::TaskAssigned(assignment), true) {
            Ok(publish) => self.send(publish, Some(expected)),
            Err(failure) => self.undelivered(operation, attempt, TaskError::terminal(failure)),
        }
    }

    fn send(&mut self, publish: Publish, task: Option<Attempt>) {
        let fence = self.fence;
        self.outgoing.push(Dispatch { publish, task, fence }, &self.engine.dispatches);
    }

    /// The event of an entry, on its way to an agent type or to one agent.
    fn addressed(&self, entry: Entry, require_route: bool) -> Result<Publish, Failure> {
        let unwritable = |error: EventError| Failure::from_error(error.code(), &error);
        let mut record = self.encode(entry).map_err(unwritable)?;
        if let Entry::TaskAssigned(_) = &record.entry {
            let fence = serde_json::json!(self.fence);
            record.event.metadata.extra.insert("fence".to_owned(), fence);
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

/// Whether a request is settled by an event or a timer alone.
fn waits(request: &Request) -> bool {
    matches!(request, Request::Sleep { .. } | Request::Signal { .. } | Request::Child(_))
}

pub(super) async fn acknowledge(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        warn!(error = %Chain(&error), "could not acknowledge an answer; it will come again");
    }
}
