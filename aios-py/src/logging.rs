//! Forwards native logs to Python's `logging`.
//!
//! A native thread must not call `logging`, because it would wait for the interpreter's lock, and
//! the code that holds it may wait for the native thread. So an event is formatted where it happens
//! and put into a bounded queue, and a Python thread, which `aios._logging` runs, takes it out and
//! logs it. That thread releases the interpreter's lock while it waits.
//!
//! A full queue does not block: the record is dropped and counted, and the text of the next one
//! that is logged tells how many were lost.
//!
//! The level is checked before an event is formatted, in an atomic that Python sets. Only the
//! crates of aios are forwarded, and only events; spans have no effect.
//!
//! A forked child has its own queue; see [`Queue`]. Queues are never freed: the subscriber is
//! global and may use one at any time.

use std::{
    fmt::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use pyo3::prelude::*;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    metadata::LevelFilter,
    span,
};

/// Capacity of the queue. When it is full, further records are dropped and counted.
const QUEUE_CAPACITY: usize = 1024;

/// Number of dropped records, which the next record reports.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lowest level to forward, as `logging` numbers levels.
static LEVEL: AtomicU8 = AtomicU8::new(30);

/// One record: level, target, text.
type Record = (u8, &'static str, String);

/// The queue of the first process that forwards its logs.
static FIRST: OnceLock<Queue> = OnceLock::new();

/// The queue of one process. A forked child needs another one: the thread that empties the queue
/// exists only in the parent, and may have held the locks of the queue at the fork.
struct Queue {
    process: u32,
    /// The end that native threads write.
    records: SyncSender<Record>,
    /// The queue of the child.
    next: OnceLock<Box<Self>>,
}

impl Queue {
    /// A queue of this process, and its other end for Python.
    fn new() -> (Self, LogRecords) {
        let (records, receiver) = sync_channel(QUEUE_CAPACITY);
        let queue = Self { process: std::process::id(), records, next: OnceLock::new() };
        (queue, LogRecords(parking_lot::Mutex::new(receiver)))
    }

    /// The queue of this process, or of an ancestor if this process has none.
    fn latest() -> Option<&'static Self> {
        let mut queue = FIRST.get()?;
        while let Some(next) = queue.next.get() {
            queue = next;
        }
        Some(queue)
    }

    /// Whether the queue belongs to this process.
    fn is_own(&self) -> bool {
        self.process == std::process::id()
    }

    /// The queue of this process.
    fn own() -> Option<&'static Self> {
        Self::latest().filter(|queue| queue.is_own())
    }
}

/// Starts to send native logs to a queue. `None` if this process has done that before, or if another
/// subscriber is installed in it.
#[pyfunction]
pub(crate) fn capture_logs() -> Option<LogRecords> {
    let (queue, records) = Queue::new();
    match Queue::latest() {
        None => {
            tracing::subscriber::set_global_default(ForwardingSubscriber).ok()?;
            FIRST.set(queue).ok()?;
        }
        Some(latest) if latest.is_own() => return None,
        Some(parents) => parents.next.set(Box::new(queue)).ok()?,
    }
    Some(records)
}

/// Sets the lowest level to forward, as `logging` numbers levels.
#[pyfunction]
pub(crate) fn set_log_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
}

/// Wakes the logging thread with an empty record, so that it can end.
#[pyfunction]
pub(crate) fn wake_log() {
    if let Some(queue) = Queue::own() {
        // Records in a full queue wake it too.
        let _ = queue.records.try_send((0, "", String::new()));
    }
}

/// The receiving end of the queue, for the logging thread.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct LogRecords(parking_lot::Mutex<Receiver<Record>>);

#[pymethods]
impl LogRecords {
    /// Waits at most `seconds` for the next record: `(level, logger, text)`.
    fn next(&self, py: Python<'_>, seconds: f64) -> Option<(u8, String, String)> {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let received = py.detach(|| {
            let records = self.0.lock();
            records.recv_timeout(timeout)
        });
        let (level, target, text) = received.ok()?;
        let logger = logger(target);
        match LOST.swap(0, Ordering::Relaxed) {
            0 => Some((level, logger, text)),
            lost => Some((level, logger, format!("{text} ({lost} earlier records were dropped)"))),
        }
    }
}

/// Whether the target is a crate of aios. The target of this crate begins with `_aios`.
fn is_own(target: &str) -> bool {
    target.trim_start_matches('_').starts_with("aios")
}

/// `aios.agents.workflow` for `aios_agents::workflow`.
fn logger(target: &str) -> String {
    target.trim_start_matches('_').replace("::", ".").replacen("aios_", "aios.", 1)
}

/// Sends events to the queue of the process. The only subscriber of the process.
struct ForwardingSubscriber;

/// The number of a level in `logging`, which has none for traces: 5 is below its `DEBUG`.
fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl Subscriber for ForwardingSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && is_own(metadata.target())
            && number(*metadata.level()) >= LEVEL.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }

    fn register_callsite(
        &self,
        metadata: &'static Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        // Decided for every event, because the level may change.
        match metadata.is_event() && is_own(metadata.target()) {
            true => tracing::subscriber::Interest::sometimes(),
            false => tracing::subscriber::Interest::never(),
        }
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let record = (number(*metadata.level()), metadata.target(), text.0);
        let sent = Queue::own().map(|queue| queue.records.try_send(record));
        if !matches!(sent, Some(Ok(()))) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then the fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => {
                let fields = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{fields}")
            }
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
