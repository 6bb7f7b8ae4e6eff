//! The envelope on its way through all components.

use std::time::Duration;

use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, BrokerExt, Group, Subscription},
    event::Event,
    store::{Append, EventStore, EventStoreExt, StreamId},
};
use aios_store::sqlite::SqliteStore;
use serde_json::Value;

const ENVELOPE: &str = include_str!("../fixtures/envelope.json");
const PATIENCE: Duration = Duration::from_secs(20);

async fn published(broker: &MemoryBroker, event: Event) -> Event {
    let patterns = [event.event_type.as_str().parse().unwrap()];
    let subscription = Subscription::group(Group::new("readers").unwrap(), patterns);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    broker.publish_event(event).await.unwrap();
    let next = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap();
    let delivery = next.unwrap().unwrap();
    let event = delivery.event.clone();
    delivery.ack().await.unwrap();
    event
}

#[tokio::test]
async fn should_read_back_the_json_that_was_parsed_published_and_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.db");
    let url = format!("sqlite://{}", path.display());
    let stream = StreamId::new("tasks/task-456").unwrap();

    let event = published(&MemoryBroker::new(), Event::from_json(ENVELOPE).unwrap()).await;
    let store = SqliteStore::connect(&url).await.unwrap();
    store.append_one(Append::new(stream.clone(), vec![event])).await.unwrap();
    drop(store);

    let store = SqliteStore::connect(&url).await.unwrap();
    let read = store.read_stream(&stream, 0, 10).await.unwrap();
    assert_eq!(read.len(), 1);
    let written: Value = serde_json::from_str(&read[0].event.to_json().unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(ENVELOPE).unwrap());
}
