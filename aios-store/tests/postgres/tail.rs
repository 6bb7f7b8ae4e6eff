//! The cache of the last events of the log.

use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStore, EventStoreExt},
};
use aios_store::postgres::PostgresStore;

use super::{event, options};

fn append(stream: &str, events: Vec<Event>) -> Append {
    Append::new(stream.parse().unwrap(), events)
}

fn foreign(id: &str, data: &str) -> Event {
    let event = Event::new("orders.order.placed".parse().unwrap(), "test", data).unwrap();
    event.with_id(id.parse::<EventId>().unwrap()).caused_by(&super::event())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_the_same_events_from_memory_and_from_the_database() {
    let Some(options) = options() else { return };
    let writer = PostgresStore::connect_with(options.clone()).await.unwrap();
    let other = PostgresStore::connect_with(options).await.unwrap();
    for round in 0..3 {
        let id = format!("order-{round}");
        let batch = vec![
            append("a", vec![event(), foreign(&id, "first")]),
            append("b", vec![event(), event(), event()]),
        ];
        assert!(writer.append(batch).await.iter().all(Result::is_ok));
        other.append_one(append("a", vec![event()])).await.unwrap();
        assert_same(&writer, &other).await;
        writer.append_one(append("a", vec![event(), event()])).await.unwrap();
        assert_same(&writer, &other).await;
    }
    // A repeated id returns the event that was stored first, even if its data differs.
    writer.append_one(append("c", vec![foreign("again", "first")])).await.unwrap();
    writer.append_one(append("c", vec![foreign("again", "second")])).await.unwrap();
    other.append_one(append("c", vec![foreign("twice", "first")])).await.unwrap();
    writer.append_one(append("c", vec![foreign("twice", "second")])).await.unwrap();
    assert_same(&writer, &other).await;
}

async fn assert_same(writer: &PostgresStore, other: &PostgresStore) {
    let head = writer.head().await.unwrap();
    for after in 0..=head {
        for limit in 0..=head.try_into().unwrap() {
            let cached = writer.read_log(after, limit).await.unwrap();
            assert_eq!(cached, other.read_log(after, limit).await.unwrap());
        }
    }
}
