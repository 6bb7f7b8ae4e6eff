//! A subscriber outside the system, which receives the events that the relay publishes.

use std::{sync::Arc, time::Duration};

use aios_core::broker::{Broker, BrokerError, Deliveries, Group, Subscription};
use tokio::time::sleep;

use crate::{history::History, plant::Plant};

/// How long to wait before it subscribes again.
const PAUSE: Duration = Duration::from_millis(250);
/// The planted fault drops one event of this number.
const LOST: u64 = 50;

/// Subscribes, and receives every lifecycle event of runs from now on.
pub(crate) async fn begin(broker: Arc<dyn Broker>, history: Arc<History>, plants: Vec<Plant>) {
    let mut deliveries = subscribe(&*broker).await.expect("subscribing");
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            if let Err(error) = receive(deliveries, &history, &plants, &mut count).await {
                history.note(format!("the observer subscribes again: {error}"));
            }
            deliveries = loop {
                sleep(PAUSE).await;
                if let Ok(deliveries) = subscribe(&*broker).await {
                    break deliveries;
                }
            };
        }
    });
}

async fn subscribe(broker: &dyn Broker) -> Result<Deliveries, BrokerError> {
    let group = Group::new("chaos.observer").expect("a group");
    let pattern = "workflows.#".parse().expect("a pattern");
    broker.subscribe(Subscription::group(group, [pattern])).await
}

async fn receive(
    mut deliveries: Deliveries,
    history: &History,
    plants: &[Plant],
    count: &mut u64,
) -> Result<(), BrokerError> {
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
