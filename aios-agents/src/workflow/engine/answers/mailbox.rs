//! The mailboxes in which an engine receives the answers of agents.
//!
//! A mailbox belongs to a slot and outlives the engine that has it, so answers wait there until the
//! next engine with that number, or a neighbour, reads them. Its name contains the id of the store,
//! because several stores may share a broker.
//!
//! A reader hands each event on to its run and waits for nothing else. The acknowledgement comes from
//! whatever settles the event: a driver, after the append, or `answers`. An event that is dropped
//! without it is delivered again.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use aios_core::{
    Chain,
    broker::{BrokerError, Deliveries, Delivery, InvalidAddress, Mailbox, Subscription},
    store::StoreId,
};
use serde::Deserialize;
use tracing::{debug, warn};

use crate::{
    agent::backoff::BackoffTimer,
    workflow::{
        engine::{Engine, Message},
        run_id::check_existing,
    },
};

/// The part of an answer that identifies its run.
#[derive(Deserialize)]
struct Answer<'a> {
    /// `<run>/<operation>`. Borrowed, unless it has escapes.
    #[serde(borrow)]
    task_id: Cow<'a, str>,
}

/// The durable mailbox for the answers to an engine. Several stores may share a broker.
pub(crate) fn name(store: StoreId, slot: u16) -> Result<Mailbox, InvalidAddress> {
    Mailbox::new(format!("stores.{store}.answers.{slot}"))
}

/// Declares the mailbox of a slot and subscribes to it. No task may be dispatched before that,
/// because its answer would find no mailbox.
pub(crate) async fn open(engine: &Engine, slot: u16) -> Result<Deliveries, BrokerError> {
    engine.broker.subscribe(Subscription::mailbox(name(engine.store_id, slot)?)).await
}

/// Delivers the answers in a mailbox to the runs that wait for them.
pub(crate) async fn run(engine: Arc<Engine>, slot: u16, mut opened: Option<Deliveries>) {
    let mut backoff = BackoffTimer::new(engine.options.backoff);
    while !engine.is_stopping() {
        let read = match opened.take() {
            Some(deliveries) => read(&engine, deliveries, &mut backoff).await,
            None => match open(&engine, slot).await {
                Ok(deliveries) => {
                    opened = Some(deliveries);
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = read
            && !engine.survives("read a mailbox", error)
        {
            return;
        }
        backoff.wait(&*engine.clock).await;
    }
}

/// Reads until the broker ends the subscription.
async fn read(
    engine: &Arc<Engine>,
    mut deliveries: Deliveries,
    backoff: &mut BackoffTimer,
) -> Result<(), BrokerError> {
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        backoff.reset();
        if let Err(error) = deliver(engine, delivery).await {
            // It is delivered again. The answers behind it do not wait for that.
            warn!(error = %Chain(&error), "failed to remove an event that names no task of a run");
        }
    }
    Ok(())
}

/// Hands an event to the run that it names. Decodes nothing else, because the driver classifies it.
async fn deliver(engine: &Arc<Engine>, delivery: Delivery) -> Result<(), BrokerError> {
    let run_id: Option<Arc<str>> = delivery
        .event
        .payload
        .decode_borrowed::<Answer<'_>>()
        .ok()
        .and_then(|answer| Some(answer.task_id.rsplit_once('/')?.0.into()));
    // No run has another id, and a store may refuse to look for it.
    let Some(run_id) = run_id.filter(|run_id| check_existing(run_id).is_ok()) else {
        return delivery.dead_letter("the event names no task of a run").await;
    };
    engine.answers_received.fetch_add(1, Ordering::AcqRel);
    debug!(%run_id, event = %delivery.event.event_type, "received an answer");
    engine.send(&run_id, Message::Answer(Box::new(delivery)));
    Ok(())
}
