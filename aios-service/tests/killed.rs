//! Real processes that are killed at seeded moments while they handle requests with an `Idempotency-Key`:
//! repeated with the next process, every request is answered, and has been done once.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_core::{BoxFuture, clock::Clock, clock::SystemClock, event::Timestamp};
use aios_service::{
    Service,
    config::Settings,
    http::{ApiOptions, Shutdown},
};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Random, pause};

/// The variables of a process: its store, its address, and how far its clock is ahead, in seconds.
const STORE: &str = "AIOS_TEST_KILLED_STORE";
const LISTEN: &str = "AIOS_TEST_KILLED_LISTEN";
const AHEAD: &str = "AIOS_TEST_KILLED_AHEAD";
const READY: &str = "the service has started";
/// After this time, a request that a killed process has begun is handled again.
const AFTER_CLAIM: u64 = 60;
/// How often a request is repeated at most.
const TRIES: usize = 2_000;

/// A clock that is ahead, so that no test waits until the claim of a killed process has ended.
#[derive(Debug)]
struct Ahead(Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until(deadline - self.0)
    }
}

async fn approval(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.signal("approval").await
}

async fn broken(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    let failure = || TaskError::terminal(Failure::new("CARD_DECLINED", "no money"));
    let fails = move || async move { Err::<Value, _>(failure()) };
    context.step("pay", fails).await
}

fn workflows(builder: RuntimeBuilder) -> RuntimeBuilder {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
    let builder = builder.engine_options(options);
    builder.workflow("approval", approval).workflow("broken", broken)
}

/// A process that the tests start and kill.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started as a process by another test"]
async fn process_that_is_killed() {
    let variable =
        |name| std::env::var_os(name).map_or(String::new(), |it| it.into_string().unwrap());
    let (store, listen) = (variable(STORE), variable(LISTEN));
    if store.is_empty() {
        return;
    }
    let settings = Settings::builder().environment::<&str, &str>([]);
    let settings = settings.value("database.url", store).value("broker.url", "memory://");
    let settings = settings.value("http.listen", listen).load().unwrap();
    let ahead = Ahead(Duration::from_secs(variable(AHEAD).parse().unwrap()));
    let running = Service::from_settings(&settings)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .api_options(ApiOptions::new().with_clock(Arc::new(ahead)))
        .shutdown(Shutdown::new())
        .without_telemetry()
        .runtime(workflows)
        .start()
        .await
        .unwrap();
    println!("\n{READY}");
    running.stopped().await.unwrap();
}

/// The service, one process after another on the same store and address.
struct Site {
    store: String,
    address: SocketAddr,
    process: Child,
    started: u64,
}

impl Site {
    async fn new(store: String) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let process = start(&store, address, 0);
        Self { store, address, process, started: 0 }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.started += 1;
        self.process = start(&self.store, self.address, self.started * AFTER_CLAIM);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a process, and waits until it serves.
fn start(store: &str, address: SocketAddr, ahead: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "killed::process_that_is_killed"]);
    command.env(STORE, store).env(LISTEN, address.to_string()).env(AHEAD, ahead.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == READY), "the process has not started");
    child
}

/// A request, and its key.
#[derive(Clone, Debug)]
struct Post {
    path: String,
    body: Value,
    key: Option<String>,
}

/// Status and body of an answer, and whether it was given before.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    body: Value,
    is_replayed: bool,
}

impl Post {
    fn new(path: &str, body: Value) -> Self {
        Self { path: path.to_owned(), body, key: None }
    }

    /// Sends the request once. An error if the process was killed.
    async fn send(&self, address: SocketAddr) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(address).await?;
        let body = self.body.to_string();
        let key = self.key.as_ref().map(|key| format!("idempotency-key: {key}\r\n"));
        let head = format!(
            "POST /api/v1{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}content-length: {}\r\n\
             content-type: application/json\r\n\r\n",
            self.path,
            key.unwrap_or_default(),
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let broken = || std::io::Error::other("the answer ends early");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.ok_or_else(broken)?,
            body: serde_json::from_str(body).map_err(|_| broken())?,
            is_replayed: head.contains("idempotent-replayed: true"),
        })
    }

    /// Repeats the request until it is answered.
    async fn insist(&self, address: SocketAddr) -> Answer {
        for _ in 0..TRIES {
            match self.send(address).await {
                Ok(answer) if answer.status >= 500 => {}
                Ok(answer) if answer.body["error"]["code"] == "REQUEST_IN_PROGRESS" => {}
                Ok(answer) => return answer,
                Err(_) => {}
            }
            pause().await;
        }
        panic!("{self:?} is not answered");
    }
}

