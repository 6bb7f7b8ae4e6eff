//! Many processes write random batches with random pauses while a reader follows the log and the server is
//! killed. No event is skipped or duplicated, and no acknowledged event is lost.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the processes run in real time and report acknowledged events on stdout"
)]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStore, EventStoreExt, StreamId},
};
use aios_store::postgres::PostgresStore;
use aios_tests::postgres::PostgresServer;
use serde_json::json;

const PROCESSES: usize = 6;

/// Minimum duration of the test without faults, and minimum number of events in it.
const FUZZ: (Duration, usize) = (Duration::from_secs(60), 100_000);

/// Minimum time between two kills of the server.
const CALM: Duration = Duration::from_secs(3);

const URL: &str = "AIOS_TEST_WRITER_URL";

/// Another process that appends until its stdin ends.
struct Writer {
    process: Child,
    acknowledged: JoinHandle<Vec<EventId>>,
}

impl Writer {
    fn start(url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "postgres::chaos::writer_process"]);
        command.env(URL, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let acknowledged = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("ACK ")?.parse().ok()).collect()
        });
        Self { process, acknowledged }
    }

    /// Stops the process, and returns the acknowledged events.
    fn stop(mut self) -> Vec<EventId> {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
        self.acknowledged.join().unwrap()
    }
}

/// The writing process, which the tests start.
#[test]
#[ignore = "started as a process by other tests"]
fn writer_process() {
    let Ok(url) = std::env::var(URL) else { return };
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(write(&url, &stopped));
}

async fn write(url: &str, stopped: &AtomicBool) {
    let store = PostgresStore::connect(url).await.unwrap();
    let mut random = Random(u64::from(std::process::id()) + 1);
    while !stopped.load(Ordering::Relaxed) {
        let batch: Vec<Append> = (0..=random.below(20)).map(|_| append(&mut random)).collect();
        let ids = batch.iter().map(|append| append.events.iter().map(|event| event.id.clone()));
        let ids: Vec<Vec<EventId>> = ids.map(Iterator::collect).collect();
        for (ids, answer) in ids.iter().zip(store.append(batch).await) {
            match answer {
                Ok(_) => ids.iter().for_each(|id| println!("ACK {id}")),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(20))).await;
    }
}

/// An append to one of a few streams that all processes share, or to a stream of this process.
fn append(random: &mut Random) -> Append {
    let stream = match random.below(2) {
        0 => format!("shared/{}", random.below(4)),
        _ => format!("own/{}/{}", std::process::id(), random.below(50)),
    };
    let event = || Event::new("tests.chaos.happened".parse().unwrap(), "test", &json!({})).unwrap();
    let events = (0..=random.below(4)).map(|_| event()).collect();
    Append::new(StreamId::new(stream).unwrap(), events)
}

/// Marsaglia's xorshift64 generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Follows the log, and checks that every position arrives in order and that no event arrives twice.
struct Reader {
    seen: HashSet<EventId>,
    last: u64,
}

impl Reader {
    fn new() -> Self {
        Self { seen: HashSet::new(), last: 0 }
    }

    /// Reads until `enough` returns true. Continues after errors of the server.
    async fn read(&mut self, store: &Arc<PostgresStore>, enough: impl Fn(&Self) -> bool) {
        let mut subscription = Arc::clone(store).subscribe(self.last);
        while !enough(self) {
            let next = tokio::time::timeout(Duration::from_millis(500), subscription.next()).await;
            match next {
                Ok(Ok(recorded)) => {
                    assert_eq!(recorded.position, self.last + 1);
                    self.last = recorded.position;
                    assert!(self.seen.insert(recorded.event.id), "duplicate event");
                }
                Ok(Err(error)) => assert!(error.is_retryable(), "{error:?}"),
                Err(_) => {}
            }
        }
    }
}

async fn check(mut reader: Reader, store: &Arc<PostgresStore>, writers: Vec<Writer>) {
    let acknowledged: Vec<EventId> = writers.into_iter().flat_map(Writer::stop).collect();
    let head = store.head().await.unwrap();
    reader.read(store, |reader| reader.last >= head).await;
    assert!(!acknowledged.is_empty());
    let lost = acknowledged.iter().filter(|id| !reader.seen.contains(id)).count();
    assert_eq!(lost, 0, "of {} acknowledged events", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_skip_nothing_while_many_processes_append() {
    let Some(server) = PostgresServer::start() else { return };
    let store = Arc::new(PostgresStore::connect(&server.url()).await.unwrap());
    let writers = (0..PROCESSES).map(|_| Writer::start(&server.url())).collect();
    let (start, mut reader) = (Instant::now(), Reader::new());
    reader.read(&store, |reader| start.elapsed() >= FUZZ.0 && reader.seen.len() >= FUZZ.1).await;
    check(reader, &store, writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_every_acknowledged_append_when_the_server_is_killed() {
    let Some(server) = PostgresServer::start() else { return };
    let server = Arc::new(server);
    let store = Arc::new(PostgresStore::connect(&server.url()).await.unwrap());
    let writers = (0..PROCESSES).map(|_| Writer::start(&server.url())).collect();
    let mut reader = Reader::new();
    for _ in 0..3 {
        let (start, before) = (Instant::now(), reader.last);
        reader.read(&store, |reader| start.elapsed() >= CALM && reader.last > before).await;
        let victim = Arc::clone(&server);
        let killed = tokio::task::spawn_blocking(move || {
            victim.kill();
            victim.revive();
        });
        reader.read(&store, |_| killed.is_finished()).await;
        killed.await.unwrap();
    }
    let before = reader.last;
    reader.read(&store, |reader| reader.last > before).await;
    check(reader, &store, writers).await;
}
