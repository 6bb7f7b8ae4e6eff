//! Runs that are told all the time that another process appended.

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, Deliveries, Group, Subscription},
    event::Event,
};
use aios_store::sqlite::SqliteStore;
use futures_util::future::join_all;

use crate::support::workflows::{Doubler, result};

const TASKS: u64 = 100;
const ASSIGNED: &str = "agents.doubler.task_assigned";
const MARKER: &str = "tests.marker.reached";

async fn one_by_one(context: WorkflowContext, count: u64) -> Result<u64, WorkflowError> {
    let mut sum = 0;
    for number in 0..count {
        sum += context.task::<u64>("doubler", &number).await?;
    }
    Ok(sum)
}

async fn listen(broker: &MemoryBroker) -> Deliveries {
    let patterns = [ASSIGNED.parse().unwrap(), MARKER.parse().unwrap()];
    let group = Group::new("listeners").unwrap();
    broker.subscribe(Subscription::group(group, patterns)).await.unwrap()
}

/// How often each task was assigned, up to the marker.
async fn given(mut deliveries: Deliveries) -> u64 {
    let mut given = 0;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.unwrap();
        let is_marker = delivery.event.event_type.as_str() == MARKER;
        delivery.ack().await.unwrap();
        if is_marker {
            return given;
        }
        given += 1;
    }
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn should_assign_every_task_once_while_others_append() {
    // A store that reads only after earlier writes are complete.
    let store = Arc::new(SqliteStore::connect("sqlite::memory:").await.unwrap());
    let broker = Arc::new(MemoryBroker::new());
    let listening = tokio::spawn(given(listen(&broker).await));
    let runtime = Runtime::builder()
        .store(store)
        .broker(Arc::clone(&broker) as Arc<dyn Broker>)
        .agent("doubler", Doubler::default())
        .workflow("one_by_one", one_by_one)
        .start()
        .await
        .unwrap();
    let run = runtime.start("one_by_one", &TASKS).await.unwrap();
    let noise = async {
        join_all((0..4).map(|_| async { while run.signal("noise", &()).await.is_ok() {} })).await
    };
    let (sum, _) = tokio::join!(result::<u64>(&run), noise);
    assert_eq!(sum.unwrap(), TASKS * (TASKS - 1));
    broker.publish_event(Event::new(MARKER.parse().unwrap(), "test", &()).unwrap()).await.unwrap();
    assert_eq!(listening.await.unwrap(), TASKS);
}
