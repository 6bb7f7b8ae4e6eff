//! Confirmed events per second into a quorum queue of RabbitMQ and out of it, compared with lapin
//! in its fastest known use: published from several tasks, acknowledged in ready chunks.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench measures real time and fails by panicking"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    broker::{Broker, Group, Publish, Subscription},
    event::{Event, EventId},
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::{StreamExt, future::join_all, stream};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, options::*,
    types::FieldTable,
};
use tokio::runtime::Builder;

const EVENTS: usize = 20_000;
const TASKS: usize = 10;
const EACH: usize = EVENTS / TASKS;
/// Together, 1,000 are in flight.
const WINDOW: usize = 100;
/// Rounds of each side; the medians are compared. The rounds are short and many, so that variations
/// of the machine affect both sides alike.
const ROUNDS: usize = 15;
const DAY: Duration = Duration::from_secs(86_400);

fn main() {
    let Some(server) = RabbitMqServer::start() else { return };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(compare(server.url())).await.unwrap() });
}

/// Both sides publish into the same queue and drain it, alternating which one is first.
async fn compare(url: String) {
    let broker = RabbitMqBroker::connect(&url).await.unwrap();
    drop(broker.subscribe(subscription()).await.unwrap());
    let mut published = [const { Vec::new() }; 2];
    let mut consumed = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        for side in [round % 2, (round + 1) % 2] {
            let rates = if side == 0 { ours(&url).await } else { raw(&url).await };
            published[side].push(rates.0);
            consumed[side].push(rates.1);
        }
    }
    for (name, rates) in
        [("broker_publish/rabbitmq", published), ("broker_consume/rabbitmq", consumed)]
    {
        let [ours, ceiling] = rates.map(|mut rates| aios_benches::median(&mut rates));
        aios_benches::ratio(name, ours, ceiling, "events/s");
    }
}

fn subscription() -> Subscription {
    let group = Group::new("bench").unwrap();
    Subscription::group(group, ["bench.#".parse().unwrap()]).with_prefetch(1000)
}

/// Rates of publishing and of consuming.
async fn ours(url: &str) -> (f64, f64) {
    let broker = Arc::new(RabbitMqBroker::connect(url).await.unwrap());
    let published = rate(publish(&broker)).await;
    let mut deliveries = broker.subscribe(subscription()).await.unwrap();
    let consumed = rate(async {
        for _ in 0..EVENTS {
            deliveries.next().await.unwrap().unwrap().ack().await.unwrap();
        }
        // Returns when the server has processed the acknowledgements.
        broker.close(DAY).await.unwrap();
    });
    (published, consumed.await)
}

/// The same as [`ours`], with lapin alone.
async fn raw(url: &str) -> (f64, f64) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let published = rate(publish_raw(&connection)).await;
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let queue = "aios.group.bench".into();
    let consumer = channel.basic_consume(queue, "raw".into(), options, FieldTable::default());
    let consumer = consumer.await.unwrap();
    let consumed = rate(async {
        consume_raw(consumer).await;
        // The server answers when it has processed the acknowledgements.
        channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
    (published, consumed.await)
}

async fn rate(work: impl Future<Output = ()>) -> f64 {
    let started = Instant::now();
    work.await;
    f64::from(u32::try_from(EVENTS).unwrap()) / started.elapsed().as_secs_f64()
}

fn event() -> Event {
    Event::new("bench.thing.happened".parse().unwrap(), "bench", &"x".repeat(320)).unwrap()
}

async fn publish(broker: &Arc<RabbitMqBroker>) {
    let tasks = (0..TASKS).map(|_| {
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            let template = event();
            let one = || Publish::new(template.clone().with_id(EventId::generate()));
            // Ten concurrent calls of ten events each keep the window full.
            let calls = (0..EACH / 10).map(|_| broker.publish((0..10).map(|_| one()).collect()));
            let answers: Vec<_> = stream::iter(calls).buffer_unordered(WINDOW / 10).collect().await;
            answers.into_iter().flatten().for_each(Result::unwrap);
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
}

async fn publish_raw(connection: &Connection) {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let tasks = (0..TASKS).map(|_| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let template = event();
            let sent = (0..EACH).map(|_| publish_one(&channel, &template));
            stream::iter(sent).buffer_unordered(WINDOW).for_each(async |()| {}).await;
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
}

async fn publish_one(channel: &Channel, template: &Event) {
    let event = template.clone().with_id(EventId::generate());
    let body = event.to_json().unwrap();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(event.id.to_string().into());
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (exchange, key) = ("aios.events".into(), event.event_type.as_str().into());
    let confirm = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
    assert!(confirm.await.unwrap().await.unwrap().is_ack());
}

async fn consume_raw(consumer: Consumer) {
    let mut chunks = consumer.ready_chunks(256);
    let mut count = 0;
    while count < EVENTS {
        let deliveries = chunks.next().await.unwrap();
        count += deliveries.len();
        let acks = deliveries.into_iter().map(|delivery| async {
            let delivery = delivery.unwrap();
            Event::from_json(std::str::from_utf8(&delivery.data).unwrap()).unwrap();
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        });
        join_all(acks).await;
    }
}
