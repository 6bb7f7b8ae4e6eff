//! What a task costs in one process: caller, broker in memory, host, typed agent and back.
//!
//! The ceiling is what a program without aios would do: a channel to a worker and a channel back,
//! carrying the same envelopes as JSON text, with the parameters decoded and the answer encoded at
//! the ends.

use std::{error::Error, sync::Arc, time::Instant};

use aios_agents::agent::{AgentHost, Agents, Caller, HostOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{Agent, TaskAssigned, TaskCompleted, TaskContext, TaskError, TaskId, TaskResult},
    broker::Broker,
    clock::{Clock, SystemClock},
    event::{Event, EventId, Metadata, Payload},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Rounds of each kind; the medians are compared.
const ROUNDS: usize = 9;

/// Calls a round.
const CALLS: usize = 5_000;

/// Calls under way at the same time.
const CONCURRENT: usize = 1_000;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Review {
    title: String,
    #[schemars(range(min = 1, max = 5))]
    priority: u8,
    files: Vec<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Verdict {
    summary: String,
    accepted: bool,
}

fn review() -> Review {
    let files = vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()];
    Review { title: "a change".to_owned(), priority: 3, files }
}

fn judge(review: &Review) -> Verdict {
    Verdict { summary: format!("{} files", review.files.len()), accepted: review.priority > 1 }
}

struct Reviewer;

impl Agent for Reviewer {
    type Parameters = Review;
    type Output = Verdict;

    async fn process_task(&self, _: &TaskContext, review: Review) -> Result<Verdict, TaskError> {
        Ok(judge(&review))
    }
}

/// One way to have a task done.
trait Contender: Clone + Send + Sync + 'static {
    fn call(&self) -> impl Future<Output = Fallible<Verdict>> + Send;
}

#[derive(Clone)]
struct Ours(Caller);

impl Contender for Ours {
    async fn call(&self) -> Fallible<Verdict> {
        let answer = self.0.task("reviewer", &review()).await.map_err(|error| error.failure)?;
        Ok(answer.decode()?)
    }
}

#[derive(Clone)]
struct Ceiling(mpsc::Sender<(String, oneshot::Sender<String>)>);

impl Contender for Ceiling {
    async fn call(&self) -> Fallible<Verdict> {
        let data = TaskAssigned {
            task_id: TaskId::new(EventId::generate().to_string()),
            agent_id: None,
            parameters: Payload::encode(&review())?,
            attempt: 1,
            timeout_ms: Some(60_000),
        };
        let metadata = Metadata { reply_to: Some("callers.me".into()), ..Metadata::default() };
        let event = Event::new("agents.reviewer.task_assigned".parse()?, "bench", &data)?;
        let (reply, answer) = oneshot::channel();
        self.0.send((event.with_metadata(metadata).to_json()?, reply)).await?;
        let answer: TaskCompleted = Event::from_json(&answer.await?)?.data()?;
        Ok(answer.output.decode()?)
    }
}

fn serve(request: &str) -> Fallible<String> {
    let event = Event::from_json(request)?;
    let assigned: TaskAssigned = event.data()?;
    let output = Payload::encode(&judge(&assigned.parameters.decode()?))?;
    let data = TaskCompleted { task_id: assigned.task_id, result: TaskResult::Success, output };
    let event_type = "agents.reviewer.task_completed".parse()?;
    Ok(Event::new(event_type, "bench", &data)?.caused_by(&event).to_json()?)
}

fn ceiling() -> Ceiling {
    let (sender, mut requests) = mpsc::channel::<(String, oneshot::Sender<String>)>(CONCURRENT);
    tokio::spawn(async move {
        while let Some((request, reply)) = requests.recv().await {
            if let Ok(answer) = serve(&request) {
                reply.send(answer).unwrap_or_default();
            }
        }
    });
    Ceiling(sender)
}

/// Microseconds a call, one after the other.
async fn sequential(contender: impl Contender) -> Fallible<f64> {
    let start = now();
    for _ in 0..CALLS {
        contender.call().await?;
    }
    Ok(micros_a_call(start))
}

/// Microseconds a call, many at the same time.
async fn concurrent(contender: impl Contender) -> Fallible<f64> {
    let start = now();
    for _ in 0..CALLS / CONCURRENT {
        let calls = (0..CONCURRENT).map(|_| {
            let contender = contender.clone();
            tokio::spawn(async move { contender.call().await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await??;
        }
    }
    Ok(micros_a_call(start))
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn micros_a_call(start: Instant) -> f64 {
    let calls = u32::try_from(CALLS).unwrap_or(u32::MAX);
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn compare(ours: Ours, ceiling: Ceiling) -> Fallible<()> {
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let [a, b, c, d] = &mut samples;
        a.push(tokio::spawn(sequential(ours.clone())).await??);
        b.push(tokio::spawn(sequential(ceiling.clone())).await??);
        c.push(tokio::spawn(concurrent(ours.clone())).await??);
        d.push(tokio::spawn(concurrent(ceiling.clone())).await??);
    }
    let [a, b, c, d] = samples.map(median);
    aios_benches::ratio("agent_task/sequential", a, b, "us");
    aios_benches::ratio("agent_task/concurrent_1000", c, d, "us");
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Fallible<()> {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let agents = Agents::new().agent("reviewer", Reviewer);
    let (b, c) = (Arc::clone(&broker), Arc::clone(&clock));
    let host = AgentHost::start(b, c, None, "bench", agents, HostOptions::new()).await?;
    compare(Ours(Caller::new(broker, clock, "bench").await?), ceiling()).await?;
    host.shutdown(std::time::Duration::from_secs(5)).await?;
    Ok(())
}
