//! A program that assigns tasks over RabbitMQ, written with lapin alone.
//!
//! It is lapin in its fastest known use, for the same work with the same durability as aios. The same
//! envelopes pass through a topic exchange to a quorum queue, and the answer goes to topic and mailbox in
//! one publish. All are persistent, mandatory and confirmed, and published from several tasks. Every
//! delivery is acknowledged individually after its answer was confirmed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use aios_core::{
    agent::{TaskCompleted, TaskId},
    event::Event,
};
use futures_util::{StreamExt, future::join_all};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::sync::oneshot;

use crate::task::{ASSIGNED, Contender, Verdict, assign, serve};

const EXCHANGE: &str = "raw.events";
const TASKS: &str = "raw.tasks";
const ANSWERS: &str = "raw.answers";

/// The calls that wait for an answer.
type Pending = Arc<Mutex<HashMap<TaskId, oneshot::Sender<TaskCompleted>>>>;

/// Assigns tasks and answers them.
#[derive(Clone, Debug)]
pub struct Raw {
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
    pub async fn connect(url: &str) -> Self {
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
