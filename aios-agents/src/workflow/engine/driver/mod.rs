//! The driver of one run: the only place where the state machine meets the store, the broker and the
//! clock.
//!
//! The code of a workflow and its machine do no I/O (see `Execution`). The driver performs what they
//! ask for, records what happens, and feeds the records back:
//!
//! ```text
//!         ┌──────────────── feed, in the order of the journal ────────────────┐
//!         ▼                                                                   │
//!    Execution ── requests ──► outbox ── append, fenced, exact version ──► journal
//!         │                                                                   ▲
//!         └── effects ──► timers, tasks, children ──► answers ──► outbox ─────┘
//! ```
//!
//! Invariants:
//!
//! - The code sees an entry only after the store has it, unless its workflow looks ahead (`commit::lookahead`).
//! - One append is in flight at a time. What comes in the meantime goes into the next one.
//! - An answer of an agent is acknowledged only after its entry is durable.
//! - A run is not advanced after the engine's leases have ended by its own clock.
//! - Every way out of memory is an `Exit`. A run that waits leaves memory; nothing is lost, because
//!   its journal is the whole state.
//!
//! # One turn of the loop
//!
//! | order | what happens | why then |
//! |---|---|---|
//! | 1 | timers that were missed during a pause fire | their entries belong to the next append |
//! | 2 | effects of applied entries are performed | everything that was applied is durable |
//! | 3 | an append begins, if none is in flight | it takes what all of the above has added |
//! | 4 | a run that leaves, or waits, returns its exit | nothing is left to record or to perform |
//! | 5 | the driver waits for the first of: the append, a message, a timer of its own, the code | |
//!
//! While the code is ahead of its journal, 1 and 2 are left out, and in 5 only the append is awaited.
//! Nothing that follows from outcomes which are not durable may be seen outside.
//!
//! # Who else touches the run
//!
//! Nothing does. Other tasks put messages into its inbox, other processes append to its stream, and
//! both are noticed here. The machine and the code are reached by this task only, apart from wakes of
//! steps.
//!
//! # If the process dies
//!
//! Before an append is durable, its outcomes did not happen: steps run again, and agents send their
//! answers again. After it, the next owner finds the entries and requests their effects again, all of
//! which are idempotent.

mod answer;
mod block;
mod children;
mod classify;
mod commit;
mod effects;
mod entries;
mod lifecycle;
mod load;
mod measure;
mod origin;
mod oversize;
mod place;
mod successor;
mod tasks;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    BoxFuture, Chain,
    broker::Delivery,
    event::{EventError, Timestamp},
    failure::Failure,
    store::{Appended, Fence, StoreError},
};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use self::{
    block::BlockState,
    children::Children,
    commit::Lookahead,
    origin::RunOrigin,
    successor::Succession,
    tasks::{Assignment, OpenTasks, Outgoing, RecordedAttempts},
};
pub(super) use self::{
    entries::run_metadata,
    lifecycle::run,
    oversize::too_large,
    tasks::{ANONYMOUS, Refusal, assignment_id, recorded, recorded_anonymous, refuse},
};
use super::{Engine, Message, RunOutcome, recovery::Parked, runs::Inbox};
use crate::workflow::{
    Execution,
    journal::{Entry, Record, Unblocked},
    machine::Request,
};

/// Turns that a run takes without waiting before it yields to others.
const TURNS: u32 = 64;
/// How often a run that is about to leave checks whether its tasks have reached the broker.
const LEAVE_CHECK: Duration = Duration::from_millis(10);
/// How long a run stays in memory if its code may be woken by something outside the engine.
const WATCH: Duration = Duration::from_secs(10);

/// Why a run leaves memory.
///
/// | exit | the run is loaded again |
/// |---|---|
/// | `Ended`, `Unknown` | never, or when it is unblocked |
/// | `Waiting`, `NotDue` | by a message or a timer |
/// | `NotOwner` | by another engine |
/// | `Diverged`, `Failed` (retryable) | by the same task (`lifecycle`), after a pause if the store failed, while this engine owns it |
/// | `Interrupted` | by the same task, after a pause; usually the process ends before that |
/// | `Suspect` | by the same task |
/// | `Unreadable`, `Failed` | not here: it is blocked |
#[derive(Debug)]
enum Exit {
    /// It has ended, or it is blocked until its code changes.
    Ended(RunOutcome),
    /// It waits for something that will wake it. If it waits for events and timers only, that can
    /// be noted.
    Waiting(Option<Parked>),
    /// Its start time has not been reached; a timer wakes it.
    NotDue(Option<Parked>),
    /// This engine does not own it.
    NotOwner,
    /// There is no such run.
    Unknown,
    /// Its journal can't be read.
    Unreadable(EventError),
    /// The store failed.
    Failed(StoreError),
    /// Its code has seen an order that the journal does not have: it must be loaded again.
    Diverged,
    /// Its code was interrupted.
    Interrupted,
    /// It could leave memory, but its code may await something that would be lost: the next load finds
    /// out.
    Suspect,
}