/// Starts and creates the runs, agents and tasks that the requests of a round need.
async fn prepare(address: SocketAddr, round: usize) {
    let execute = "/workflows/approval/actions/execute";
    for kind in ["signal", "cancel", "pause", "resume", "with"] {
        let run = json!({ "run_id": format!("{kind}-{round}") });
        let answer = Post::new(execute, run).insist(address).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let agent = json!({ "agent_type": "absent", "name": format!("a-{round}"), "id": format!("agent-{round}") });
    assert_eq!(Post::new("/agents", agent).insist(address).await.status, 201);
    let pause = Post::new(&format!("/runs/resume-{round}/actions/pause"), json!({}));
    assert_eq!(pause.insist(address).await.status, 202);
    let task = json!({ "run_id": format!("task-{round}"), "agent_type": "absent" });
    assert_eq!(Post::new("/tasks", task).insist(address).await.status, 202);
}

/// A request of every kind, and the events that they leave together.
fn requests(round: usize) -> Vec<Post> {
    let execute = "/workflows/approval/actions/execute";
    let with_start = "/workflows/approval/actions/signal-with-start";
    let run = |kind: &str, action: &str| format!("/runs/{kind}-{round}/actions/{action}");
    let name = |kind: &str| format!("{kind}-{round}");
    let signal = json!({ "name": "other", "payload": round });
    let posts = [
        (execute.to_owned(), json!({ "input": 1 })),
        (execute.to_owned(), json!({ "run_id": name("named") })),
        (execute.to_owned(), json!({ "run_id": name("late"), "delay_seconds": 600 })),
        (run("signal", "signal"), signal.clone()),
        (with_start.to_owned(), json!({ "run_id": name("with"), "signal": signal })),
        (with_start.to_owned(), json!({ "run_id": name("new"), "signal": signal })),
        (run("cancel", "cancel"), json!({})),
        (run("pause", "pause"), json!({})),
        (run("resume", "resume"), json!({})),
        ("/runs/broken/actions/fork".to_owned(), json!({ "operation": 1 })),
        ("/runs/broken/actions/retry".to_owned(), json!({})),
        ("/tasks".to_owned(), json!({ "agent_type": "absent", "parameters": "Ada" })),
        (format!("/agents/agent-{round}/tasks"), json!({ "parameters": 1 })),
        ("/agents".to_owned(), json!({ "agent_type": "absent", "name": name("b") })),
        (format!("/agents/agent-{round}/actions/restart"), json!({})),
        ("/events".to_owned(), json!({ "type": "orders.order.paid" })),
    ];
    let keyed = posts.into_iter().enumerate();
    keyed
        .map(|(number, (path, body))| Post {
            path,
            body,
            key: Some(format!("key-{round}-{number}")),
        })
        .collect()
}

/// The events that a round leaves, with what it prepares.
const EFFECTS: [(&str, usize); 9] = [
    ("workflows.approval.started", 9),
    ("workflows.approval.signaled", 3),
    ("workflows.approval.cancel_requested", 1),
    ("workflows.approval.paused", 2),
    ("workflows.approval.resumed", 1),
    ("workflows.broken.started", 2),
    ("workflows.single_task.started", 3),
    ("agents.absent.created", 2),
    ("agents.absent.restart_requested", 1),
];

/// Kills the process in each round while it handles a request of every kind. Returns the figures.
async fn check(store: String, seed: u64, rounds: usize) -> String {
    let mut random = Random(seed);
    let mut site = Site::new(store.clone()).await;
    let address = site.address;
    let broken = Post::new("/workflows/broken/actions/execute", json!({ "run_id": "broken" }));
    assert_eq!(broken.insist(address).await.status, 202);
    // It is retried once it has failed.
    let retry = Post::new("/runs/broken/actions/retry", json!({}));
    while retry.insist(address).await.status != 202 {
        pause().await;
    }
    let (mut posts, mut answers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        prepare(address, round).await;
        let of_round = requests(round);
        let asking = join_all(of_round.iter().map(|post| post.insist(address)));
        let killing = async {
            SystemClock.sleep(Duration::from_micros(random.below(25_000))).await;
            site.kill();
            tokio::task::block_in_place(|| site.restart());
        };
        let (answered, ()) = tokio::join!(asking, killing);
        answers.extend(answered);
        posts.extend(of_round);
    }
    for (post, first) in posts.iter().zip(&answers) {
        let again = post.insist(address).await;
        assert!(again.is_replayed && (200..300).contains(&first.status), "{post:?}: {first:?}");
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{post:?}");
    }
    site.kill();
    let store = aios_store::connect(&store).await.unwrap();
    let (mut counts, mut last) = (BTreeMap::new(), 0);
    while let page = store.read_log(last, 1000).await.unwrap()
        && !page.is_empty()
    {
        for recorded in page {
            last = recorded.position;
            *counts.entry(recorded.event.event_type.to_string()).or_insert(0) += 1;
        }
    }
    for (event_type, each) in EFFECTS {
        let once = if event_type == "workflows.broken.started" { 2 } else { 0 };
        let count = counts.get(event_type).copied().unwrap_or_default();
        assert_eq!(count, each * rounds + once, "{event_type}");
    }
    format!("{rounds} kills, {} requests, {last} events", posts.len())
}

fn file(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("aios.db").display())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_every_request_once_when_its_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    println!("{}", check(file(folder.path()), 0x5eed_0021, 3).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_every_request_once_when_its_process_on_postgresql_is_killed() {
    if let Some(postgres) = PostgresServer::start() {
        println!("{}", check(postgres.url(), 0x5eed_0022, 2).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full size takes minutes"]
async fn should_do_every_request_once_in_spite_of_many_kills() {
    let folder = tempfile::tempdir().unwrap();
    println!("{}", check(file(folder.path()), 0x5eed_0023, 60).await);
    if let Some(postgres) = PostgresServer::start() {
        println!("{}", check(postgres.url(), 0x5eed_0024, 60).await);
    }
}
