//! Events per second through a group of a memory broker, published in batches, consumed and
//! acknowledged, compared with a plain tokio channel that carries the same events.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a bench measures real time")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, Publish, Subscription},
    event::{Event, EventId},
};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, mpsc},
};

const EVENTS: u32 = 400_000;
const BATCH: u32 = 64;
const WINDOW: usize = 1024;
const ROUNDS: usize = 7;

fn main() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut ours, mut ceiling) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        ceiling =
            ceiling.max(rate(runtime.block_on(async { tokio::spawn(channel()).await.unwrap() })));
        ours = ours.max(rate(runtime.block_on(async { tokio::spawn(broker()).await.unwrap() })));
    }
    aios_benches::ratio("broker_memory", ours, ceiling, "events/s");
}

fn rate(elapsed: Duration) -> f64 {
    f64::from(EVENTS) / elapsed.as_secs_f64()
}

fn template() -> Event {
    Event::new("bench.thing.happened".parse().unwrap(), "bench", &"x".repeat(200)).unwrap()
}

fn event(template: &Event, number: u32) -> Event {
    template.clone().with_id(EventId::from(uuid::Uuid::from_u128(number.into())))
}

async fn channel() -> Duration {
    let (sender, mut receiver) = mpsc::channel::<Event>(WINDOW);
    let started = Instant::now();
    let publisher = tokio::spawn(async move {
        let template = template();
        let mut number = 0;
        while number < EVENTS {
            for permit in sender.reserve_many(BATCH as usize).await.unwrap() {
                permit.send(event(&template, number));
                number += 1;
            }
        }
    });
    let (mut batch, mut count) = (Vec::new(), 0);
    while count < EVENTS as usize {
        count += receiver.recv_many(&mut batch, BATCH as usize).await;
        batch.drain(..).for_each(drop);
    }
    publisher.await.unwrap();
    started.elapsed()
}

async fn broker() -> Duration {
    let broker = MemoryBroker::new();
    let subscription = Subscription::group("g".parse().unwrap(), ["bench.#".parse().unwrap()]);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    // As many events in flight as the channel holds.
    let window = Arc::new(Semaphore::new(WINDOW));
    let room = Arc::clone(&window);
    let started = Instant::now();
    let publisher = tokio::spawn(async move {
        let template = template();
        let mut number = 0;
        while number < EVENTS {
            room.acquire_many(BATCH).await.unwrap().forget();
            let numbers = number..number + BATCH;
            let batch = numbers.map(|number| Publish::new(event(&template, number))).collect();
            broker.publish(batch).await.into_iter().for_each(Result::unwrap);
            number += BATCH;
        }
    });
    for _ in 0..EVENTS / BATCH {
        for _ in 0..BATCH {
            deliveries.next().await.unwrap().unwrap().ack().await.unwrap();
        }
        window.add_permits(BATCH as usize);
    }
    publisher.await.unwrap();
    started.elapsed()
}
