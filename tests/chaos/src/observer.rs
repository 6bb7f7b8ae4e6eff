//! A subscriber outside the system, which receives the events that the relay publishes.

use std::{sync::Arc, time::Duration};

use aios_core::broker::{Broker, BrokerError, Group, Subscription};
use tokio::time::sleep;

use crate::{history::History, plant::Plant};

/// How long to wait before it subscribes again.
const PAUSE: Duration = Duration::from_millis(250);
/// One of so many events is lost by a planted fault.
const LOST: u64 = 50;

/// Receives every lifecycle event of runs.
pub(crate) async fn observe(broker: Arc<dyn Broker>, history: Arc<History>, plants: Vec<Plant>) {
    let mut count = 0;
    loop {
        if let Err(error) = receive(&*broker, &history, &plants, &mut count).await {
            history.note(format!("the observer subscribes again: {error}"));
        }
        sleep(PAUSE).await;
    }
}

async fn receive(
    broker: &dyn Broker,
    history: &History,
    plants: &[Plant],
    count: &mut u64,
) -> Result<(), BrokerError> {
    let group = Group::new("chaos.observer").expect("a group");
    let pattern = "workflows.#".parse().expect("a pattern");
    let mut deliveries = broker.subscribe(Subscription::group(group, [pattern])).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        *count += 1;
        if !(plants.contains(&Plant::LostEvent) && count.is_multiple_of(LOST)) {
            history.arrived(&delivery.event.id.to_string());
        }
        // An event whose acknowledgement is lost comes again.
        delivery.ack().await.ok();
    }
    Ok(())
}
