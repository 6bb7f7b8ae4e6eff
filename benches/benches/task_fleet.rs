//! Tasks of workflows in a fleet: two engines and two services of agents over PostgreSQL and RabbitMQ, and
//! one of each.
//!
//! The ceiling assigns the same tasks with lapin alone, as many at a time and with the same durability at
//! the broker: see `aios_benches::raw`. It has no journal, so no crash of its caller is survived. All take
//! turns; the medians are compared. The servers share the processors with them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, and measures real time"
)]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aios_agents::{
    agent::{AgentHost, AgentSet},
    prelude::*,
};
use aios_benches::{
    median, per_second,
    postgres::open,
    ratio,
    raw::Raw,
    task::{Contender, REVIEWER, Reviewer, Verdict, review},
};
use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::store::{Leases as _, SHARDS};
use aios_tests::{postgres::PostgresServer, rabbitmq::RabbitMqServer};
use tokio::{runtime::Builder, task::JoinSet};

/// Concurrent runs, and tasks of each, one after the other.
const RUNS: usize = 500;
const TASKS: usize = 10;
const ROUNDS: usize = 5;
const STOP: Duration = Duration::from_secs(10);

fn main() {
    let (Some(postgres), Some(rabbitmq)) = (PostgresServer::start(), RabbitMqServer::start())
    else {
        return;
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (store, broker) = (postgres.url(), rabbitmq.url());
    runtime.block_on(async { tokio::spawn(compare(store, broker)).await.unwrap() });
}

async fn compare(store: String, broker: String) {
    let raw = Raw::connect(&broker).await;
    let (mut two, mut one, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ceiling.push(raw_tasks(&raw).await);
        two.push(fleet(&store, &broker, 2, &format!("two_{round}")).await);
        one.push(fleet(&store, &broker, 1, &format!("one_{round}")).await);
    }
    let ceiling = median(&mut ceiling);
    ratio("task_fleet/two_engines", median(&mut two), ceiling, "tasks/s");
    ratio("task_fleet/one_engine", median(&mut one), ceiling, "tasks/s");
}

/// Tasks per second with lapin alone.
async fn raw_tasks(raw: &Raw) -> f64 {
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..RUNS {
        let raw = raw.clone();
        callers.spawn(async move {
            for _ in 0..TASKS {
                raw.call().await;
            }
        });
    }
    callers.join_all().await;
    per_second(RUNS * TASKS, begin.elapsed())
}

async fn reviews(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    for _ in 0..TASKS {
        let _: Verdict = context.task(REVIEWER, &review()).await?;
    }
    Ok(())
}

/// Tasks per second with this many engines and services of agents, in a schema of their own.
async fn fleet(store: &str, broker: &str, size: usize, schema: &str) -> f64 {
    let (mut engines, mut hosts) = (Vec::new(), Vec::new());
    for _ in 0..size {
        let engine = Runtime::builder()
            .store(open(store, schema).await)
            .broker(Arc::new(RabbitMqBroker::connect(broker).await.unwrap()))
            .workflow("reviews", reviews);
        engines.push(engine.start().await.unwrap());
        let agents = AgentSet::new().agent(REVIEWER, Reviewer);
        let broker = Arc::new(RabbitMqBroker::connect(broker).await.unwrap());
        hosts.push(AgentHost::builder(agents).broker(broker).start().await.unwrap());
    }
    wait_for_shares(&engines).await;
    let engines: Vec<_> = engines.into_iter().map(Arc::new).collect();
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..RUNS {
        let engine = Arc::clone(&engines[number % size]);
        callers.spawn(async move {
            let run = engine.start("reviews", &()).await.unwrap();
            run.result::<()>().await.unwrap();
        });
    }
    callers.join_all().await;
    let elapsed = begin.elapsed();
    for engine in engines {
        Arc::into_inner(engine).unwrap().shutdown(STOP).await.unwrap();
    }
    for host in hosts {
        host.shutdown(STOP).await.unwrap();
    }
    per_second(RUNS * TASKS, elapsed)
}

/// Waits until the engines have shared the shards, which takes up to two renewals of their leases.
async fn wait_for_shares(engines: &[Runtime]) {
    let fair = usize::from(SHARDS) / engines.len() - 1;
    loop {
        let mut owned = HashMap::new();
        let leases = engines[0].store().unwrap().leases().await.unwrap();
        // Some leases are of other things than shards.
        for lease in leases.into_iter().filter(|lease| lease.shard.number() < SHARDS) {
            *owned.entry(lease.owner).or_insert(0) += 1;
        }
        if owned.len() == engines.len() && owned.values().all(|shards| *shards >= fair) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
