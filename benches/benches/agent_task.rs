//! The cost of a task in one process: caller, in-memory broker, host, typed agent and back.
//!
//! The ceiling is a program without aios: a channel to a worker and a channel back, carrying the
//! same envelopes as JSON text, with the parameters decoded and the answer encoded at the ends.
//! the ends.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench measures real time and fails by panicking"
)]

use std::{sync::Arc, time::Instant};

use aios_agents::agent::{AgentHost, AgentSet, TaskClient};
use aios_benches::{
    median, ratio,
    task::{Contender, REVIEWER, Reviewer, Verdict, assign, serve},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::TaskCompleted,
    broker::Broker,
    clock::{Clock, SystemClock},
    event::Event,
};
use tokio::sync::{mpsc, oneshot};

/// Rounds of each kind; the medians are compared.
const ROUNDS: usize = 9;

/// Calls per round.
const CALLS: usize = 5_000;

/// Concurrent calls.
const CONCURRENT: usize = 1_000;

#[derive(Clone)]
struct Ceiling(mpsc::Sender<(String, oneshot::Sender<String>)>);

impl Contender for Ceiling {
    async fn call(&self) -> Verdict {
        let (_, event) = assign("callers.me");
        let (reply, answer) = oneshot::channel();
        self.0.send((event.to_json().unwrap(), reply)).await.unwrap();
        let answer = Event::from_json(&answer.await.unwrap()).unwrap();
        answer.data::<TaskCompleted>().unwrap().output.decode().unwrap()
    }
}

fn ceiling() -> Ceiling {
    let (sender, mut requests) = mpsc::channel::<(String, oneshot::Sender<String>)>(CONCURRENT);
    tokio::spawn(async move {
        while let Some((request, reply)) = requests.recv().await {
            let answer = serve(&Event::from_json(&request).unwrap());
            reply.send(answer.to_json().unwrap()).unwrap_or_default();
        }
    });
    Ceiling(sender)
}

/// Microseconds per call, one call at a time.
async fn sequential(contender: impl Contender) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        contender.call().await;
    }
    micros_a_call(start)
}

/// Microseconds per call, with many concurrent calls.
async fn concurrent(contender: impl Contender) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS / CONCURRENT {
        let calls = (0..CONCURRENT).map(|_| {
            let contender = contender.clone();
            tokio::spawn(async move { contender.call().await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
    micros_a_call(start)
}

fn micros_a_call(start: Instant) -> f64 {
    let calls = u32::try_from(CALLS).unwrap();
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

async fn compare(ours: TaskClient, ceiling: Ceiling) {
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let [a, b, c, d] = &mut samples;
        a.push(tokio::spawn(sequential(ours.clone())).await.unwrap());
        b.push(tokio::spawn(sequential(ceiling.clone())).await.unwrap());
        c.push(tokio::spawn(concurrent(ours.clone())).await.unwrap());
        d.push(tokio::spawn(concurrent(ceiling.clone())).await.unwrap());
    }
    let [a, b, c, d] = samples.map(|mut samples| median(&mut samples));
    ratio("agent_task/sequential", a, b, "us");
    ratio("agent_task/concurrent_1000", c, d, "us");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let agents = AgentSet::new().agent(REVIEWER, Reviewer);
    let host = AgentHost::builder(agents).broker(Arc::clone(&broker)).start().await.unwrap();
    compare(TaskClient::new(broker, clock, "bench").await.unwrap(), ceiling()).await;
    host.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
}
