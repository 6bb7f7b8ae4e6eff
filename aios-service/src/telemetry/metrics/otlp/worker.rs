//! The task that exports metrics.
//!
//! It exports at the interval, counted from the beginning of an export, and at once for a flush.
//! Values are cumulative, so an export that failed is not repeated: the next one has its values
//! too. The runtime is held weakly, and only while its state is read, so that the export never
//! delays its shutdown.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use aios_agents::Runtime;
use aios_core::{Chain, clock::Clock};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::message::requests;
use crate::telemetry::{
    Metrics,
    otlp::{Collector, CollectorError, MAX_WANTED_PAUSE, Receipt, Signal},
};

/// Answered with whether the collector accepted the values.
pub(super) type Flush = oneshot::Sender<bool>;

/// A runtime whose state is exported, while it exists.
#[derive(Debug)]
pub(super) struct Observed(Mutex<Weak<Runtime>>);

impl Observed {
    /// Observes a runtime without keeping it alive.
    pub(super) fn new(runtime: &Arc<Runtime>) -> Self {
        Self(Mutex::new(Arc::downgrade(runtime)))
    }

    /// Stops observing.
    pub(super) fn detach(&self) {
        *self.0.lock() = Weak::new();
    }

    /// Holds the lock while it holds the runtime, so that nothing does after `detach`.
    fn observe(&self, metrics: &Metrics) {
        let runtime = self.0.lock();
        metrics.observe(runtime.upgrade().as_deref());
    }
}

/// How an export ended. The value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything was taken.
    Sent,
    /// Some values were rejected.
    Partial,
    /// The collector refused the request.
    Refused,
    /// There was no answer.
    Unreachable,
}

impl Outcome {
    /// The value of the label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

/// The state of the task.
pub(super) struct Worker {
    /// The values to export.
    pub(super) metrics: Metrics,
    /// Read before each export.
    pub(super) runtime: Arc<Observed>,
    /// Where values are sent.
    pub(super) collector: Collector,
    /// Random per start.
    pub(super) instance: String,
    /// Between the beginnings of two exports.
    pub(super) interval: Duration,
    pub(super) clock: Arc<dyn Clock>,
    /// The outcome of the last export.
    pub(super) outcome: Option<Outcome>,
}

impl Worker {
    /// Exports until the handle is dropped.
    pub(super) async fn work(mut self, mut flushes: mpsc::Receiver<Flush>) {
        let mut pause = Duration::ZERO;
        loop {
            let next = async {
                self.clock.sleep(pause).await;
                self.export_in_time().await
            };
            let flush = tokio::select! {
                biased;
                // Ends an export that is in progress: the new values replace those that it sends.
                flush = flushes.recv() => flush,
                rest = next => {
                    pause = rest;
                    continue;
                }
            };
            let Some(done) = flush else { return };
            let sent = self.export().await.is_ok();
            pause = self.interval;
            // The caller may have given up.
            let _ = done.send(sent);
        }
    }

    /// Exports, and returns how long to wait until the next export.
    async fn export_in_time(&mut self) -> Duration {
        let begun = self.clock.elapsed();
        let wanted = self.export().await.err().and_then(|error| error.retry_after());
        let took = self.clock.elapsed().saturating_sub(begun);
        self.interval.saturating_sub(took).max(wanted.unwrap_or_default().min(MAX_WANTED_PAUSE))
    }

    /// Reads the state of the process, sends all values, and reports the outcome.
    async fn export(&mut self) -> Result<(), CollectorError> {
        self.runtime.observe(&self.metrics);
        let receipt = self.send().await;
        self.report(&receipt);
        receipt.map(|_| ())
    }

    /// Sends all values, in more than one request if one would be too large. The first failure ends that.
    async fn send(&self) -> Result<Receipt, CollectorError> {
        let service = self.collector.service();
        let requests = requests(service, &self.instance, &self.metrics.0, self.clock.now());
        let mut total = Receipt::default();
        for request in &requests {
            let answer = self.collector.export(Signal::Metrics, request).await?;
            let ExportMetricsServiceResponse { partial_success } = answer;
            let partial = partial_success.unwrap_or_default();
            let receipt = Receipt::new(partial.rejected_data_points, &partial.error_message);
            total.rejected += receipt.rejected;
            total.message = total.message.or(receipt.message);
        }
        Ok(total)
    }

    /// Counts the outcome, and logs it if it differs from that of the export before.
    fn report(&mut self, result: &Result<Receipt, CollectorError>) {
        let outcome = match result {
            Ok(receipt) if receipt.rejected > 0 => Outcome::Partial,
            Ok(_) => Outcome::Sent,
            Err(CollectorError::Unreachable { .. }) => Outcome::Unreachable,
            Err(_) => Outcome::Refused,
        };
        metrics::with_local_recorder(&self.metrics, || {
            metrics::counter!("aios_metrics_exports_total", "outcome" => outcome.as_str())
                .increment(1);
        });
        let before = self.outcome.replace(outcome);
        if before == Some(outcome) {
            return;
        }
        match result {
            Ok(Receipt { rejected, message }) if *rejected > 0 || message.is_some() => {
                let message = message.as_deref();
                warn!(
                    rejected,
                    reason = message,
                    "the collector of metrics does not accept every value"
                );
            }
            Ok(_) if before.is_some() => info!("the collector of metrics accepts values again"),
            Ok(_) => {}
            Err(error) => warn!(
                error = %Chain(error), code = error.code(),
                "could not send metrics; the next export has their values too"
            ),
        }
    }
}
