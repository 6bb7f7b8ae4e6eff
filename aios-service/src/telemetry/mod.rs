//! Logs, metrics and traces for operators: logs from one call, with one guard that flushes them at the
//! end, [`Metrics`] as OpenMetrics text, and [`traces`] of runs.
//!
//! ```no_run
//! use aios_service::{config::Settings, telemetry::Telemetry};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load()?;
//! let _telemetry = Telemetry::from_settings(&settings).start()?; // keep it until the program ends
//! tracing::info!(order = 7, "an order arrived");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Service`](crate::Service) does this automatically.
//!
//! # Lines
//!
//! A line is a JSON object, or text if the output is a terminal; `log.format` decides otherwise.
//!
//! ```text
//! {"time":"2026-01-01T12:00:00.000001Z","level":"INFO","message":"an order arrived","target":"shop","run_id":"order-7","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","order":7}
//! ```
//!
//! | field | |
//! |---|---|
//! | `time`, `level`, `message`, `target` | when, how important, what, and which module |
//! | `correlation_id`, `run_id`, `workflow` | within agents, steps and the code of workflows, if they belong to a run |
//! | `trace_id`, `span_id` | if the run belongs to a trace |
//! | `operation`, `attempt` | within agents and steps |
//! | `task_id`, `agent_type`, `agent_id` | within agents |
//! | `code` | the code of an error, in lines about one |
//!
//! Fields of the event and of the spans around it follow; the innermost wins. A workflow logs nothing
//! while its run is replayed.
//!
//! # Guarantees
//!
//! - A slow or failing output never blocks the program. At most 8,192 lines and 16 MiB are queued;
//!   further lines are dropped, and a later line reports how many.
//! - Values of fields whose names are listed in `log.redact`, or that contain `password`, `secret`,
//!   `token`, `api_key`, `authorization` or `cookie`, are written as `***`. Numbers in fields whose names end
//!   in `tokens`, such as `input_tokens`, are written. [`Secret`](crate::config::Secret)s are never written.
//! - If the program has installed a subscriber, it is not replaced, and this module writes nothing.

mod guard;
mod logs;
mod metrics;
#[cfg(feature = "otlp")]
#[cfg_attr(docsrs, doc(cfg(feature = "otlp")))]
pub mod otlp;
pub mod traces;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use parking_lot::Mutex;
use tracing::{Dispatch, debug};

use self::logs::Logs;
#[cfg(feature = "otlp")]
#[cfg_attr(docsrs, doc(cfg(feature = "otlp")))]
pub use self::metrics::MetricsExporter;
pub use self::{
    guard::{LogControl, TelemetryGuard},
    metrics::{Metrics, measure_requests},
};
use crate::config::{LogFormat, LogOutput, LogSettings, Settings};

/// The log that this process writes. `tracing` keeps its subscriber for the rest of the process, so
/// telemetry that is started later writes the same one.
static STARTED: Mutex<Option<Logs>> = Mutex::new(None);

/// A builder for the telemetry of a process.
///
/// # Examples
///
/// In a test, the subscriber is installed for one thread, and the lines are kept:
///
/// ```
/// use std::io::{self, Write};
/// use std::sync::Arc;
///
/// use aios_service::{config::Settings, telemetry::Telemetry};
/// use parking_lot::Mutex;
///
/// #[derive(Clone, Default)]
/// struct Lines(Arc<Mutex<Vec<u8>>>);
///
/// impl Write for Lines {
///     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
///         self.0.lock().write(bytes)
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = Settings::builder().environment([("AIOS_LOG_FORMAT", "json")]).load()?;
/// let lines = Lines::default();
/// let (subscriber, guard) = Telemetry::from_settings(&settings).log_output(lines.clone()).build()?;
/// tracing::dispatcher::with_default(&subscriber, || {
///     tracing::info!(order = 7, password = "s3cr3t", "an order arrived");
/// });
/// assert!(guard.flush());
/// let text = String::from_utf8(lines.0.lock().clone())?;
/// assert!(text.contains(r#""order":7"#) && !text.contains("s3cr3t"));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Telemetry {
    /// The section of the settings.
    log: LogSettings,
    /// Overrides the output of the settings.
    output: Option<Box<dyn Write + Send>>,
}

impl Telemetry {
    /// Begins with the section `log` of the settings.
    pub fn from_settings(settings: &Settings) -> Self {
        Self { log: settings.log().clone(), output: None }
    }

    /// Writes the log to `output` instead of `log.output`, on a dedicated thread.
    pub fn log_output(mut self, output: impl Write + Send + 'static) -> Self {
        self.output = Some(Box::new(output));
        self
    }

    /// Starts the telemetry for the whole process. If the program has installed a subscriber of `tracing`,
    /// it is not replaced, and nothing is written.
    ///
    /// Telemetry that was started before, such as that of a service that has ended, continues: the levels
    /// are set again, and the format and the output stay.
    ///
    /// # Errors
    ///
    /// An error of the operating system if a thread cannot be created.
    pub fn start(self) -> io::Result<TelemetryGuard> {
        let mut started = STARTED.lock();
        if let Some(logs) = &*started {
            logs.set_filter(&self.log);
            return Ok(TelemetryGuard::new(logs.clone()));
        }
        let (dispatch, logs) = self.logs()?;
        match tracing::dispatcher::set_global_default(dispatch) {
            Ok(()) => {
                *started = Some(logs.clone());
                Ok(TelemetryGuard::new(logs))
            }
            Err(_) => {
                debug!("the program has a subscriber of its own, which gets all events");
                Ok(TelemetryGuard::none())
            }
        }
    }

    /// Creates the subscriber without installing it, for programs and tests that do so themselves.
    ///
    /// # Errors
    ///
    /// An error of the operating system if a thread cannot be created.
    pub fn build(self) -> io::Result<(Dispatch, TelemetryGuard)> {
        let (dispatch, logs) = self.logs()?;
        Ok((dispatch, TelemetryGuard::new(logs)))
    }

    /// Creates the subscriber and its log.
    fn logs(self) -> io::Result<(Dispatch, Logs)> {
        let is_terminal = match (&self.output, self.log.output) {
            (Some(_), _) => false,
            (None, LogOutput::Stderr) => io::stderr().is_terminal(),
            (None, LogOutput::Stdout) => io::stdout().is_terminal(),
        };
        let is_json = match self.log.format {
            LogFormat::Auto => !is_terminal,
            LogFormat::Json => true,
            LogFormat::Text => false,
        };
        let output = self.output.unwrap_or_else(|| match self.log.output {
            LogOutput::Stderr => Box::new(io::stderr()),
            LogOutput::Stdout => Box::new(io::stdout()),
        });
        logs::logs(&self.log, is_json, output)
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Telemetry").field("log", &self.log).finish_non_exhaustive()
    }
}
