//! Answers that no run of this engine takes: they are recorded for whoever owns the run.
//!
//! Nothing is acknowledged because this engine believes that it owns a run, or that somebody else
//! does. Either the store says so, or the answer is in the run's journal.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_core::{
    Chain,
    agent::{TaskFailed, TaskHeartbeat, TaskId},
    broker::{BrokerError, BrokerExt, Delivery, Publish},
    catalog::agent,
    event::{Event, EventId, EventType},
    failure::Failure,
    store::{Fence, Leases, StoreError},
};
use serde_json::Value;
use tracing::{debug, warn};

use super::{
    Engine, Message,
    driver::{ANONYMOUS, Refusal, acknowledge, assignment_id, origin, recorded, refuse, too_large},
    mailbox,
    questions::asks,
};
use crate::{
    runtime::AnonymousAnswers,
    task::JoinSet,
    workflow::journal::{Entry, JournalError, decode},
};

/// Attempts at a task that are looked through for the one that an answer is to.
const ATTEMPTS: u32 = 10_000;
/// Metadata of an event that was passed on to the mailbox of another engine.
const PASSED_ON: &str = "passed_on";

/// Answers that are being recorded: as many as the mailboxes deliver unsettled, at most.
#[derive(Debug, Default)]
pub(super) struct Recorders(Mutex<JoinSet<()>>);

impl Recorders {
    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn(&self, recording: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(recording);
    }

    /// Whether nothing is being recorded.
    pub(super) fn is_idle(&self) -> bool {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.is_empty()
    }

    /// Takes what is being recorded; dropping it gives the answers back.
    pub(super) fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.tasks())
    }

    /// Gives back what is not recorded.
    pub(super) async fn stop(&self) {
        self.take().shutdown().await;
    }
}

/// What is to become of a delivery.
#[derive(Debug)]
enum Verdict {
    /// It is in the run's journal.
    Recorded,
    /// Nobody needs it.
    Needless(&'static str),
    /// It is no answer.
    Refused(&'static str),
    /// Only the driver of this run can use it.
    ForDriver(Arc<str>),
    /// It asks for an attempt that is still to be done, as far as the run's journal says.
    AsksForOpen,
}

/// What becomes of what says nothing without the driver of its run: answers that do not name the
/// assignment of their task, signs of life and questions.
#[derive(Clone, Copy, Debug)]
enum Unnamed {
    /// They are sent to the engine that owns the run.
    PassedOn,
    /// Answers are recorded as they are, questions are answered from the journal, signs of life are
    /// dropped: the run can't go on now.
    Kept,
}

/// Why a delivery can't be settled now.
#[derive(Debug, thiserror::Error)]
enum Unsettled {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("could not pass an answer on to the engine that owns the run")]
    Broker(#[from] BrokerError),
    #[error("no engine owns the run")]
    Unowned,
}

impl Engine {
    /// Records an answer to a run that this engine does not own.
    pub(super) fn record_for_owner(self: &Arc<Self>, delivery: Delivery) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move { settle(&engine, delivery, Unnamed::PassedOn).await });
    }

    /// Records an answer to a run that can't go on now.
    pub(super) fn record_for_later(self: &Arc<Self>, delivery: Delivery) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move { settle(&engine, delivery, Unnamed::Kept).await });
    }

    /// Settles an answer that a run does not take. If the shard of the run was lost meanwhile, the run
    /// knows nothing of what its new owner did, and the answer is recorded instead.
    pub(super) fn settle_refused(
        self: &Arc<Self>,
        fence: Fence,
        delivery: Delivery,
        refusal: Refusal,
    ) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move {
            match (engine.still_has(fence).await, refusal) {
                // Whoever has the mailbox next gets it.
                (None, _) => drop(delivery),
                (Some(false), _) => settle(&engine, delivery, Unnamed::PassedOn).await,
                (Some(true), _) if asks(&delivery.event) => engine.answer(delivery, false).await,
                (Some(true), Refusal::NotAwaited) => ignore(delivery, "no attempt awaits it").await,
                (Some(true), Refusal::Foreign(reason)) => refuse(delivery, reason).await,
            }
        });
    }

    /// Whether the store says that this engine owns a shard. Asks until it answers; `None` if it never
    /// will.
    async fn still_has(&self, fence: Fence) -> Option<bool> {
        let mut backoff = self.options.backoff.0;
        loop {
            let error = {
                let _changing = self.ownership.changing.lock().await;
                let Some(lease) = self.ownership.lease(fence) else { return Some(false) };
                match self.store.renew(&[lease], self.options.lease_time).await {
                    Ok(renewed) => return Some(!renewed.is_empty()),
                    Err(error) => error,
                }
            };
            if !self.survives("ask who owns a shard", error) {
                return None;
            }
            self.pause(&mut backoff).await;
        }
    }

    async fn pause(&self, backoff: &mut Duration) {
        self.clock.sleep(*backoff).await;
        *backoff = (*backoff * 2).min(self.options.backoff.1);
    }
}

