//! The cost of a task between services over RabbitMQ: caller, quorum queue, host, typed agent and
//! back.
//!
//! The ceiling is the same work in lapin: see `aios_benches::raw`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench measures real time and fails by panicking"
)]

use std::{sync::Arc, time::Instant};

use aios_agents::agent::{AgentHost, AgentSet, TaskClient};
use aios_benches::{
    median, ratio,
    raw::Raw,
    task::{Contender, REVIEWER, Reviewer},
};
use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    broker::Broker,
    clock::{Clock, SystemClock},
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::{StreamExt, future::join_all, stream};
use tokio::runtime::Builder;

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
