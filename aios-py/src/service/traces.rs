//! Export of the traces of runs, and of the requests that start them, to a collector.
//!
//! At the end, spans and metrics share [`FLUSH_TIMEOUT`]. Traces come first, because they are read
//! from the store; the metrics include what happens until the runtime has stopped, and always have
//! [`METRICS_FLUSH_TIMEOUT`] left.
//!
//! Spans of runs that are not sent in time are not lost: the exporter sends them after the next start.

use std::time::Duration;

use aios_agents::Runtime;
use aios_core::{
    catalog::codes,
    clock::{Clock, SystemClock},
};
use aios_service::telemetry::{
    otlp::{Collector, CollectorError},
    traces::{RequestExporter, RequestSpans, TraceExporter},
};
use tracing::warn;

use crate::convert::{CollectorArg, errors::ErrorInfo};

/// How long sending traces and metrics may take at the end, together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The part of it that traces leave to the metrics, whose last values come later.
const METRICS_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends the spans of runs and of requests.
pub(crate) struct Traces {
    runs: TraceExporter,
    requests: RequestExporter,
}

impl Traces {
    /// Starts the exporters.
    pub(crate) async fn start(runtime: &Runtime, collector: Collector) -> Result<Self, ErrorInfo> {
        let runs = TraceExporter::start(runtime, collector.clone()).await?;
        Ok(Self { runs, requests: RequestExporter::start(collector) })
    }

    /// Takes the spans of requests.
    pub(crate) fn requests(&self) -> RequestSpans {
        self.requests.spans()
    }

    /// Sends what is left, and then nothing more.
    async fn end(self, timeout: Duration) {
        let (runs, requests) = tokio::join!(self.runs.flush(timeout), self.requests.flush(timeout));
        if !runs {
            warn!("spans of runs were not sent before the end; they are sent after the next start");
        }
        if !requests {
            warn!("spans of requests were not sent before the end");
        }
        self.runs.stop();
    }
}

/// Sends the traces that are left, and returns how long the metrics may take.
pub(crate) async fn end_traces(traces: Option<Traces>, deadline: Duration) -> Duration {
    let begun = SystemClock.elapsed();
    if let Some(traces) = traces {
        traces.end(deadline.min(FLUSH_TIMEOUT.saturating_sub(METRICS_FLUSH_TIMEOUT))).await;
    }
    let took = SystemClock.elapsed().saturating_sub(begun);
    FLUSH_TIMEOUT.saturating_sub(took).max(METRICS_FLUSH_TIMEOUT)
}

/// Checks a collector of traces or metrics.
pub(crate) fn collector(argument: CollectorArg, of: &str) -> Result<Collector, ErrorInfo> {
    let (endpoint, service_name, headers, protocol) = argument;
    let invalid = |error: CollectorError| {
        let message = format!("{of}: {error}");
        ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message)
    };
    let protocol = serde_json::from_value(protocol.as_str().into()).map_err(|_| {
        let message = format!("{of}: the protocol is http/protobuf or grpc, not {protocol:?}");
        ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message)
    })?;
    let mut collector = Collector::new(&endpoint, &service_name)
        .and_then(|collector| collector.try_with_protocol(protocol))
        .map_err(invalid)?;
    for (name, value) in headers {
        collector = collector.try_with_header(&name, &value).map_err(invalid)?;
    }
    Ok(collector)
}
