use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use aios_core::{
    broker::{BrokerError, Deliveries, Delivery, Subscription},
    clock::ClockExt,
};
use serde::Deserialize;
use tracing::debug;

use super::{Bundle, Engine, Message, mailbox_of};

/// The part of an answer that says which run it is for.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    task_id: Cow<'a, str>,
}

/// Declares a bundle's mailbox and begins to read it. No task of its shards may be given before that:
/// its answer would find no mailbox.
pub(super) async fn open(engine: &Engine, bundle: Bundle) -> Result<Deliveries, BrokerError> {
    engine.broker.subscribe(Subscription::mailbox(mailbox_of(engine.store_id, bundle)?)).await
}

/// Hands the answers in a bundle's mailbox to the runs that wait for them.
pub(super) async fn run(engine: Arc<Engine>, bundle: Bundle, mut deliveries: Deliveries) {
    loop {
        if let Err(error) = read(&engine, &mut deliveries).await
            && !engine.survives("read a mailbox", error)
        {
            return;
        }
        deliveries = loop {
            if engine.is_stopping() {
                return;
            }
            engine.clock.sleep(engine.options.back_off.1).await;
            match open(&engine, bundle).await {
                Ok(deliveries) => break deliveries,
                Err(error) => {
                    if !engine.survives("open a mailbox", error) {
                        return;
                    }
                }
            }
        };
    }
}

async fn read(engine: &Arc<Engine>, deliveries: &mut Deliveries) -> Result<(), BrokerError> {
    while let Some(delivery) = deliveries.next().await {
        hand_over(engine, delivery?).await?;
    }
    Ok(())
}

async fn hand_over(engine: &Arc<Engine>, delivery: Delivery) -> Result<(), BrokerError> {
    let run_id: Option<Arc<str>> = delivery
        .event
        .payload
        .decode_borrowed::<Answer<'_>>()
        .ok()
        .and_then(|answer| Some(answer.task_id.rsplit_once('/')?.0.into()));
    let Some(run_id) = run_id else {
        return delivery.dead_letter("the event names no task of a run").await;
    };
    engine.heard.fetch_add(1, Ordering::AcqRel);
    debug!(%run_id, event = %delivery.event.event_type, "got an answer");
    engine.tell(&run_id, Message::Answer(Box::new(delivery)));
    Ok(())
}
