//! One process under test, and its supervisor, which restarts it whenever it ends.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

use crate::{counting, history::History, network::Namespace, proxy::Proxy};

/// How long a process may take to end after SIGTERM: twice its deadline, and a margin.
const TERMINATION: Duration = Duration::from_secs(12);
/// How long a process may take to be ready, even while a server is restarted.
const START: Duration = Duration::from_secs(60);
/// How often the supervisor checks.
const PAUSE: Duration = Duration::from_millis(200);

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An engine, which advances runs.
    Engine,
    /// An agent service, which runs tasks.
    Agent,
}

/// A process, across all its restarts.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its name, such as `engine-2`.
    pub(crate) name: String,
    /// Its role.
    pub(crate) role: Role,
    /// The namespace in which it runs, if the machine permits it.
    pub(crate) namespace: Option<Namespace>,
    /// The proxy between it and PostgreSQL.
    pub(crate) store: Proxy,
    /// The proxy between it and RabbitMQ.
    pub(crate) broker: Proxy,
    /// The clock that libfaketime reads, if it can jump.
    pub(crate) clock: Option<Clock>,
    /// Its command-line arguments.
    pub(crate) arguments: Vec<String>,
    /// The file with its output.
    pub(crate) log: PathBuf,
    /// Multiplies the time that it may take to be ready and to end.
    pub(crate) patience: f64,
    /// Where its exits are recorded.
    pub(crate) history: Arc<History>,
    /// The holder of this lock controls the process.
    pub(crate) life: Mutex<Option<Life>>,
    /// Process id of its latest start.
    pub(crate) pid: AtomicU32,
    /// The memory use of its latest start when it was ready, in megabytes.
    pub(crate) first_memory: Arc<AtomicU64>,
    /// The highest memory use that was seen, in megabytes.
    pub(crate) most_memory: AtomicU64,
}

/// A clock that can jump.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The library.
    pub(crate) library: PathBuf,
    /// The file with the offset.
    pub(crate) offset: PathBuf,
}

/// One start of a process.
#[derive(Debug)]
pub(crate) struct Life {
    child: Child,
    /// The process ends when this is closed.
    _input: Option<ChildStdin>,
    is_ready: Arc<AtomicBool>,
}

impl Process {
    /// Starts it, and restarts it whenever it has ended.
    pub(crate) async fn supervise(self: Arc<Self>) {
        let mut unready = Duration::ZERO;
        loop {
            let mut life = self.life.lock().await;
            self.look(&mut life);
            let is_ready = life.as_ref().is_some_and(|life| life.is_ready.load(Ordering::Acquire));
            drop(life);
            // While a server is down, or nothing passes, the process cannot be ready.
            unready = match (is_ready, self.history.is_hit(&self.name)) {
                (true, _) => Duration::ZERO,
                (false, true) => unready,
                (false, false) => unready + PAUSE,
            };
            if is_over(unready, self.starting()) {
                let time = self.starting();
                self.history.violation(None, format!("{} is not ready after {time:?}", self.name));
            }
            sleep(PAUSE).await;
        }
    }

    /// How long it may take to be ready.
    pub(crate) fn starting(&self) -> Duration {
        START.mul_f64(self.patience)
    }

    fn look(&self, life: &mut Option<Life>) {
        let Some(alive) = life else {
            *life = Some(self.start());
            return;
        };
        let Some(status) = alive.child.try_wait().expect("the process is a child") else { return };
        // Before it is ready it may find that its servers are down.
        let text = format!("{} ended by itself: {status}", self.name);
        match alive.is_ready.load(Ordering::Acquire) {
            true => self.history.violation(None, text),
            false => self.history.note(text),
        }
        *life = None;
    }

