//! Export of the traces of runs to a collector.

use std::time::Duration;

use aios_agents::Runtime;
use aios_service::telemetry::{
    otlp::{Collector, CollectorError},
    traces::TraceExporter,
};
use tracing::warn;

use crate::convert::{CollectorArg, errors::ErrorInfo};

/// How long sending may take at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the spans of runs.
pub(crate) struct Traces(TraceExporter);

impl Traces {
    pub(crate) async fn start(runtime: &Runtime, collector: Collector) -> Result<Self, ErrorInfo> {
        Ok(Self(TraceExporter::start(runtime, collector).await?))
    }

    /// Sends what is left, within 5 s, and then nothing more.
    pub(crate) async fn end(self, deadline: Duration) {
        if !self.0.flush(deadline.min(FLUSH_TIMEOUT)).await {
            warn!("spans of runs were not sent before the end; they are sent after the next start");
        }
        self.0.stop();
    }
}

/// Checks a collector of traces or metrics.
pub(crate) fn collector(argument: CollectorArg, of: &str) -> Result<Collector, ErrorInfo> {
    let (endpoint, service_name, headers) = argument;
    let invalid = |error: CollectorError| {
        let message = format!("{of}: {error}");
        ErrorInfo::new("runtime", "INVALID_RUNTIME_CONFIGURATION", message)
    };
    let mut collector = Collector::new(&endpoint, &service_name).map_err(invalid)?;
    for (name, value) in headers {
        collector = collector.try_with_header(&name, &value).map_err(invalid)?;
    }
    Ok(collector)
}
