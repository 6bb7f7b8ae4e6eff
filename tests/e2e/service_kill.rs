//! The HTTP service, killed while clients start runs with an `Idempotency-Key` and follow the log, and
//! restarted as another process on the same address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use aios_tests::{postgres::PostgresServer, program::program};
use serde_json::{Value, json};

use crate::process::Process;

/// Requests that are in flight at once.
const CLIENTS: usize = 16;
/// Pause before something is tried or looked at again, and how often at most: 5 minutes.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: usize = 15_000;
/// Type of the events that every second stream follows.
const STARTED: &str = "workflows.welcome.started";
/// Types of the audit events.
const REQUESTED: &str = "system.api.requested";
const CALLED: &str = "system.api.called";

/// Events by position.
type Log = BTreeMap<u64, Logged>;

/// An event of the log.
struct Logged {
    event_type: String,
    stream: String,
    id: String,
    /// The event that caused it.
    cause: Option<String>,
    /// The request of which an audit event tells.
    request: Option<String>,
}

impl Logged {
    fn of(resource: &Value) -> Self {
        let attributes = &resource["attributes"];
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        Self {
            event_type: text(&attributes["type"]).unwrap(),
            stream: text(&attributes["stream"]).unwrap(),
            id: text(&resource["id"]).unwrap(),
            cause: text(&attributes["metadata"]["causation_id"]),
            request: text(&attributes["data"]["request_id"]),
        }
    }
}

/// The service, on an address that stays the same when it is started again.
struct Site<'a> {
    folder: &'a Path,
    store: String,
    address: SocketAddr,
}

