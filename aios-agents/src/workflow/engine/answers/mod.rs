//! Answers that no run of this engine takes: they are recorded for the owner of the run.
//!
//! An answer is never acknowledged because this engine assumes that it, or another engine, owns the
//! run. Either the store has confirmed the ownership, or the answer is in the run's journal.
//!
//! ```text
//! answer ──► which run? ──► its start ──► does its cause fit? ──► append, without a fence ──► acknowledged
//!                                             │                       │
//!                                             │                       └── the owner is woken, or finds it
//!                                             └── only the driver can tell ──► mailbox of the owner
//! ```
//!
//! The journal is not read: a long one would take longer than a lease. The cause names run, operation
//! and attempt, and the incarnation in the start of the run is enough to check it. Whether the attempt
//! is still open is decided by the machine of the owner, which ignores what is late.
//!
//! A task of its own settles each answer (`Engine::recorders`), so that a store that does not answer
//! stops neither the mailbox nor a driver. Their number is limited by the unsettled deliveries that the
//! broker hands out.

pub(super) mod mailbox;
mod questions;

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    agent::{TaskFailed, TaskHeartbeat, TaskId},
    broker::{BrokerError, BrokerExt, Delivery, Publish},
    catalog::agent,
    event::{Event, EventId, EventType},
    store::{Fence, StoreError},
};
use tracing::{debug, warn};

use super::{
    Engine, Message,
    driver::{
        ANONYMOUS, Refusal, acknowledge, assignment_id, recorded, recorded_anonymous, refuse,
        run_metadata, too_large,
    },
    ownership::leases,
};
use crate::{
    failing::truncate,
    runtime::AnonymousAnswers,
    workflow::journal::{Entry, JournalError, decode},
};

pub(crate) use self::questions::asks;

/// Attempts at a task that are searched for the one that an answer belongs to.
///
/// A result names no attempt, so its cause is compared with that of one attempt after the other.
const ATTEMPTS: u32 = 10_000;
/// Metadata field of an event that was forwarded to the mailbox of another engine. Prevents a heartbeat
/// from circulating between two engines that each take the other for the owner.
const FORWARDED: &str = "passed_on";

/// How to settle a delivery.
#[derive(Debug)]
enum Verdict {
    /// It is in the run's journal.
    Recorded,
    /// It is not needed any more, for this reason.
    NotNeeded(&'static str),
    /// It is not a valid answer, for this reason.
    Refused(&'static str),
    /// Only the driver of this run can use it.
    ForDriver(Arc<str>),
    /// It asks about an attempt that is still open according to the run's journal.
    AsksForOpen,
}

/// How to treat events that only the driver of the run can interpret: answers that do not name the
/// assignment of their task, heartbeats and questions.
#[derive(Clone, Copy, Debug)]
enum Unattributed {
    /// They are forwarded to the engine that owns the run.
    Forward,
    /// The run can't continue now: answers are recorded, questions are answered from the journal, and
    /// heartbeats are dropped.
    Record,
}

/// Why a delivery can't be settled now.
#[derive(Debug, thiserror::Error)]
enum Unsettled {
    /// The journal could not be read or appended to.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The mailbox of the owner did not take it.
    #[error("could not forward an answer to the engine that owns the run")]
    Broker(#[from] BrokerError),
    /// It has to wait until an engine takes the shard.
    #[error("no engine owns the run")]
    Unowned,
}

impl Engine {
    /// Records an answer to a run that this engine does not own.
    pub(super) fn record_for_owner(self: &Arc<Self>, delivery: Delivery) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move { settle(&engine, delivery, Unattributed::Forward).await });
    }

    /// Records an answer to a run that can't continue now.
    pub(super) fn record_for_later(self: &Arc<Self>, delivery: Delivery) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move { settle(&engine, delivery, Unattributed::Record).await });
    }

    /// Settles an answer that a run does not accept. If the run's shard was lost in the meantime,
    /// the run does not know the progress of its new owner, so the answer is recorded instead.
    ///
    /// | the store says | the event is |
    /// |---|---|
    /// | nothing, and will not | left to the next reader of the mailbox |
    /// | the fence is not valid | settled as one for another engine's run |
    /// | the fence is valid | answered if it is a question, acknowledged if it is late, a dead letter if it is invalid |
    pub(super) fn settle_refused(
        self: &Arc<Self>,
        fence: Fence,
        delivery: Delivery,
        refusal: Refusal,
    ) {
        let engine = Arc::clone(self);
        self.recorders.spawn(async move {
            // The refusal was right only if this engine owned the run when the driver decided.
            match (engine.still_has(fence).await, refusal) {
                (None, _) => leave(&engine, delivery).await,
                (Some(false), _) => settle(&engine, delivery, Unattributed::Forward).await,
                (Some(true), _) if asks(&delivery.event) => engine.answer(delivery, false).await,
                (Some(true), Refusal::NotAwaited) => ignore(delivery, "no attempt awaits it").await,
                (Some(true), Refusal::Foreign(reason)) => refuse(delivery, reason).await,
            }
        });
    }

    /// Asks the store whether this engine owns a shard, until it answers; `None` if it never will, or if
    /// the engine reads no mailbox in the meantime.
    async fn still_has(&self, fence: Fence) -> Option<bool> {
        let mut backoff = self.options.backoff.initial_delay;
        loop {
            let error = match leases::confirm(self, fence).await {
                Ok(has) => return Some(has),
                Err(error) => error,
            };
            if !self.survives("verify the ownership of a shard", error) || self.is_cut_off() {
                return None;
            }
            self.pause(&mut backoff).await;
        }
    }

    /// Whether it has no slot, because it could not renew the lease. Its readers are stopped then.
    fn is_cut_off(&self) -> bool {
        self.ownership.slot().is_none()
    }

    /// Sleeps, and lengthens the next pause.
    async fn pause(&self, backoff: &mut Duration) {
        self.clock.sleep(*backoff).await;
        *backoff = self.options.backoff.next(*backoff);
    }
}

