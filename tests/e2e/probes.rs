//! The example `service` as an engine, an API and agents: what their probes answer while servers fail,
//! and how they end under load.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aios_core::{
    clock::{Clock, SystemClock},
    store::{MAX_PAGE, PageRequest, RunFilter, StreamId},
};
use aios_tests::{postgres::PostgresServer, program::program, rabbitmq::RabbitMqServer};

/// The timeout of the probes in `deploy/kubernetes`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Runs that are started before each signal.
const RUNS: usize = 20;

/// The answers of the probes: whether a process is live, ready and started, or nothing in time.
type Probes = [Option<u16>; 3];

const READY: Probes = [Some(200), Some(200), Some(200)];
const NOT_READY: Probes = [Some(200), Some(503), Some(200)];
const SILENT: Probes = [None, None, None];

struct Servers {
    postgres: PostgresServer,
    rabbitmq: RabbitMqServer,
}

impl Servers {
    fn start() -> Option<Self> {
        Some(Self { postgres: PostgresServer::start()?, rabbitmq: RabbitMqServer::start()? })
    }

    /// A process that has started.
    fn process(&self, roles: &str) -> Process {
        Process::start(roles, &self.postgres.url(), &self.rabbitmq.url())
    }
}

struct Process {
    roles: String,
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(roles: &str, store: &str, broker: &str) -> Self {
        let mut child = command(roles, store, broker)
            .env("AIOS_HTTP_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").expect("the address of the service");
        Self { roles: roles.to_owned(), child, address: address.parse().unwrap() }
    }

    fn probes(&self) -> Probes {
        probes(self.address)
    }

