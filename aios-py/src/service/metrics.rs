//! Export of the metrics of this process to a collector.
//!
//! Metrics belong to the process: the crates record into one global recorder, which can be
//! installed once and stays. A runtime that is configured to export metrics installs it and starts
//! an exporter. While it is open, another runtime of the process is refused the same, because each
//! would send the values of both. The guard [`Only`] makes the place free again, even when opening
//! the runtime fails. A server may answer `/metrics` with the same values.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::Runtime;
use aios_core::catalog::codes;
use aios_service::telemetry::{Metrics, MetricsExporter, otlp::Collector};
use pyo3::prelude::*;
use tracing::warn;

use crate::convert::{MetricsCollectorArg, errors::ErrorInfo};

/// The recorder, of which a process has one.
static METRICS: OnceLock<Metrics> = OnceLock::new();
/// Whether a runtime sends the metrics.
static IS_EXPORTED: AtomicBool = AtomicBool::new(false);

/// The recorder. The first call installs it.
pub(super) fn recorder() -> &'static Metrics {
    METRICS.get_or_init(|| {
        let metrics = Metrics::new();
        // Nothing else in this library installs a recorder.
        let _ = metrics.install();
        metrics
    })
}

/// Begins to record the metrics of the process.
#[pyfunction]
pub(crate) fn record_metrics() {
    recorder();
}

/// Sends metrics. One runtime of a process does.
pub(crate) struct MetricsExport {
    /// Where the metrics are sent.
    collector: Collector,
    /// How often.
    interval: Duration,
    /// The recorder of the process.
    metrics: Metrics,
    /// `None` until the runtime has started.
    exporter: Option<MetricsExporter>,
    _only: Only,
}

/// Lets another runtime send the metrics once it is dropped.
struct Only;

impl Drop for Only {
    fn drop(&mut self) {
        IS_EXPORTED.store(false, Ordering::Release);
    }
}

impl MetricsExport {
    /// Checks a collector, and begins to record.
    pub(crate) fn of(argument: MetricsCollectorArg) -> Result<Self, ErrorInfo> {
        let (collector, interval) = argument;
        let collector = super::traces::collector(collector, "metrics")?;
        let interval = Duration::try_from_secs_f64(interval).map_err(|_| {
            let message = format!(
                "the interval of a collector of metrics must be from 1 s to a day, not {interval} s"
            );
            ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message)
        })?;
        if IS_EXPORTED.swap(true, Ordering::AcqRel) {
            let message = "another runtime of this process sends the metrics already, which are those of \
                           the process; pass `metrics=` to one of them";
            return Err(ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message));
        }
        let only = Only;
        let metrics = recorder().clone();
        Ok(Self { collector, interval, metrics, exporter: None, _only: only })
    }

    /// Starts the exporter.
    pub(crate) fn start(&mut self, runtime: &Arc<Runtime>) -> Result<(), ErrorInfo> {
        let collector = self.collector.clone();
        let started = MetricsExporter::start(&self.metrics, runtime, collector, self.interval);
        self.exporter = Some(started.map_err(|error| {
            ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, error.to_string())
        })?);
        Ok(())
    }

    /// Stops reading the state of the runtime.
    pub(crate) fn detach(&self) {
        self.exporter.iter().for_each(MetricsExporter::detach);
    }

    /// Sends the last values.
    pub(crate) async fn end(self, timeout: Duration) {
        if let Some(exporter) = &self.exporter
            && !exporter.flush(timeout).await
        {
            warn!("the last values of the metrics were not sent before the end");
        }
    }
}
