//! The cost of a task between services over RabbitMQ: caller, quorum queue, host, typed agent and
//! back.
//!
//! The ceiling is lapin in its fastest known use, for the same work with the same durability. The
//! same envelopes pass through a topic exchange to a quorum queue, and the answer goes to topic and
//! mailbox in one publish. All are persistent, mandatory and confirmed, and published from several
//! tasks. Every delivery is acknowledged individually after its answer was confirmed.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench measures real time and fails by panicking"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use aios_agents::agent::{AgentHost, AgentSet, TaskClient};
use aios_benches::{
    median, ratio,
    task::{ASSIGNED, Contender, REVIEWER, Reviewer, Verdict, assign, serve},
};
use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    agent::{TaskCompleted, TaskId},
    broker::Broker,
    clock::{Clock, SystemClock},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::{StreamExt, future::join_all, stream};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::{runtime::Builder, sync::oneshot};

/// Rounds of each kind; the medians are compared. The rounds are short and many, so that variations
/// of the machine affect both sides alike.
const ROUNDS: usize = 15;

/// Tasks per round with many outstanding.
const MANY: usize = 4_000;
const CALLERS: usize = 10;
/// Together, 200 are outstanding.
const WINDOW: usize = 20;

/// Tasks per round, one at a time.
const FEW: usize = 400;

const EXCHANGE: &str = "raw.events";
const TASKS: &str = "raw.tasks";
const ANSWERS: &str = "raw.answers";

fn main() {
    let Some(server) = RabbitMqServer::start() else { return };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(compare(server.url())).await.unwrap() });
}

async fn compare(url: String) {
    let (host, ours) = ours(&url).await;
    let raw = Raw::connect(&url).await;
    let mut rates = [const { Vec::new() }; 2];
    let mut micros = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        for side in [round % 2, (round + 1) % 2] {
            let (rate, latency) = match side {
                0 => (many(&ours).await, one_by_one(&ours).await),
                _ => (many(&raw).await, one_by_one(&raw).await),
            };
            rates[side].push(rate);
            micros[side].push(latency);
        }
    }
    let [ours, raw] = rates.map(|mut rates| median(&mut rates));
    ratio("task_throughput/rabbitmq", ours, raw, "tasks/s");
    let [ours, raw] = micros.map(|mut micros| median(&mut micros));
    ratio("task_latency/rabbitmq", ours, raw, "us");
    drop(host);
}

/// Tasks per second, with many outstanding.
async fn many(contender: &impl Contender) -> f64 {
    let started = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let contender = contender.clone();
        tokio::spawn(async move {
            let calls = (0..MANY / CALLERS).map(|_| contender.call());
            stream::iter(calls).buffer_unordered(WINDOW).for_each(async |_| {}).await;
        })
    });
    join_all(callers).await.into_iter().for_each(Result::unwrap);
    f64::from(u32::try_from(MANY).unwrap()) / started.elapsed().as_secs_f64()
}

/// Microseconds per task, one at a time.
async fn one_by_one(contender: &impl Contender) -> f64 {
    let started = Instant::now();
    for _ in 0..FEW {
        contender.call().await;
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(u32::try_from(FEW).unwrap())
}

async fn ours(url: &str) -> (AgentHost, TaskClient) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let connect = async || RabbitMqBroker::connect(url).await.map(Arc::new).unwrap();
    let (near, far): (Arc<dyn Broker>, Arc<dyn Broker>) = (connect().await, connect().await);
    let agents = AgentSet::new().agent(REVIEWER, Reviewer);
    let host = AgentHost::builder(agents).broker(far).start().await;
    (host.unwrap(), TaskClient::new(near, clock, "bench").await.unwrap())
}

/// The calls that wait for an answer.
type Pending = Arc<Mutex<HashMap<TaskId, oneshot::Sender<TaskCompleted>>>>;

#[derive(Clone)]
struct Raw {
    channel: Channel,
    pending: Pending,
    _connections: Arc<Vec<Connection>>,
}

