//! The handle of the export of metrics.

use std::{fmt, sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_core::{
    clock::{Clock, SystemClock},
    event::EventId,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::worker::{Flush, Observed, Worker};
use crate::{
    config::EXPORT_INTERVALS,
    telemetry::{
        Metrics,
        otlp::{Collector, CollectorError},
    },
};

/// Sends the metrics of a process to a collector, at the start and then at an interval. Dropping it
/// stops the export.
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::Runtime;
/// use aios_service::telemetry::{Metrics, MetricsExporter, otlp::Collector};
///
/// # async fn example(runtime: &Arc<Runtime>) -> Result<(), Box<dyn std::error::Error>> {
/// let metrics = Metrics::new();
/// assert!(metrics.install());
/// let collector = Collector::new("http://collector:4318", "orders")?;
/// let minute = Duration::from_secs(60);
/// let exporter = MetricsExporter::start(&metrics, runtime, collector, minute)?;
/// // … and at the end of the program:
/// exporter.flush(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
///
/// - Values are cumulative: each export has all of them since the start of the process. So a collector
///   that is slow or unavailable delays nothing, and the export after a failed one has its values too.
/// - An export is sent in requests of about 2 MiB, because collectors refuse more than 4 MiB by default.
///   Each ends after 10 s at most, and the first that fails ends the export.
/// - Exports are counted in `aios_metrics_exports_total` by outcome. The log tells when the outcome
///   changes.
/// - The resource has `service.name` and a random `service.instance.id`, which changes with each
///   start.
pub struct MetricsExporter {
    /// Requests to send at once; at most one waits.
    flushes: mpsc::Sender<Flush>,
    /// Shared with the worker.
    runtime: Arc<Observed>,
    /// Aborted when this is dropped.
    worker: JoinHandle<()>,
}

impl MetricsExporter {
    /// Starts to export on the current tokio runtime, every `interval`, which is from 1 s to a day. Each
    /// export also reads the state of `runtime`, which the exporter does not keep alive.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if the interval is out of range.
    ///
    /// # Panics
    ///
    /// If it is called outside a tokio runtime.
    pub fn start(
        metrics: &Metrics,
        runtime: &Arc<Runtime>,
        collector: Collector,
        interval: Duration,
    ) -> Result<Self, CollectorError> {
        let (shortest, longest) = EXPORT_INTERVALS;
        if !(shortest..=longest).contains(&interval) {
            let reason = format!("the interval must be from 1s to 1d, not {interval:?}");
            return Err(CollectorError::InvalidConfiguration { reason });
        }
        let runtime = Arc::new(Observed::new(runtime));
        let (flushes, requests) = mpsc::channel(1);
        let worker = Worker {
            metrics: metrics.clone(),
            runtime: Arc::clone(&runtime),
            collector,
            instance: EventId::generate().to_string(),
            interval,
            clock: Arc::new(SystemClock),
            outcome: None,
        };
        Ok(Self { flushes, runtime, worker: tokio::spawn(worker.work(requests)) })
    }

    /// Stops reading the state of the runtime, so that
    /// [`Runtime::shutdown`](aios_agents::Runtime::shutdown) can take it out of its `Arc`.
    pub fn detach(&self) {
        self.runtime.detach();
    }

    /// Sends the current values. Returns whether the collector accepted them in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. The values may or may not have been sent; the next export has them too.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let (done, flushed) = oneshot::channel();
        let flushing =
            async { self.flushes.send(done).await.is_ok() && flushed.await.unwrap_or(false) };
        tokio::select! {
            biased;
            flushed = flushing => flushed,
            () = SystemClock.sleep(timeout) => false,
        }
    }
}

impl fmt::Debug for MetricsExporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MetricsExporter").finish_non_exhaustive()
    }
}

impl Drop for MetricsExporter {
    fn drop(&mut self) {
        self.worker.abort();
    }
}