/// A run in memory.
struct Driver {
    /// The engine that owns the run.
    engine: Arc<Engine>,
    /// Id of the run.
    run_id: Arc<str>,
    /// The content of the first event of its journal.
    origin: RunOrigin,
    /// Its code and its machine.
    execution: Execution,
    /// The fence under which this engine owned the run when it was loaded.
    fence: Fence,
    /// Version of the last event of the stream that was applied or is held.
    version: u64,
    /// The tasks that it has assigned.
    tasks: Tasks,
    /// The runs that it has started.
    children: Children,
    /// The run that it continues as.
    succession: Succession,
    /// Records that wait for the next append.
    outbox: Vec<Record>,
    /// Answers to be acknowledged once the outbox is durable.
    answers: Vec<Delivery>,
    /// Answers that no attempt awaited when they came, while something was being recorded.
    postponed: Vec<Delivery>,
    /// The append in flight, if there is one. There is never a second one: its expected version would
    /// not be known.
    append: Option<InFlight>,
    /// Whether the code may see outcomes before they are durable.
    looks_ahead: bool,
    /// Why an entry could not be encoded, if one could not. The run can't continue without it.
    write_failure: Option<Failure>,
    /// Timers that were due while the run was paused.
    missed: BTreeSet<u64>,
    /// Whether to reread the journal for foreign appends once the append in flight has finished.
    reread_pending: bool,
    /// Completes when the journal should be reread after the store failed.
    reread_timer: Option<BoxFuture<'static, ()>>,
    /// Whether it is blocked as the journal has it.
    block: BlockState,
    /// The reason of the cancellation request, if there is one.
    cancel_requested: Option<String>,
    /// The engines that declined the run because they have no code for it.
    declined: BTreeSet<Box<str>>,
    /// Whether it is about to move to another engine.
    is_leaving: bool,
    /// Completes when to check again whether the tasks of a leaving run have reached the broker.
    leave_timer: Option<BoxFuture<'static, ()>>,
    /// Turns since the run waited last.
    turns: u32,
    /// How long the run stays in memory although it is idle.
    watched_until: Option<Timestamp>,
    /// Whether the replay has shown that the code awaits nothing which would be lost.
    is_probed: bool,
    /// Held while the run is loaded and busy for the first time; limits how many are.
    permit: Option<OwnedSemaphorePermit>,
}

/// The tasks that a run has assigned.
#[derive(Default)]
struct Tasks {
    /// The tasks that have not ended, by the journal.
    open: OpenTasks,
    /// The attempts that agents have or should have, by operation.
    assigned: BTreeMap<u64, Assignment>,
    /// The attempts that the broker may have and that are not sought yet: they were recorded when the run
    /// was loaded, or the response to their publication was lost.
    recorded_attempts: RecordedAttempts,
    /// The tasks on their way to the dispatcher.
    outgoing: Outgoing,
    /// The tasks that the broker did not take, and the pause before their next dispatch.
    deferred: BTreeMap<u64, Duration>,
    /// Each task on its way to the broker holds a clone.
    dispatching: Arc<()>,
}

/// Records on their way into the journal.
struct InFlight {
    /// The records, in the order of the append.
    records: Vec<Record>,
    /// The answers among them, acknowledged when they are durable.
    answers: Vec<Delivery>,
    /// Whether the code has seen some of them.
    lookahead: Lookahead,
    /// Number of failed attempts.
    failures: u32,
    /// The call of the store, which goes ahead only while it is polled here.
    appending: BoxFuture<'static, Result<Appended, StoreError>>,
}

/// An event that a driver reacts to.
enum DriverEvent {
    /// The store has answered.
    AppendFinished(Result<Appended, StoreError>),
    /// Another task of the engine has sent something.
    MessageReceived(Message),
    /// There is something to record or to perform.
    WorkReady,
}

