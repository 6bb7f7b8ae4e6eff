//! The guard of the telemetry, and the control of the log.

use std::time::Duration;

use super::logs::Logs;
use crate::config::LogSettings;

/// How long flushing may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the telemetry of a process running. Dropping it flushes the log, for at most 5 s.
///
/// # Examples
///
/// A command that shows more while it looks for a fault, without a restart:
///
/// ```no_run
/// use aios_service::{config::Settings, telemetry::Telemetry};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = Settings::load()?;
/// let telemetry = Telemetry::from_settings(&settings).start()?;
/// let louder = Settings::builder().value("log.level", "debug").load()?;
/// if let Some(control) = telemetry.log_control() {
///     control.set(louder.log());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the telemetry"]
pub struct TelemetryGuard {
    /// `None` if the program has a subscriber of its own.
    logs: Option<Logs>,
}

impl TelemetryGuard {
    /// The guard of a log that is in use.
    pub(super) fn new(logs: Logs) -> Self {
        Self { logs: Some(logs) }
    }

    /// The guard of a process that has a subscriber of its own.
    pub(super) fn none() -> Self {
        Self { logs: None }
    }

    /// Whether this telemetry is in use: false if the program has a subscriber of its own.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.logs.is_some()
    }

    /// Changes the log while the program runs. `None` if this telemetry is not in use.
    #[must_use]
    pub fn log_control(&self) -> Option<LogControl> {
        self.logs.clone().map(LogControl)
    }

    /// Flushes the log, and returns whether all lines were written within 5 s. This blocks the thread:
    /// in async code, call it with `spawn_blocking`.
    #[must_use]
    pub fn flush(&self) -> bool {
        self.logs.as_ref().is_none_or(|logs| logs.flush(FLUSH_TIMEOUT))
    }
}

/// Changes the log of a process while it runs.
#[derive(Clone, Debug)]
pub struct LogControl(Logs);

impl LogControl {
    /// Applies the level and the targets of these settings. The format and the output do not change.
    pub fn set(&self, settings: &LogSettings) {
        self.0.set_filter(settings);
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        // What could not be written in time is lost with the process.
        let _ = self.flush();
    }
}