/// Records an answer, or finds out what else is to become of it, however long store and broker take.
/// An answer that the store will never record stops the engine; the next reader of the mailbox gets it.
async fn settle(engine: &Arc<Engine>, delivery: Delivery, mut unnamed: Unnamed) {
    let mut backoff = engine.options.backoff.0;
    loop {
        let error = match judge(engine, &delivery.event, unnamed).await {
            Ok(Verdict::Recorded) => return acknowledge(delivery).await,
            Ok(Verdict::AsksForOpen) => return engine.answer(delivery, true).await,
            Ok(Verdict::Needless(_) | Verdict::Refused(_)) if asks(&delivery.event) => {
                return engine.answer(delivery, false).await;
            }
            Ok(Verdict::Needless(reason)) => return ignore(delivery, reason).await,
            Ok(Verdict::Refused(reason)) => return refuse(delivery, reason).await,
            Ok(Verdict::ForDriver(run_id)) => match pass_on(engine, &run_id, &delivery.event).await
            {
                Ok(PassedOn::Sent) => return acknowledge(delivery).await,
                Ok(PassedOn::Here) => {
                    return engine.tell(&run_id, Message::Answer(Box::new(delivery)));
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let event_id = &delivery.event.id;
        match error {
            // It is there again after the next start, and so is the answer.
            Unsettled::Broker(BrokerError::Closed) => return,
            // The owner can't be told, but finds it in the journal.
            Unsettled::Broker(error) if !error.is_retryable() => {
                warn!(error = %Chain(&error), %event_id, "could not pass an answer on");
                unnamed = Unnamed::Kept;
                continue;
            }
            // Nothing says that the attempt has ended.
            Unsettled::Journal(error) if is_unreadable(&error) && asks(&delivery.event) => {
                return engine.answer(delivery, true).await;
            }
            Unsettled::Journal(error) if is_unreadable(&error) => {
                warn!(error = %Chain(&error), %event_id, "the journal of an answered run can't be read");
                return refuse(delivery, "the journal of its run can't be read").await;
            }
            Unsettled::Journal(error) if !error.is_retryable() => {
                return engine.fail("record an answer", &error.failure());
            }
            _ => {}
        }
        warn!(error = %Chain(&error), %event_id, "could not record an answer; trying again");
        engine.pause(&mut backoff).await;
    }
}

/// Whether the run itself can't go on, and is blocked for that.
fn is_unreadable(error: &JournalError) -> bool {
    matches!(error, JournalError::Event(_) | JournalError::Store(StoreError::Corrupt { .. }))
}

async fn ignore(delivery: Delivery, reason: &str) {
    debug!(event = %delivery.event.event_type, reason, "ignored an answer");
    acknowledge(delivery).await;
}

/// Finds out what is to become of an answer, and records it if it is one. What it names is compared
/// with the start of the run alone, because the journal may be long; the run itself takes no answer
/// from agents of another type.
async fn judge(
    engine: &Arc<Engine>,
    event: &Event,
    unnamed: Unnamed,
) -> Result<Verdict, Unsettled> {
    let Some((task_id, named)) = task_of(event) else {
        return Ok(Verdict::Refused("it is not the answer of an agent"));
    };
    let Some((run_id, operation)) = task_id.run() else {
        return Ok(Verdict::Refused("the event names no task of a run"));
    };
    let run_id: Arc<str> = run_id.into();
    let Some(started) = engine.journals.first(&run_id).await? else {
        return Ok(Verdict::Needless("there is no such run"));
    };
    let is_heartbeat = event.event_type.action() == agent::TASK_HEARTBEAT;
    let incarnation = &started.event.id;
    let Some(cause) = &event.metadata.causation_id else {
        let accepts = engine.options.anonymous_answers == AnonymousAnswers::AcceptAfterGrace;
        return match unnamed {
            _ if is_heartbeat || !accepts => Ok(Verdict::Refused(ANONYMOUS)),
            Unnamed::PassedOn => Ok(Verdict::ForDriver(run_id)),
            Unnamed::Kept => keep(engine, &run_id, event.clone(), 1).await,
        };
    };
    let is_it =
        |attempt: &u32| **cause == *assignment_id(incarnation, operation, *attempt).to_string();
    let attempts = named.map_or(1..=ATTEMPTS, |attempt| attempt..=attempt);
    let Some(attempt) = attempts.into_iter().find(is_it) else {
        return Ok(Verdict::Refused("it names another assignment as its cause"));
    };
    if is_heartbeat {
        return Ok(match unnamed {
            Unnamed::PassedOn => Verdict::ForDriver(run_id),
            Unnamed::Kept
                if asks(event) && !engine.has_ended(&run_id, operation, attempt).await? =>
            {
                Verdict::AsksForOpen
            }
            Unnamed::Kept => Verdict::Needless("the run can't go on"),
        });
    }
    let origin = origin(&started.event, &run_id);
    let answer = recorded(event, incarnation, operation, attempt, &origin);
    keep(engine, &run_id, answer, attempt).await
}

/// The task that an event is about, and the attempt if it says so.
fn task_of(event: &Event) -> Option<(TaskId, Option<u32>)> {
    if event.event_type.action() == agent::TASK_HEARTBEAT {
        let beat: TaskHeartbeat = event.data().ok()?;
        return Some((beat.task_id, Some(beat.attempt)));
    }
    match decode(event).ok()? {
        Entry::TaskCompleted(task) => Some((task.data.task_id, None)),
        Entry::TaskFailed(task) => Some((task.data.task_id, Some(task.data.attempt))),
        _ => None,
    }
}

/// Appends an answer to the journal of its run, which its owner reads then.
async fn keep(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    mut answer: Event,
    attempt: u32,
) -> Result<Verdict, Unsettled> {
    loop {
        match engine.journals.keep(run_id, answer.clone()).await {
            Ok(()) => break,
            Err(JournalError::Ended { .. } | JournalError::UnknownRun { .. }) => {
                return Ok(Verdict::Needless("the run has ended"));
            }
            // A stranger had the id first.
            Err(JournalError::Store(StoreError::DuplicateEvent { .. })) => {
                answer.id = EventId::generate();
            }
            Err(error) if error.is_retryable() || is_unreadable(&error) => return Err(error.into()),
            Err(error) => {
                let failure = match &error {
                    JournalError::Store(StoreError::TooLarge { bytes, limit, .. }) => {
                        too_large(*bytes, *limit)
                    }
                    error => error.failure(),
                };
                // What is no result has nothing that could be left out.
                answer = without_data(&answer, attempt, failure).ok_or(error)?;
            }
        }
    }
    debug!(%run_id, event = %answer.event_type, "recorded an answer to a run of another engine");
    if engine.ownership.fence_of(run_id).is_some() {
        engine.tell(run_id, Message::Nudge);
    }
    Ok(Verdict::Recorded)
}

/// The failure that an attempt ends with whose result is too large.
fn without_data(answer: &Event, attempt: u32, failure: Failure) -> Option<Event> {
    let Entry::TaskCompleted(task) = decode(answer).ok()? else { return None };
    let data = TaskFailed { task_id: task.data.task_id, attempt, failure, retryable: false };
    let event_type =
        EventType::new(agent::DOMAIN, task.agent_type.as_str(), agent::TASK_FAILED).ok()?;
    let failed = Event::new(event_type, Arc::clone(&answer.source), &data).ok()?;
    let failed = failed.with_id(answer.id.clone()).with_timestamp(answer.timestamp);
    Some(failed.with_metadata(answer.metadata.clone()))
}

/// Where an event went that only the driver of a run can use.
enum PassedOn {
    /// To the mailbox of the engine that owns the run, or nowhere.
    Sent,
    /// This engine owns the run.
    Here,
}

/// Sends an event to the engine that owns the run. A sign of life is sent on once: the next one finds
/// its way.
async fn pass_on(engine: &Arc<Engine>, run_id: &str, event: &Event) -> Result<PassedOn, Unsettled> {
    if engine.ownership.fence_of(run_id).is_some() {
        return Ok(PassedOn::Here);
    }
    let is_heartbeat = event.event_type.action() == agent::TASK_HEARTBEAT;
    if is_heartbeat && event.metadata.extra.contains_key(PASSED_ON) {
        return Ok(PassedOn::Sent);
    }
    let owner =
        engine.ownership.slot_with(run_id).filter(|slot| Some(*slot) != engine.ownership.slot());
    let Some(slot) = owner else {
        return if is_heartbeat { Ok(PassedOn::Sent) } else { Err(Unsettled::Unowned) };
    };
    let mailbox = mailbox::name(engine.store_id, slot).map_err(BrokerError::from)?;
    let mut event = event.clone();
    event.metadata.extra.insert(PASSED_ON.to_owned(), Value::Bool(true));
    let publish = Publish { event, to: Some(mailbox), require_route: !is_heartbeat };
    engine.broker.publish_one(publish).await?;
    Ok(PassedOn::Sent)
}