impl Driver {
    /// Advances the run until it leaves memory.
    async fn drive(&mut self, inbox: &Inbox) -> Exit {
        loop {
            // What the code has done while it unwound must have no effect.
            if self.execution.is_interrupted() && self.append.is_none() {
                return Exit::Interrupted;
            }
            if !self.is_ahead()
                && let Some(exit) = self.catch_up_on_timers().await
            {
                return exit;
            }
            if !self.is_ahead() && !self.execution.is_interrupted() {
                self.perform_effects();
                self.cancel_children();
                self.cancel_unwanted();
                self.start_dropped();
            }
            if self.append.is_none()
                && let Err(exit) = self.record().await
            {
                return exit;
            }
            if self.can_leave() {
                return Exit::NotOwner;
            }
            if !self.is_leaving && self.is_idle() && inbox.is_empty() {
                return match self.is_suspect() {
                    true => Exit::Suspect,
                    false => Exit::Waiting(self.parked()),
                };
            }
            // A run whose store answers at once would never let others run.
            if self.turns >= TURNS {
                self.turns = 0;
                self.permit = None;
                aios_core::yield_now().await;
            }
            let event = poll_fn(|context| self.poll(inbox, context)).await;
            let exit = match event {
                DriverEvent::AppendFinished(result) => {
                    self.watched_until = None;
                    self.is_probed = false;
                    let exit = self.appended(result).await;
                    if exit.is_none() {
                        self.reconsider().await;
                    }
                    exit
                }
                DriverEvent::MessageReceived(message) => self.on_message(message).await,
                DriverEvent::WorkReady => None,
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Begins to append what the run has to record, and what must precede it. Blocks a run that can't
    /// continue.
    async fn record(&mut self) -> Result<(), Exit> {
        let mismatch = self.write_failure.take().or_else(|| self.execution.block_reason());
        let mismatch = mismatch.or_else(|| self.block.terminated.clone());
        if let Some(failure) = mismatch.or_else(|| self.children.uncancelled().cloned()) {
            return Err(self.block(failure).await);
        }
        if let Some(next) = self.continuation() {
            Box::pin(self.begin_successor(next)).await?;
        }
        self.forward_cancellation().await?;
        self.unblock();
        match self.begin_append().await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.block(failure).await),
        }
    }

    /// Polls everything that the run waits for, and returns the first event.
    ///
    /// The order is that of urgency. Leases come first: nothing may happen after they have ended. The
    /// append comes before messages, whose handling may depend on it. The code comes after everything
    /// that may give it something to do, and what it has requested is looked at last.
    ///
    /// Code that has yielded, or waits for a deferred wake, is not idle yet, so nothing follows from its
    /// state. While an append that the code is ahead of is in flight, messages stay in the inbox and the
    /// code waits: what it requests then could not be taken back.
    fn poll(&mut self, inbox: &Inbox, context: &mut Context<'_>) -> Poll<DriverEvent> {
        self.turns += 1;
        if !self.engine.ownership.is_valid() {
            return Poll::Ready(DriverEvent::MessageReceived(Message::Lost));
        }
        // Tasks that wait for the dispatcher block nothing else.
        if !self.tasks.outgoing.is_empty() {
            match self.is_paused() && !self.is_leaving {
                true => self.tasks.outgoing.release_slot(),
                false => drop(self.tasks.outgoing.poll(&self.engine.dispatches, context)),
            }
        }
        if let Some(append) = &mut self.append
            && let Poll::Ready(result) = append.appending.as_mut().poll(context)
        {
            return Poll::Ready(DriverEvent::AppendFinished(result));
        }
        if self.is_ahead() || self.execution.is_interrupted() {
            return self.rest();
        }
        if let Poll::Ready(message) = inbox.poll_pop(context) {
            return Poll::Ready(DriverEvent::MessageReceived(message));
        }
        if let Some(reread_timer) = &mut self.reread_timer
            && reread_timer.as_mut().poll(context).is_ready()
        {
            self.reread_timer = None;
            return Poll::Ready(DriverEvent::MessageReceived(Message::Wake));
        }
        if let Some(leave_timer) = &mut self.leave_timer
            && leave_timer.as_mut().poll(context).is_ready()
        {
            self.leave_timer = None;
            return Poll::Ready(DriverEvent::WorkReady);
        }
        if self.execution.poll(context).is_pending() {
            return Poll::Pending;
        }
        if self.append.is_none() && (self.has_records() || self.execution.must_block()) {
            return Poll::Ready(DriverEvent::WorkReady);
        }
        let has_effects = self.execution.machine().has_effects();
        if has_effects
            || self.children.poll_cancelling(context).is_ready()
            || self.poll_starting(context)
        {
            return Poll::Ready(DriverEvent::WorkReady);
        }
        self.rest()
    }

    /// Waits. Other runs may be loaded in the meantime.
    fn rest(&mut self) -> Poll<DriverEvent> {
        self.turns = 0;
        self.permit = None;
        Poll::Pending
    }

    /// Whether the run is about to move to another engine, everything that it began is recorded, and
    /// its tasks have reached the broker: the next owner does not dispatch them again.
    fn can_leave(&mut self) -> bool {
        let is_recorded = || self.append.is_none() && !self.has_records();
        if !self.is_leaving || !is_recorded() || self.execution.machine().runs_step() {
            return false;
        }
        // Every event on its way to the broker holds a clone.
        let is_dispatched = Arc::strong_count(&self.tasks.dispatching) == 1;
        self.leave_timer = (!is_dispatched).then(|| {
            let clock = Arc::clone(&self.engine.clock);
            Box::pin(async move { clock.sleep(LEAVE_CHECK).await }) as BoxFuture<'static, ()>
        });
        is_dispatched
    }

    /// Whether the run waits only for timers, signals and children, none of them due soon.
    fn is_idle(&mut self) -> bool {
        let is_ending = self.execution.outcome().is_some() && !self.is_paused();
        let is_busy = self.append.is_some() || self.has_records() || self.reread_timer.is_some();
        let is_cancelling = self.children.is_cancelling();
        if is_busy || is_ending || is_cancelling || self.children.is_starting() {
            return false;
        }
        let machine = self.execution.machine();
        // Only a message can end a pause, so timers don't keep the run in memory.
        if machine.is_paused() {
            return !machine.runs_step();
        }
        let mut active = machine.active().peekable();
        let rests = active.peek().is_some() && active.all(|(_, request)| waits(request));
        drop(active);
        let soon = || self.engine.clock.now() + self.engine.options.eviction_delay;
        let rests = rests && machine.next_timer().is_none_or(|due| due > soon());
        drop(machine);
        rests && !self.is_watched() && !self.has_unstarted_dropped()
    }

    /// The note of an idle run, unless it waits for tasks.
    fn parked(&self) -> Option<Parked> {
        let only_waits = self.execution.machine().active().all(|(_, request)| waits(request));
        only_waits.then(|| self.as_parked())
    }

    /// The note of the run at its current version.
    fn as_parked(&self) -> Parked {
        Parked { fence: self.fence, version: self.version }
    }

    /// Whether the run stays in memory because something outside the engine may wake its code. Such
    /// a wake-up would be lost together with the code.
    fn is_watched(&mut self) -> bool {
        if self.is_probed || !self.execution.is_watched() {
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

    /// Whether it is unknown what may wake the code of an idle run from outside. A pause leaves the
    /// question open.
    fn is_suspect(&self) -> bool {
        !self.is_probed && !self.is_paused() && self.execution.can_be_probed()
    }

    /// Lets the replay find out whether the code awaits something that would be lost.
    fn probe(&mut self) {
        self.is_probed = true;
        self.execution.begin_probe();
    }

    /// Records that a blocked run has resumed, unless it is paused.
    fn unblock(&mut self) {
        if self.block.must_unblock && !self.is_paused() {
            self.block.must_unblock = false;
            let cancelling = self.cancel_requested.is_some();
            self.write(Entry::Unblocked(Unblocked::new(cancelling)));
        }
    }

    /// Adds a record to the next append.
    fn write(&mut self, entry: Entry) {
        match self.encode(entry) {
            Ok(record) => self.outbox.push(record),
            Err(error) => self.write_failure = Some(Failure::from_error(error.code(), &error)),
        }
    }

    /// Whether a client paused the run, or the engine holds it.
    fn is_paused(&self) -> bool {
        self.execution.machine().is_paused()
    }

    /// Fires the timers that were due while the run was paused.
    async fn catch_up_on_timers(&mut self) -> Option<Exit> {
        while !self.is_paused() {
            let operation = self.missed.pop_first()?;
            if let Some(exit) = self.on_timer(operation).await {
                return Some(exit);
            }
        }
        None
    }
}

/// Whether a request is settled only by an event or a timer.
fn waits(request: &Request) -> bool {
    matches!(request, Request::Sleep { .. } | Request::Signal { .. } | Request::Child(_))
}

/// Acknowledges an event. If that fails, the broker delivers it again, which is handled like any
/// repetition.
pub(super) async fn acknowledge(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        warn!(error = %Chain(&error), "could not acknowledge an answer; it will be delivered again");
    }
}

/// Acknowledges events one after the other.
async fn acknowledge_all(deliveries: impl IntoIterator<Item = Delivery>) {
    for delivery in deliveries {
        acknowledge(delivery).await;
    }
}