impl Contender for Raw {
    async fn call(&self) -> Verdict {
        let (task_id, event) = assign(ANSWERS);
        let (sender, answer) = oneshot::channel();
        self.pending.lock().unwrap().insert(task_id, sender);
        publish(&self.channel, &event, FieldTable::default()).await;
        answer.await.unwrap().output.decode().unwrap()
    }
}

impl Raw {
    /// One side that assigns tasks and one that runs them. One connection each is as fast as one
    /// for each direction, or one for all.
    async fn connect(url: &str) -> Self {
        let mut connections = Vec::new();
        let mut channels = Vec::new();
        for _ in 0..2 {
            let connection = Connection::connect(url, ConnectionProperties::default());
            let connection = connection.await.unwrap();
            channels.push(connection.create_channel().await.unwrap());
            channels.push(connection.create_channel().await.unwrap());
            connections.push(connection);
        }
        let [near, answers, far, tasks] = <[Channel; 4]>::try_from(channels).unwrap();
        declare(&near).await;
        for channel in [&near, &far] {
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        }
        let pending = Pending::default();
        tokio::spawn(work(consume(&tasks, TASKS).await, far));
        tokio::spawn(take_answers(consume(&answers, ANSWERS).await, Arc::clone(&pending)));
        Self { channel: near, pending, _connections: Arc::new(connections) }
    }
}

async fn declare(channel: &Channel) {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let (exchange, none) = (EXCHANGE.into(), FieldTable::default());
    channel.exchange_declare(exchange, ExchangeKind::Topic, options, none).await.unwrap();
    for (queue, kind, key) in [(TASKS, "quorum", ASSIGNED), (ANSWERS, "classic", ANSWERS)] {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text(kind));
        channel.queue_declare(queue.into(), options, arguments).await.unwrap();
        let (exchange, options) = (EXCHANGE.into(), QueueBindOptions::default());
        let bound =
            channel.queue_bind(queue.into(), exchange, key.into(), options, Default::default());
        bound.await.unwrap();
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    channel.basic_qos(256, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
}

/// Publishes and waits for the confirmation.
async fn publish(channel: &Channel, event: &Event, headers: FieldTable) {
    let body = event.to_json().unwrap();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(event.id.to_string().into())
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (exchange, key) = (EXCHANGE.into(), event.event_type.as_str().into());
    let confirm = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
    let confirmation = confirm.await.unwrap().await.unwrap();
    assert!(confirmation.is_ack());
}

/// Runs all tasks concurrently, and acknowledges each when its answer is confirmed.
async fn work(tasks: Consumer, channel: Channel) {
    let mut chunks = tasks.ready_chunks(256);
    while let Some(chunk) = chunks.next().await {
        for task in chunk {
            let channel = channel.clone();
            tokio::spawn(async move { do_task(task.unwrap(), &channel).await });
        }
    }
}

async fn do_task(delivery: Delivery, channel: &Channel) {
    let event = Event::from_json(std::str::from_utf8(&delivery.data).unwrap()).unwrap();
    let answer = serve(&event);
    let mailbox = text(event.metadata.reply_to.as_deref().unwrap());
    let mut headers = FieldTable::default();
    headers.insert("BCC".into(), AMQPValue::FieldArray(vec![mailbox].into()));
    publish(channel, &answer, headers).await;
    delivery.ack(BasicAckOptions::default()).await.unwrap();
}

async fn take_answers(answers: Consumer, pending: Pending) {
    let mut chunks = answers.ready_chunks(256);
    while let Some(chunk) = chunks.next().await {
        let taken = chunk.into_iter().map(|answer| take_answer(answer.unwrap(), &pending));
        join_all(taken).await;
    }
}

async fn take_answer(delivery: Delivery, pending: &Pending) {
    let event = Event::from_json(std::str::from_utf8(&delivery.data).unwrap()).unwrap();
    let completed: TaskCompleted = event.data().unwrap();
    let waiting = pending.lock().unwrap().remove(&completed.task_id);
    assert!(waiting.unwrap().send(completed).is_ok());
    delivery.ack(BasicAckOptions::default()).await.unwrap();
}
