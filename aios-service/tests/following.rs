//! Streams of events while processes come and go: each client gets every event once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, store::RecordedEvent};
use aios_service::http::{ApiOptions, Shutdown};
use aios_tests::postgres::PostgresServer;
use axum::{
    Router,
    http::{HeaderValue, Method, StatusCode},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Random, Service, pause, request};

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(name)
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let _: String = context.task("greeter", &name).await?;
    context.task("greeter", &name).await
}

/// The path that a client follows, and which events of the log are part of it.
struct Followed {
    path: String,
    has: Box<dyn Fn(&RecordedEvent) -> bool>,
}

/// A process that only answers, with a connection of its own to the store.
struct Process {
    service: Service,
    shutdown: Shutdown,
}

impl Process {
    async fn start(url: &str, broker: &Arc<dyn Broker>) -> Self {
        let store = aios_store::connect(url).await.unwrap();
        let builder = Runtime::builder().store(store).broker(Arc::clone(broker)).client_only();
        let shutdown = Shutdown::new();
        let options = ApiOptions::new()
            .with_shutdown(shutdown.clone())
            .with_stream_lifetime(Duration::from_millis(150));
        Self { service: Service::of(Arc::new(builder.start().await.unwrap()), options), shutdown }
    }
}

/// The positions that a client gets that connects again and again, to any process, until nothing
/// comes after `last` is known.
async fn follow(
    routers: &Mutex<Vec<Router>>,
    path: &str,
    seed: u64,
    last: &Mutex<Option<u64>>,
) -> Vec<u64> {
    let (mut random, mut positions, mut known) = (Random(seed), Vec::new(), None::<u64>);
    let mut empty = 0;
    while empty < 4 {
        let is_over = last.lock().unwrap().is_some();
        let before = positions.len();
        let router = {
            let routers = routers.lock().unwrap();
            routers[usize::try_from(random.below(routers.len() as u64)).unwrap()].clone()
        };
        let mut get = request(Method::GET, path, None);
        if let Some(known) = known {
            get.headers_mut().insert("last-event-id", HeaderValue::from(known));
        }
        let response = router.oneshot(get).await.unwrap();
        if response.status() == StatusCode::NO_CONTENT {
            return positions;
        }
        if response.status() == StatusCode::NOT_FOUND {
            pause().await;
            continue;
        }
        assert_eq!(response.status(), 200, "{path} after {known:?}");
        let (mut body, mut text) = (response.into_body().into_data_stream(), String::new());
        let mut rest = if is_over { u64::MAX } else { random.below(12) };
        while let Some(bytes) = body.next().await {
            text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
            while let Some((message, later)) = text.split_once("\n\n") {
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name));
                known = field("id: ").map(|id| id.parse().unwrap()).or(known);
                positions.extend(field("data: ").map(|_| known.unwrap()));
                text = later.to_owned();
            }
            if random.below(4) == 0 {
                pause().await;
            }
            rest = rest.saturating_sub(1);
            if rest == 0 {
                break;
            }
        }
        empty = if is_over && positions.len() == before { empty + 1 } else { 0 };
    }
    positions
}

async fn trial(seed: u64) {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.url();
    let store = aios_store::connect(&url).await.unwrap();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let builder = Runtime::builder().store(Arc::clone(&store)).broker(Arc::clone(&broker));
    let builder = builder.agent("greeter", Greeter).workflow("welcome", welcome);
    let engine = Service::of(Arc::new(builder.start().await.unwrap()), ApiOptions::new());
    let agents = engine.get("/agents").await;
    let agent = agents.body["data"][0]["id"].as_str().unwrap().to_owned();

    let mut processes = [Process::start(&url, &broker).await, Process::start(&url, &broker).await];
    let routers = Mutex::new(processes.iter().map(|it| it.service.router.clone()).collect());
    let last = Mutex::new(None);
    let followed = followed(&agent);
    let readers = followed
        .iter()
        .enumerate()
        .map(|(number, it)| follow(&routers, &it.path, seed * 31 + number as u64 + 1, &last));
    let writing = async {
        for number in 0..8 {
            let run =
                engine.runtime.start("welcome", "Ada").id(format!("r{number}")).await.unwrap();
            let body = json!({ "run_id": format!("d{number}"), "parameters": "Ada" });
            let path = format!("/agents/{agent}/tasks");
            assert_eq!(engine.post(&path, &body).await.status, 202);
            run.result::<String>().await.unwrap();
            engine.result(&format!("d{number}")).await;
        }
    };
    let restarting = async {
        let mut random = Random(seed + 7);
        for _ in 0..6 {
            for _ in 0..random.below(6) {
                pause().await;
            }
            let at = usize::try_from(random.below(2)).unwrap();
            let next = Process::start(&url, &broker).await;
            routers.lock().unwrap()[at] = next.service.router.clone();
            let gone = std::mem::replace(&mut processes[at], next);
            if random.below(2) == 0 {
                gone.shutdown.begin();
            }
        }
    };
    let ending = async {
        tokio::join!(writing, restarting);
        *last.lock().unwrap() = Some(store.head().await.unwrap());
    };
    let all = async { tokio::join!(futures_util::future::join_all(readers), ending).0 };
    let all = tokio::time::timeout(Duration::from_secs(60), all);
    let got = Box::pin(all).await.unwrap();
    let end = last.lock().unwrap().unwrap();
    let log = store.read_log(0, 10_000).await.unwrap();
    for (followed, got) in followed.iter().zip(got) {
        let log = log.iter().filter(|it| it.position <= end && (followed.has)(it));
        let expected: Vec<_> = log.map(|it| it.position).collect();
        let got: Vec<_> = got.into_iter().filter(|it| *it <= end).collect();
        assert_eq!(got, expected, "{} with seed {seed}", followed.path);
    }
}

fn followed(agent: &str) -> Vec<Followed> {
    let of = |path: &str, has: fn(&RecordedEvent) -> bool| Followed {
        path: path.to_owned(),
        has: Box::new(has),
    };
    let id = agent.to_owned();
    let is_of_agent = move |it: &RecordedEvent| {
        let is_directed = it.event.metadata.run_id.as_deref().is_some_and(|it| it.starts_with('d'));
        let data: Value = it.event.data().unwrap_or_default();
        it.event.event_type.segments().0 == "agents"
            && it.event.event_type.segments().1 == "greeter"
            && (data["agent_id"] == *id || (data["agent_id"].is_null() && is_directed))
    };
    vec![
        of("/events/stream?after=0", |_| true),
        of("/events/stream?after=0&pattern=workflows.%23", |it| {
            it.event.event_type.segments().0 == "workflows"
        }),
        of("/events/stream?after=0&pattern=*.*.completed", |it| {
            it.event.event_type.action() == "completed"
        }),
        of("/runs/r3/events", |it| it.stream.run_id() == Some("r3")),
        of("/runs/d5/events", |it| it.stream.run_id() == Some("d5")),
        Followed { path: format!("/agents/{agent}/events?after=0"), has: Box::new(is_of_agent) },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_every_event_once_while_processes_come_and_go() {
    #[allow(clippy::disallowed_methods, reason = "a person asks for more seeds")]
    let seeds = std::env::var("AIOS_SEEDS").map_or(1, |count| count.parse().unwrap());
    for seed in 1..=seeds {
        Box::pin(trial(seed)).await;
    }
}