    /// Waits until the probes answer this.
    #[track_caller]
    fn expect(&self, wanted: Probes, while_: &str) {
        let begun = SystemClock.elapsed();
        let mut seen = self.probes();
        while seen != wanted {
            assert!(
                SystemClock.elapsed() - begun < PATIENCE,
                "{} while {while_}: {seen:?}",
                self.roles
            );
            thread::sleep(PAUSE);
            seen = self.probes();
        }
        println!(
            "{} while {while_}: {seen:?} after {:?}",
            self.roles,
            SystemClock.elapsed() - begun
        );
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        assert!(kill.args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end, which must be a success.
    fn join(mut self) {
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}: {printed}", self.roles);
        assert!(printed.ends_with("stopped\n"), "{printed}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(roles: &str, store: &str, broker: &str) -> Command {
    let mut command = Command::new(program("service"));
    command
        .env("AIOS_PROCESS_ROLES", roles)
        .env("AIOS_BROKER_URL", broker)
        .env("AIOS_LOG_LEVEL", "error")
        .env("AIOS_SHUTDOWN_ACCEPT_DELAY", "2s")
        .env("AIOS_SHUTDOWN_DEADLINE", "30s");
    // Agents need no store.
    if roles != "agents" {
        command.env("AIOS_DATABASE_URL", store);
    }
    command
}

/// Asks all probes at the same time.
fn probes(address: SocketAddr) -> Probes {
    let asked = ["live", "ready", "startup"].map(|probe| {
        let path = format!("/health/{probe}");
        thread::spawn(move || request(address, "GET", &path, "", PROBE_TIMEOUT))
    });
    asked.map(|answer| answer.join().unwrap().map(|(status, _)| status))
}

/// The status and body of an answer, or nothing if there is none in time.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    timeout: Duration,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[test]
fn should_answer_probes_by_what_each_process_can_do() {
    let Some(servers) = Servers::start() else { return };
    let processes = ["engine", "api", "agents"].map(|roles| servers.process(roles));
    let expect = |wanted: [Probes; 3], while_: &str| {
        for (process, wanted) in processes.iter().zip(wanted) {
            process.expect(wanted, while_);
        }
    };
    expect([READY; 3], "everything runs");
    servers.postgres.stop("immediate");
    expect([NOT_READY, NOT_READY, READY], "PostgreSQL is stopped");
    servers.postgres.revive();
    expect([READY; 3], "PostgreSQL is back");
    servers.rabbitmq.stop();
    expect([NOT_READY; 3], "RabbitMQ is stopped");
    servers.rabbitmq.revive();
    expect([READY; 3], "RabbitMQ is back");
    let [engine, ..] = &processes;
    engine.signal("-STOP");
    engine.expect(SILENT, "the process is frozen");
    engine.signal("-CONT");
    engine.expect(READY, "the process continues");
    processes.iter().for_each(|process| process.signal("-TERM"));
    expect([NOT_READY; 3], "the process drains");
    processes.into_iter().for_each(Process::join);
}

#[test]
fn should_answer_no_probe_before_the_store_and_the_broker_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = format!("postgres://aios@{}/aios", silent.local_addr().unwrap());
    let mut child = command("engine", &store, "memory://")
        .env("AIOS_HTTP_LISTEN", free.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let connected = silent.accept().unwrap();
    let seen = probes(free);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(connected);
    assert_eq!(seen, SILENT);
}

/// Clients that start runs, at an API that is ready.
struct Load {
    apis: Arc<Mutex<Vec<SocketAddr>>>,
    started: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    client: JoinHandle<()>,
}

impl Load {
    fn start(apis: Vec<SocketAddr>) -> Self {
        let (apis, started) = (Arc::new(Mutex::new(apis)), Arc::default());
        let ends = Arc::new(AtomicBool::new(false));
        let client = thread::spawn({
            let (apis, started, ends) =
                (Arc::clone(&apis), Arc::<Mutex<Vec<String>>>::clone(&started), Arc::clone(&ends));
            move || {
                for number in 0.. {
                    if ends.load(Ordering::Acquire) {
                        break;
                    }
                    let api = ready_of(&apis.lock().unwrap().clone());
                    let id = format!("run-{number}");
                    start(api, &id);
                    started.lock().unwrap().push(id);
                }
            }
        });
        Self { apis, started, ends, client }
    }

    /// Waits until more runs were started.
    fn more(&self) {
        let wanted = self.started.lock().unwrap().len() + RUNS;
        while self.started.lock().unwrap().len() < wanted {
            assert!(!self.client.is_finished(), "a run was refused");
            thread::sleep(PAUSE);
        }
    }

    /// Ends the load, and returns the runs.
    fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::Release);
        self.client.join().unwrap();
        let started = self.started.lock().unwrap();
        started.clone()
    }
}

/// The first process that is ready, as a load balancer chooses it.
fn ready_of(apis: &[SocketAddr]) -> SocketAddr {
    let is_ready = |api: &&SocketAddr| {
        request(**api, "GET", "/health/ready", "", PROBE_TIMEOUT).is_some_and(|it| it.0 == 200)
    };
    *apis.iter().find(is_ready).expect("an API that is ready")
}

fn start(api: SocketAddr, id: &str) {
    let body = format!(r#"{{"input": "Ada", "run_id": "{id}"}}"#);
    let path = "/api/v1/workflows/welcome/actions/execute";
    let answer = request(api, "POST", path, &body, REQUEST_TIMEOUT);
    assert!(matches!(answer, Some((202, _))), "{id}: {answer:?}");
}

#[test]
fn should_end_in_order_and_repeat_nothing_when_each_process_is_replaced_under_load() {
    let Some(servers) = Servers::start() else { return };
    let mut api = servers.process("api");
    let mut others = ["engine", "engine", "agents", "agents"].map(|it| servers.process(it));
    let load = Load::start(vec![api.address]);
    for old in &mut others {
        load.more();
        let new = servers.process(&old.roles);
        replace(old, new);
    }
    load.more();
    let new = servers.process("api");
    *load.apis.lock().unwrap() = vec![api.address, new.address];
    replace(&mut api, new);
    load.more();
    let runs = load.end();
    for id in &runs {
        let path = format!("/api/v1/runs/{id}/result?wait=30s");
        let answer = request(api.address, "GET", &path, "", REQUEST_TIMEOUT).unwrap();
        assert!(answer.1.contains("Hello, Ada!"), "{id}: {answer:?}");
    }
    assert_each_did_its_task_once(&servers.postgres.url(), runs.len());
}

/// Replaces a process as a rolling deployment does. The old one is not ready first, then ends.
fn replace(old: &mut Process, new: Process) {
    let old = std::mem::replace(old, new);
    old.signal("-TERM");
    old.expect(NOT_READY, "it drains under load");
    old.join();
}

#[tokio::main(flavor = "current_thread")]
async fn assert_each_did_its_task_once(url: &str, runs: usize) {
    let store = aios_store::connect(url).await.unwrap();
    let filter = RunFilter { workflow: Some("welcome".to_owned()), ..RunFilter::default() };
    let rows = store.runs(&filter, &PageRequest::first(MAX_PAGE)).await.unwrap().rows;
    assert_eq!(rows.len(), runs.min(MAX_PAGE));
    for row in rows {
        let stream = StreamId::of_run(&row.id).unwrap();
        let journal = store.read_stream(&stream, 0, MAX_PAGE).await.unwrap();
        let of_task = journal.iter().map(|recorded| recorded.event.event_type.action());
        let of_task: Vec<_> = of_task.filter(|action| action.starts_with("task_")).collect();
        assert_eq!(of_task, ["task_assigned", "task_completed"], "{}", row.id);
    }
}
