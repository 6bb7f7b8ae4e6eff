//! Logs of the Rust side for Python's `logging`.

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

/// Records that may wait; when Python does not keep up, later ones are dropped and counted.
const WAITING: usize = 1024;

/// What is lost of records that nobody took is said in the next one.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lowest level of `logging` that anybody wants to see.
static LEVEL: AtomicU8 = AtomicU8::new(30);

/// One record: level, target, text.
type Record = (u8, &'static str, String);

static RECORDS: OnceLock<SyncSender<Record>> = OnceLock::new();

/// Sends the logs of this process's Rust side to a queue, once; what another subscriber of the
/// process takes is not taken from it.
#[pyfunction]
pub(crate) fn log_to() -> Option<Records> {
    let (sender, receiver) = sync_channel(WAITING);
    RECORDS.set(sender).ok()?;
    tracing::subscriber::set_global_default(Forward).ok()?;
    Some(Records(std::sync::Mutex::new(receiver)))
}

/// Sets the lowest level, as `logging` numbers them, that is sent.
#[pyfunction]
pub(crate) fn set_log_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
}

/// Wakes the thread that logs with an empty record, so that it can end.
#[pyfunction]
pub(crate) fn wake_log() {
    if let Some(records) = RECORDS.get() {
        // A full queue wakes it too.
        let _ = records.try_send((0, "", String::new()));
    }
}

/// The queue's receiving end, for the thread that logs.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Records(std::sync::Mutex<Receiver<Record>>);

#[pymethods]
impl Records {
    /// The next record as `(level, logger, text)`; `None` if there is none within `seconds`.
    fn next(&self, py: Python<'_>, seconds: f64) -> Option<(u8, String, String)> {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let received = py.detach(|| {
            let records = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            records.recv_timeout(timeout)
        });
        let (level, target, text) = received.ok()?;
        let logger = logger(target);
        match LOST.swap(0, Ordering::Relaxed) {
            0 => Some((level, logger, text)),
            lost => Some((level, logger, format!("{text} ({lost} records before were lost)"))),
        }
    }
}

/// Whether the target is one of aios's crates. This one's begins with `_aios`.
fn is_own(target: &str) -> bool {
    target.trim_start_matches('_').starts_with("aios")
}

/// `aios.agents.workflow` for `aios_agents::workflow`.
fn logger(target: &str) -> String {
    target.trim_start_matches('_').replace("::", ".").replacen("aios_", "aios.", 1)
}

struct Forward;

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl Subscriber for Forward {
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
        // Asked again each time, because the level may change.
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
        let sent = RECORDS.get().map(|records| records.try_send(record));
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