/// Records an answer or settles it otherwise, and retries for as long as the store and the broker
/// fail. A permanent error of the store stops the engine; the next reader of the mailbox gets the
/// answer.
///
/// It is a task of its own. The delivery is unsettled for its time, so the broker keeps the event. That
/// may take as long as an outage lasts, unless the engine loses its slot: another one can reach the
/// store, perhaps, and it reads the mailboxes, so the delivery is left to it.
async fn settle(engine: &Arc<Engine>, delivery: Delivery, mut unattributed: Unattributed) {
    let mut backoff = engine.options.backoff.initial_delay;
    loop {
        let error = match classify(engine, &delivery.event, unattributed).await {
            Ok(Verdict::Recorded) => return acknowledge(delivery).await,
            Ok(Verdict::AsksForOpen) => return engine.answer(delivery, true).await,
            Ok(Verdict::NotNeeded(_) | Verdict::Refused(_)) if asks(&delivery.event) => {
                return engine.answer(delivery, false).await;
            }
            Ok(Verdict::NotNeeded(reason)) => return ignore(delivery, reason).await,
            Ok(Verdict::Refused(reason)) => return refuse(delivery, reason).await,
            Ok(Verdict::ForDriver(run_id)) => match forward(engine, &run_id, &delivery.event).await
            {
                Ok(Forwarded::Sent) => return acknowledge(delivery).await,
                Ok(Forwarded::Here) => {
                    return engine.send(&run_id, Message::Answer(Box::new(delivery)));
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let event_id = &delivery.event.id;
        match error {
            // The broker and the answer are available again after the next start.
            Unsettled::Broker(BrokerError::Closed) => return,
            // The owner can't be notified, but finds the answer in the journal.
            Unsettled::Broker(error) if !error.is_retryable() => {
                warn!(error = %Chain(&error), %event_id, "could not forward an answer");
                unattributed = Unattributed::Record;
                continue;
            }
            // There is no evidence that the attempt has ended.
            Unsettled::Journal(error) if error.is_unreadable() && asks(&delivery.event) => {
                return engine.answer(delivery, true).await;
            }
            Unsettled::Journal(error) if error.is_unreadable() => {
                warn!(error = %Chain(&error), %event_id, "can't read the journal of an answered run");
                return refuse(delivery, "the journal of its run can't be read").await;
            }
            Unsettled::Journal(error) if !error.is_retryable() => {
                engine.fail("record an answer", &error.failure());
                return leave(engine, delivery).await;
            }
            error if engine.is_cut_off() => {
                warn!(error = %Chain(&error), %event_id, "leaving an answer to the other engines");
                return leave(engine, delivery).await;
            }
            _ => {}
        }
        warn!(error = %Chain(&error), %event_id, "could not record an answer; trying again");
        engine.pause(&mut backoff).await;
    }
}

/// Leaves a delivery to the next reader of its mailbox.
///
/// An engine that has lost its slot reads none, and releases it. One that has failed keeps it until it
/// ends its recorders: it has closed its mailboxes by then. Released before, it would be delivered here
/// again, and each delivery counts towards its limit.
async fn leave(engine: &Engine, delivery: Delivery) {
    if engine.failure().is_none() {
        return drop(delivery);
    }
    std::future::pending().await
}

/// Acknowledges an answer that changes nothing.
async fn ignore(delivery: Delivery, reason: &str) {
    debug!(event = %delivery.event.event_type, reason, "ignored an answer");
    acknowledge(delivery).await;
}

/// Decides how to settle an event, and records it if it is an answer. Its cause is compared with
/// the start of the run only, because the journal may be long. The run itself rejects answers from
/// agents of another type.
async fn classify(
    engine: &Arc<Engine>,
    event: &Event,
    unattributed: Unattributed,
) -> Result<Verdict, Unsettled> {
    let Some((task_id, named)) = task_of(event) else {
        return Ok(Verdict::Refused("it is not the answer of an agent"));
    };
    let Some((run_id, operation)) = task_id.run() else {
        return Ok(Verdict::Refused("the event names no task of a run"));
    };
    let run_id: Arc<str> = run_id.into();
    let Some(started) = engine.journals.first(&run_id).await? else {
        return Ok(Verdict::NotNeeded("there is no such run"));
    };
    // A heartbeat is never recorded: it says something about now.
    let is_heartbeat = event.event_type.action() == agent::TASK_HEARTBEAT;
    let incarnation = &started.event.id;
    let Some(cause) = &event.metadata.causation_id else {
        let accepts = engine.options.anonymous_answers == AnonymousAnswers::AcceptAfterGrace;
        return match unattributed {
            _ if is_heartbeat || !accepts => Ok(Verdict::Refused(ANONYMOUS)),
            Unattributed::Forward => Ok(Verdict::ForDriver(run_id)),
            Unattributed::Record => {
                let attempt = named.unwrap_or(1);
                let run_metadata = run_metadata(&started.event, &run_id);
                let answer =
                    recorded_anonymous(event, incarnation, operation, attempt, &run_metadata);
                record(engine, &run_id, answer, attempt).await
            }
        };
    };
    let is_cause =
        |attempt: &u32| **cause == *assignment_id(incarnation, operation, *attempt).to_string();
    // From the first on: most tasks have one attempt.
    let attempts = named.map_or(1..=ATTEMPTS, |attempt| attempt..=attempt);
    let Some(attempt) = attempts.into_iter().find(is_cause) else {
        return Ok(Verdict::Refused("it names another assignment as its cause"));
    };
    if is_heartbeat {
        return Ok(match unattributed {
            Unattributed::Forward => Verdict::ForDriver(run_id),
            Unattributed::Record
                if asks(event) && !engine.has_ended(&run_id, operation, attempt).await? =>
            {
                Verdict::AsksForOpen
            }
            Unattributed::Record => Verdict::NotNeeded("the run can't continue"),
        });
    }
    let run_metadata = run_metadata(&started.event, &run_id);
    let answer = recorded(event, incarnation, operation, attempt, &run_metadata);
    record(engine, &run_id, answer, attempt).await
}

/// The task of an event, and the attempt if the event names one.
///
/// `None` for an event that is neither an answer nor a heartbeat.
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

/// Appends an answer to the journal of its run, where the owner reads it.
///
/// The loop ends: each repetition changes the event, and a failure that replaces a result can't be
/// replaced again.
async fn record(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    mut answer: Event,
    attempt: u32,
) -> Result<Verdict, Unsettled> {
    loop {
        match engine.journals.append_event(run_id, answer.clone()).await {
            Ok(()) => break,
            Err(JournalError::Ended { .. } | JournalError::UnknownRun { .. }) => {
                return Ok(Verdict::NotNeeded("the run has ended"));
            }
            // Another event already has this id.
            Err(JournalError::Store(StoreError::DuplicateEvent { .. })) => {
                // The derived id is taken, but not by this answer: the store would have answered with
                // the first result then.
                answer.id = EventId::generate();
            }
            Err(error) if error.is_retryable() || error.is_unreadable() => return Err(error.into()),
            Err(error) => match with_less_data(&answer, attempt, &error) {
                Some(shorter) => answer = shorter,
                None if matches!(error, JournalError::Store(StoreError::TooLarge { .. })) => {
                    return Ok(Verdict::Refused("it is larger than the store accepts"));
                }
                None => return Err(error.into()),
            },
        }
    }
    debug!(%run_id, event = %answer.event_type, "recorded an answer to a run of another engine");
    // Since the check, the run may have come here. Any other owner finds the answer in the log.
    if engine.ownership.fence_of(run_id).is_some() {
        engine.send(run_id, Message::Wake);
    }
    Ok(Verdict::Recorded)
}

/// The replacement of an answer that the store refuses: a failure instead of a result, and a shorter failure
/// instead of one that is too large. `None` if there is nothing to leave out.
///
/// It keeps the id, so that a repetition is recognised.
fn with_less_data(answer: &Event, attempt: u32, error: &JournalError) -> Option<Event> {
    let (agent_type, data) = match (decode(answer).ok()?, error) {
        (
            Entry::TaskCompleted(task),
            JournalError::Store(StoreError::TooLarge { bytes, limit, .. }),
        ) => {
            let failure = too_large("the result", *bytes, *limit);
            (task.agent_type, TaskFailed::new(task.data.task_id, attempt, failure, false))
        }
        (Entry::TaskCompleted(task), error) => {
            (task.agent_type, TaskFailed::new(task.data.task_id, attempt, error.failure(), false))
        }
        (Entry::TaskFailed(task), JournalError::Store(StoreError::TooLarge { .. })) => {
            let failure = truncate(&task.data.failure);
            if failure == task.data.failure {
                return None;
            }
            let TaskFailed { task_id, attempt, retryable, .. } = task.data;
            (task.agent_type, TaskFailed::new(task_id, attempt, failure, retryable))
        }
        _ => return None,
    };
    let event_type = EventType::new(agent::DOMAIN, agent_type.as_str(), agent::TASK_FAILED).ok()?;
    let failed = Event::new(event_type, Arc::clone(&answer.source), &data).ok()?;
    let failed = failed.with_id(answer.id.clone()).with_timestamp(answer.timestamp);
    Some(failed.with_metadata(answer.metadata.clone()))
}

/// Where an event was forwarded that only the driver of a run can use.
enum Forwarded {
    /// To the mailbox of the engine that owns the run, or it was dropped.
    Sent,
    /// This engine owns the run.
    Here,
}

/// Sends an event to the engine that owns the run. A heartbeat is forwarded once only: the next one
/// is routed to the right engine.
///
/// An answer needs a mailbox that takes it, or it is retried; a heartbeat that is lost is followed by
/// the next.
async fn forward(
    engine: &Arc<Engine>,
    run_id: &str,
    event: &Event,
) -> Result<Forwarded, Unsettled> {
    if engine.ownership.fence_of(run_id).is_some() {
        return Ok(Forwarded::Here);
    }
    let is_heartbeat = event.event_type.action() == agent::TASK_HEARTBEAT;
    if is_heartbeat && event.metadata.extra.contains(FORWARDED) {
        return Ok(Forwarded::Sent);
    }
    let owner =
        engine.ownership.slot_with(run_id).filter(|slot| Some(*slot) != engine.ownership.slot());
    let Some(slot) = owner else {
        return if is_heartbeat { Ok(Forwarded::Sent) } else { Err(Unsettled::Unowned) };
    };
    let mailbox = mailbox::name(engine.store_id, slot).map_err(BrokerError::from)?;
    let mut event = event.clone();
    event.metadata_mut().extra.insert(FORWARDED, &true).map_err(JournalError::from)?;
    let publish = Publish { event, to: Some(mailbox), require_route: !is_heartbeat };
    engine.broker.publish_one(publish).await?;
    Ok(Forwarded::Sent)
}
