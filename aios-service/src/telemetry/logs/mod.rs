//! Lines of the log: collected from events and their spans, formatted, and written by a thread.
//!
//! ```text
//! event ─► filter (levels, can be replaced) ─► LogLayer: fields, spans, line ─► Sink ─► thread ─► output
//! ```

mod fields;
mod layer;
mod line;
mod sink;

use std::{
    io::{self, Write},
    time::Duration,
};

use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt, registry, reload,
};

use self::{layer::LogLayer, sink::Sink};
use crate::config::{LogLevel, LogSettings, Redaction};

/// Targets whose lines contain the data of events. They are written only if the settings name them.
const TARGETS_WITH_DATA: [&str; 1] = ["lapin::returned_messages"];
/// The target of the spans of runs, steps, tasks and replays; see `aios_agents`. No event has it.
const SPANS: &str = "aios_agents::workflow::span";

/// The log of a process.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    /// Replaces the levels while the program runs.
    filter: reload::Handle<Targets, Registry>,
    /// Flushed at the end.
    sink: Sink,
}

/// Creates a subscriber that writes lines to `output`.
pub(super) fn logs(
    settings: &LogSettings,
    is_json: bool,
    output: Box<dyn Write + Send>,
) -> io::Result<(Dispatch, Logs)> {
    let sink = Sink::start(output, is_json)?;
    let (filter, handle) = reload::Layer::new(targets(settings));
    let layer = LogLayer::new(is_json, Redaction::new(&settings.redact), sink.clone());
    let subscriber = registry().with(layer.with_filter(filter));
    Ok((Dispatch::new(subscriber), Logs { filter: handle, sink }))
}

impl Logs {
    /// Applies the levels of these settings.
    pub(super) fn set_filter(&self, settings: &LogSettings) {
        // Fails only if the subscriber is gone, and its lines with it.
        let _ = self.filter.reload(targets(settings));
    }

    /// Waits until every line is written.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        self.sink.flush(timeout)
    }
}

/// The levels of the settings. They are about events; the spans of runs stay enabled, because lines of
/// other targets have their fields, and a replay is silent because of its span.
fn targets(settings: &LogSettings) -> Targets {
    let silent = TARGETS_WITH_DATA.map(|target| (target, LevelFilter::OFF));
    let targets = settings.targets.iter().map(|(target, level)| (target.clone(), filter(*level)));
    // Of targets with the same name, the last one counts.
    Targets::new()
        .with_default(filter(settings.level))
        .with_targets(silent)
        .with_targets(targets)
        .with_target(SPANS, LevelFilter::ERROR)
}

/// The level as the filter knows it.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