impl Site<'_> {
    fn start(&self) -> Process {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(program("service"));
        command
            .current_dir(self.folder)
            .env_clear()
            .env("AIOS_DATABASE_URL", &self.store)
            .env("AIOS_BROKER_URL", "memory://")
            .env("AIOS_HTTP_LISTEN", self.address.to_string())
            // A request that a killed process has begun is handled again after this time.
            .env("AIOS_HTTP_REQUEST_TIMEOUT", "2s")
            .stderr(log);
        Process::start("service", command)
    }

    /// Sends a request and returns the status, the head and the body of the answer; an error if the
    /// connection breaks.
    fn ask(&self, request: &str, body: &str) -> std::io::Result<(u16, String, Value)> {
        let mut stream = self.connect(request, body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let broken = || std::io::Error::other("the answer ends early");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = serde_json::from_str(body).map_err(|_| broken())?;
        Ok((status.ok_or_else(broken)?, head.to_owned(), body))
    }

    fn connect(&self, request: &str, body: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let length = body.len();
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}");
        let kind = "content-type: application/json";
        write!(stream, "{head}{kind}\r\ncontent-length: {length}\r\n\r\n{body}")?;
        Ok(stream)
    }

    /// The answer to a GET, once the service has time for it.
    fn get(&self, path: &str) -> Value {
        for _ in 0..100 {
            if let Ok((200, _, body)) = self.ask(&format!("GET /api/v1{path}"), "") {
                return body;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{path} is not answered");
    }

    /// Starts a run until that is answered, and returns its id. The id derives from the key, which is the id
    /// of each request, too.
    fn start_run(&self, key: usize) -> String {
        let request = format!(
            "POST /api/v1/workflows/welcome/actions/execute\nidempotency-key: key-{key}\r\n\
             x-request-id: key-{key}\r\n"
        );
        for _ in 0..TRIES {
            match self.ask(&request, &json!({ "input": "Ada" }).to_string()) {
                Ok((202, _, answer)) => return answer["data"]["id"].as_str().unwrap().to_owned(),
                Ok((409, _, answer)) => {
                    assert_eq!(answer["error"]["code"], "REQUEST_IN_PROGRESS", "{answer}");
                }
                Ok((500.., ..)) | Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
            thread::sleep(PAUSE);
        }
        panic!("key-{key} is not answered");
    }

    /// Follows the log from its start, and connects again after the last event when the connection
    /// breaks. Returns the positions in the order in which they came.
    fn follow(&self, pattern: &str, seen: &Mutex<Vec<u64>>, is_over: &AtomicBool) -> usize {
        let mut connections = 0;
        let mut last = 0;
        while !is_over.load(SeqCst) {
            let path = format!("/api/v1/events/stream?pattern={pattern}");
            let request = format!("GET {path}\nlast-event-id: {last}\r\n");
            let Ok(stream) = self.connect(&request, "") else {
                thread::sleep(PAUSE);
                continue;
            };
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            connections += 1;
            self.read(stream, &mut last, seen, is_over);
        }
        connections
    }

    /// Reads events until the connection breaks. An event counts when its end has come.
    fn read(
        &self,
        stream: TcpStream,
        last: &mut u64,
        seen: &Mutex<Vec<u64>>,
        is_over: &AtomicBool,
    ) {
        let (mut reader, mut line) = (BufReader::new(stream), String::new());
        let (mut id, mut has_data) = (None, false);
        while !is_over.load(SeqCst) {
            match reader.read_line(&mut line) {
                Ok(0) => return,
                // What was read before the timeout stays in `line`.
                Err(error) if is_timeout(&error) => continue,
                Err(_) => return,
                Ok(_) if !line.ends_with('\n') => continue,
                Ok(_) => {}
            }
            match line.trim_end().split_once(':') {
                Some(("id", position)) => id = position.trim().parse::<u64>().ok(),
                Some(("data", _)) => has_data = true,
                None if line.trim_end().is_empty() => {
                    if let Some(position) = id.take() {
                        *last = position;
                        if std::mem::take(&mut has_data) {
                            seen.lock().unwrap().push(position);
                        }
                    }
                }
                _ => {}
            }
            line.clear();
        }
    }

    /// All events of the log.
    fn log(&self) -> Log {
        let (mut log, mut after) = (BTreeMap::new(), "0".to_owned());
        loop {
            let page = self.get(&format!("/events?limit=1000&after={after}"));
            for event in page["data"].as_array().unwrap() {
                log.insert(event["attributes"]["position"].as_u64().unwrap(), Logged::of(event));
            }
            match page["meta"]["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return log,
            }
        }
    }
}

/// Ends the streams when the test fails, which would otherwise wait for them.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..TRIES {
        if holds() {
            return;
        }
        thread::sleep(PAUSE);
    }
    panic!("{what}");
}

/// Starts runs and follows the log while the service is killed.
fn check(store: impl Fn(&Path) -> String, starts: usize, streams: usize, kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site { folder: folder.path(), store: store(folder.path()), address };
    let (next, started) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let seen: Vec<Mutex<Vec<u64>>> = (0..streams).map(|_| Mutex::default()).collect();
    let (is_over, mut process) = (AtomicBool::new(false), Some(site.start()));
    let (log, connections) = thread::scope(|scope| {
        let _over = Over(&is_over);
        let followers: Vec<_> = seen
            .iter()
            .enumerate()
            .map(|(number, seen)| {
                let pattern = if number % 2 == 0 { "%23" } else { STARTED };
                let (site, is_over) = (&site, &is_over);
                scope.spawn(move || site.follow(pattern, seen, is_over))
            })
            .collect();
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let key = next.fetch_add(1, SeqCst);
                    if key >= starts {
                        return;
                    }
                    let id = site.start_run(key);
                    started.lock().unwrap().insert(key, id);
                }
            });
        }
        for kill in 1..=kills {
            let enough = kill * starts / (kills + 1);
            until("the runs are started", || started.lock().unwrap().len() >= enough);
            // Its address must be free before the next one starts.
            drop(process.take());
            process = Some(site.start());
        }
        until("the runs are started", || started.lock().unwrap().len() == starts);
        until("the runs have ended", || {
            site.get("/runs?status=running&limit=1")["data"].as_array().unwrap().is_empty()
        });
        let log = site.log();
        let last_started = log.iter().rfind(|(_, event)| event.event_type == STARTED).unwrap().0;
        let last = log.keys().next_back().unwrap();
        for (number, seen) in seen.iter().enumerate() {
            let wanted = if number % 2 == 0 { last } else { last_started };
            until("the streams have every event", || seen.lock().unwrap().last() >= Some(wanted));
        }
        is_over.store(true, SeqCst);
        let connections: usize = followers.into_iter().map(|it| it.join().unwrap()).sum();
        (log, connections)
    });
    // A repeated request gets the answer that it got first.
    let started = started.into_inner().unwrap();
    for key in [0, starts / 2, starts - 1] {
        assert_eq!(site.start_run(key), started[&key]);
    }
    drop(process);
    compare(&log, &started, &seen);
    check_audit(&log, &started);
    println!("{starts} starts, {kills} kills, {} events, {connections} connections", log.len());
    assert!(connections >= streams * (kills + 1) / 2, "the streams have connected again");
}

