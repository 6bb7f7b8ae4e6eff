//! Forwards native logs to Python's `logging`.
//!
//! A native thread must not call `logging`, because it would wait for the interpreter's lock, and
//! the code that holds it may wait for the native thread. So the message and the fields of an event are
//! put into a bounded queue where it happens, and a Python thread, which `aios._service.logging` runs,
//! takes them out and logs them. That thread releases the interpreter's lock while it waits.
//!
//! A full queue does not block: the record is dropped and counted, and the message of the next one
//! that is logged tells how many were lost.
//!
//! The level is checked before an event is formatted, in an atomic that Python sets. Only events of the
//! crates of aios are forwarded, with the fields of the spans around them. Events in the replay of a run are
//! left out: the run logged them when it did the work.
//!
//! | module | contents |
//! |---|---|
//! | `fields` | the fields of events and spans |
//! | `layer` | what is forwarded, and the spans |
//! | `scope` | the spans around a call of a Python function |
//!
//! A forked child has its own queue; see [`Queue`]. Queues are never freed: the subscriber is
//! global and may use one at any time.

mod fields;
mod layer;
mod scope;

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use aios_core::event::Payload;
use pyo3::prelude::*;
use serde_json::Value;
use tracing_subscriber::{Registry, layer::SubscriberExt};

pub(crate) use self::scope::CallScope;
use self::{fields::Fields, layer::ForwardingLayer};
use crate::convert::{errors::ErrorInfo, json};

/// Capacity of the queue. When it is full, further records are dropped and counted.
const QUEUE_CAPACITY: usize = 1024;

/// Number of dropped records, which the next record reports.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lowest level to forward, as `logging` numbers levels.
static LEVEL: AtomicU8 = AtomicU8::new(30);

/// One record: level, target, message and fields.
type Record = (u8, &'static str, Fields);

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
            let subscriber = Registry::default().with(ForwardingLayer);
            tracing::subscriber::set_global_default(subscriber).ok()?;
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
        let _ = queue.records.try_send((0, "", Fields::default()));
    }
}

/// A record for Python: its level, its logger, its message and its fields.
type PyRecord<'py> = (u8, String, String, Bound<'py, PyAny>);

/// The receiving end of the queue, for the logging thread.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct LogRecords(parking_lot::Mutex<Receiver<Record>>);

#[pymethods]
impl LogRecords {
    /// Waits at most `seconds` for the next record.
    fn next<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Option<PyRecord<'py>>> {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let received = py.detach(|| {
            let records = self.0.lock();
            records.recv_timeout(timeout)
        });
        let Ok((level, target, fields)) = received else { return Ok(None) };
        let message = match LOST.swap(0, Ordering::Relaxed) {
            0 => fields.message,
            lost => format!("{} ({lost} earlier records were dropped)", fields.message),
        };
        let values = Value::Object(fields.values);
        let values =
            Payload::encode(&values).map_err(|error| ErrorInfo::from(error).into_error(py))?;
        Ok(Some((level, logger(target), message, json::read(py, values.as_str())?)))
    }
}

/// Sends a record to the queue, or counts it as lost.
fn send(record: Record) {
    let sent = Queue::own().map(|queue| queue.records.try_send(record));
    if !matches!(sent, Some(Ok(()))) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// `aios.agents.workflow` for `aios_agents::workflow`.
fn logger(target: &str) -> String {
    target.trim_start_matches('_').replace("::", ".").replacen("aios_", "aios.", 1)
}
