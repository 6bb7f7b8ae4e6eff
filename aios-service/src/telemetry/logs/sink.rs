//! The thread that writes the lines.
//!
//! The code that logs never waits for the output. Lines go through a bounded channel, and their
//! bytes are counted, because a few long lines could fill the memory too. A line that finds no room
//! is dropped and counted, and the thread writes the number before the next line that it writes.
//! The thread ends when the last sender is gone.
//!
//! An output such as a file on a full disk may take a part of a line. The rest is kept, and written
//! before anything else, so that no line continues another one.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use aios_core::clock::{Clock, SystemClock};
use tracing::Level;

use super::line::{Line, now};

/// Maximum number of lines that wait.
const MAX_LINES: usize = 8_192;
/// Maximum size in bytes of the lines that wait.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Pause before a full queue is tried again, to flush it.
const PAUSE: Duration = Duration::from_millis(5);

/// Work of the thread.
enum Job {
    /// A line to write, with its line end.
    Line(String),
    /// Answers once all lines before it are written.
    Flush(SyncSender<()>),
}

/// Where lines go. Writing never waits: lines that find the queue full are dropped and counted.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    /// To the thread.
    jobs: SyncSender<Job>,
    /// Shared with the thread.
    waiting: Arc<Waiting>,
}

/// The counters of the queue.
#[derive(Debug, Default)]
struct Waiting {
    /// Bytes of the lines that wait.
    bytes: AtomicUsize,
    /// Lines that were dropped and not reported.
    dropped: AtomicU64,
}

impl Sink {
    /// Starts the thread.
    pub(super) fn start(output: Box<dyn Write + Send>, is_json: bool) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(MAX_LINES);
        let waiting = Arc::<Waiting>::default();
        let waits = Arc::clone(&waiting);
        let writer = Writer { output, is_json, rest: Vec::new(), waiting: waits };
        thread::Builder::new().name("aios-log".to_owned()).spawn(move || writer.run(&queue))?;
        Ok(Self { jobs, waiting })
    }

    /// Queues a line, or counts it as dropped.
    pub(super) fn write(&self, line: String) {
        let bytes = line.len();
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_full = before.saturating_add(bytes) > MAX_BYTES;
        if is_full || self.jobs.try_send(Job::Line(line)).is_err() {
            self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything that was written before is out. Returns false if it takes longer.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let clock = SystemClock;
        let end = clock.elapsed() + timeout;
        let (written, answer) = sync_channel(1);
        let mut job = Job::Flush(written);
        loop {
            match self.jobs.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if clock.elapsed() >= end => return false,
                Err(TrySendError::Full(refused)) => job = refused,
            }
            thread::sleep(PAUSE);
        }
        answer.recv_timeout(end.saturating_sub(clock.elapsed())).is_ok()
    }
}

/// The state of the thread.
struct Writer {
    /// Where lines are written.
    output: Box<dyn Write + Send>,
    is_json: bool,
    /// The rest of a line of which the output has taken a part. Usually empty.
    rest: Vec<u8>,
    waiting: Arc<Waiting>,
}

impl Writer {
    /// Writes until the last sink is gone.
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Line(line) => {
                    self.waiting.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    self.put(&line);
                }
                Job::Flush(written) => {
                    self.end_line();
                    // A log that cannot be written has nowhere to report it.
                    let _ = self.output.flush();
                    // The caller may have stopped waiting.
                    let _ = written.try_send(());
                }
            }
        }
    }

    /// Writes a line. One that fails is reported before the next one.
    fn put(&mut self, line: &str) {
        self.report();
        if !self.write(line) {
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line, after the rest of the one before. Returns false if the output has taken nothing of
    /// it.
    fn write(&mut self, line: &str) -> bool {
        self.end_line();
        if !self.rest.is_empty() {
            return false;
        }
        let taken = write(&mut self.output, line.as_bytes());
        if taken == 0 {
            return false;
        }
        self.rest.extend(line.as_bytes().iter().skip(taken));
        true
    }

    /// Writes the rest of a line.
    fn end_line(&mut self) {
        if !self.rest.is_empty() {
            let taken = write(&mut self.output, &self.rest);
            self.rest.drain(..taken);
        }
    }

    /// Says how many lines were dropped.
    fn report(&mut self) {
        let lines = self.waiting.dropped.swap(0, Ordering::Relaxed);
        if lines == 0 {
            return;
        }
        let values = [("lines", lines.into())];
        let line = Line {
            time: now(),
            level: Level::WARN,
            message: "lines of the log were dropped, because it could not be written fast enough",
            target: module_path!(),
            values: &values,
        };
        if !self.write(&line.format(self.is_json)) {
            self.waiting.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// Writes bytes until the output fails, and returns how many it has taken.
fn write(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => break,
            Ok(more) => taken += more.min(rest.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    taken
}
