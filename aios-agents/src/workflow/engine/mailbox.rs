use std::{borrow::Cow, sync::Arc};

use aios_core::{
    broker::{BrokerError, Delivery, Subscription},
    clock::ClockExt,
    store::Shard,
};
use serde::Deserialize;
use tracing::{debug, warn};

use super::{Engine, Message, mailbox_of};

/// The part of an answer that says which run it is for.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    task_id: Cow<'a, str>,
}

/// Hands the answers in a shard's mailbox to the runs that wait for them.
pub(super) async fn run(engine: Arc<Engine>, shard: Shard) {
    loop {
        if let Err(error) = read(&engine, shard).await {
            warn!(%error, %shard, "could not read a mailbox");
        }
        if engine.is_stopping() {
            return;
        }
        engine.clock.sleep(engine.options.back_off.1).await;
    }
}

async fn read(engine: &Arc<Engine>, shard: Shard) -> Result<(), BrokerError> {
    let mailbox = mailbox_of(shard)?;
    let mut deliveries = engine.broker.subscribe(Subscription::mailbox(mailbox)).await?;
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
    debug!(%run_id, event = %delivery.event.event_type, "got an answer");
    engine.tell(&run_id, Message::Answer(Box::new(delivery))).await;
    Ok(())
}