    /// Whether it is running and ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let life = self.life.lock().await;
        life.as_ref().is_some_and(|life| life.is_ready.load(Ordering::Acquire))
    }

    /// Completes when it is running and ready.
    pub(crate) async fn until_ready(&self) {
        while !self.is_ready().await {
            sleep(PAUSE).await;
        }
    }

    fn start(&self) -> Life {
        let log = File::options().create(true).append(true).open(&self.log).expect("opening a log");
        let program = std::env::current_exe().expect("a program knows its path");
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespace.name]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("part").args(&self.arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", &clock.library)
                .env("FAKETIME_TIMESTAMP_FILE", &clock.offset)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_CACHE_DURATION", "1");
        }
        let mut child = command.spawn().expect("starting a process");
        let is_ready: Arc<AtomicBool> = Arc::default();
        let pid = child.id().unwrap_or_default();
        self.pid.store(pid, Ordering::Release);
        let listener = Listener {
            pid,
            name: self.name.clone(),
            is_ready: Arc::clone(&is_ready),
            first_memory: Arc::clone(&self.first_memory),
            history: Arc::clone(&self.history),
        };
        if let Some(output) = child.stdout.take() {
            tokio::spawn(listener.listen(output));
        }
        Life { _input: child.stdin.take(), child, is_ready }
    }

    /// Kills it, and restarts it some time later.
    pub(crate) async fn kill(&self, time: Duration) {
        let mut life = self.life.lock().await;
        kill(&mut life).await;
        sleep(time).await;
    }

    /// Suspends it for some time.
    pub(crate) async fn freeze(&self, time: Duration) {
        let life = self.life.lock().await;
        signal(&life, Signal::STOP);
        sleep(time).await;
        signal(&life, Signal::CONT);
    }

    /// Asks it to end, which it has to do in time, and restarts it some time later.
    pub(crate) async fn terminate(&self, time: Duration) {
        let mut life = self.life.lock().await;
        let was_ready = life.as_ref().is_some_and(|life| life.is_ready.load(Ordering::Acquire));
        signal(&life, Signal::TERM);
        let Some(alive) = life.as_mut() else { return };
        let within = TERMINATION.mul_f64(self.patience);
        match timeout(within, alive.child.wait()).await {
            Ok(status) => {
                let status = status.expect("the process is a child");
                if !status.success() && was_ready {
                    self.history.note(format!("{} ended after SIGTERM with {status}", self.name));
                }
            }
            Err(_) => self.history.violation(
                None,
                format!("{} did not end within {within:?} after SIGTERM", self.name),
            ),
        }
        kill(&mut life).await;
        sleep(time).await;
    }

    /// Lets its clock jump by some seconds, and back.
    pub(crate) async fn jump(&self, seconds: i64, time: Duration) {
        let Some(clock) = &self.clock else { return };
        self.history.note(format!("{}: its clock jumps by {seconds} s", self.name));
        clock.set(seconds);
        sleep(time).await;
        clock.set(0);
    }

    /// Its current memory use in megabytes.
    pub(crate) fn memory(&self) -> u64 {
        let megabytes = memory_of(self.pid.load(Ordering::Acquire));
        self.most_memory.fetch_max(megabytes, Ordering::Relaxed);
        megabytes
    }
}

/// Reads what a process tells the harness.
struct Listener {
    pid: u32,
    name: String,
    is_ready: Arc<AtomicBool>,
    first_memory: Arc<AtomicU64>,
    history: Arc<History>,
}

impl Listener {
    async fn listen(self, output: ChildStdout) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "ready" {
                self.first_memory.store(memory_of(self.pid), Ordering::Release);
                self.is_ready.store(true, Ordering::Release);
            }
            if let Some(count) = line.strip_prefix(counting::LINE) {
                self.history.fenced(&self.name, count.parse().unwrap_or_default());
            }
        }
    }
}

/// Whether a period is over since the last check.
fn is_over(passed: Duration, time: Duration) -> bool {
    passed >= time && passed < time + PAUSE
}

impl Clock {
    /// A clock without an offset.
    pub(crate) fn new(library: PathBuf, folder: &Path, name: &str) -> Self {
        let clock = Self { library, offset: folder.join(format!("{name}.clock")) };
        clock.set(0);
        clock
    }

    fn set(&self, seconds: i64) {
        std::fs::write(&self.offset, format!("{seconds:+}s\n")).expect("setting a clock");
    }
}

async fn kill(life: &mut MutexGuard<'_, Option<Life>>) {
    if let Some(mut life) = life.take() {
        life.child.kill().await.expect("killing a process");
    }
}

fn signal(life: &MutexGuard<'_, Option<Life>>, signal: Signal) {
    let pid = life.as_ref().and_then(|life| life.child.id());
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // A process that has just ended does not receive it.
        kill_process(pid, signal).ok();
    }
}

fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kilobytes.unwrap_or(0_u64) / 1024
}