/// Every key has started one run, and every stream has had every event once.
fn compare(log: &Log, started: &BTreeMap<usize, String>, seen: &[Mutex<Vec<u64>>]) {
    let of_runs = log.values().filter(|it| it.event_type == STARTED);
    let of_runs: Vec<_> = of_runs.map(|it| &it.stream).collect();
    let answered: BTreeSet<String> = started.values().map(|id| format!("runs/{id}")).collect();
    let count = started.len();
    assert_eq!((of_runs.len(), answered.len()), (count, count), "a run is started twice");
    assert!(of_runs.iter().all(|stream| answered.contains(*stream)));
    let last = log.keys().next_back().unwrap();
    for (number, seen) in seen.iter().enumerate() {
        let is_wanted = |event_type: &str| number % 2 == 0 || event_type == STARTED;
        let wanted =
            log.iter().filter(|(_, it)| is_wanted(&it.event_type)).map(|(position, _)| *position);
        let seen = seen.lock().unwrap();
        let seen: Vec<u64> = seen.iter().copied().take_while(|it| it <= last).collect();
        assert_eq!(seen, wanted.collect::<Vec<_>>(), "stream {number} has a gap or a repetition");
    }
}

/// Every call whose outcome is in the log was announced there before, and so was a call for every run.
fn check_audit(log: &Log, started: &BTreeMap<usize, String>) {
    let (mut announced, mut outcomes) = (BTreeSet::new(), 0);
    let mut requests = BTreeSet::new();
    let keys: BTreeMap<_, _> =
        started.iter().map(|(key, id)| (format!("runs/{id}"), format!("key-{key}"))).collect();
    for (position, event) in log {
        match &*event.event_type {
            REQUESTED => {
                announced.insert(&event.id);
                requests.extend(&event.request);
            }
            CALLED => {
                let cause = event.cause.as_ref().unwrap();
                let request = &event.request;
                assert!(announced.contains(cause), "{request:?} at {position} was not announced");
                outcomes += 1;
            }
            STARTED => {
                let key = &keys[&event.stream];
                assert!(requests.contains(key), "{key} has started a run before it was announced");
            }
            _ => {}
        }
    }
    println!("{} calls were announced, {outcomes} have an outcome", announced.len());
    assert!(outcomes > 0, "calls have outcomes");
}

fn file(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("service.db").display())
}

#[test]
fn should_start_each_run_once_and_resume_every_stream_when_the_service_is_killed() {
    check(file, 60, 20, 2);
}

#[test]
fn should_start_each_run_once_and_resume_every_stream_when_the_service_on_postgresql_is_killed() {
    if let Some(postgres) = PostgresServer::start() {
        check(|_| postgres.url(), 60, 20, 2);
    }
}

#[test]
#[ignore = "the full size takes minutes"]
fn should_survive_many_kills_with_a_thousand_starts() {
    check(file, 1000, 20, 10);
    if let Some(postgres) = PostgresServer::start() {
        check(|_| postgres.url(), 1000, 20, 10);
    }
}
