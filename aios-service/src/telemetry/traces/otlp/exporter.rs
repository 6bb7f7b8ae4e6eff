//! The export of the spans of runs, as a projection of the log.

use std::{fmt, sync::Arc, time::Duration};

use aios_agents::{
    Runtime, RuntimeError,
    projection::{Batch, Projection, ProjectionHandle},
};
use aios_core::{
    agent::TaskError,
    catalog::codes,
    clock::{Clock, SystemClock},
    failure::Failure,
    retry::RetryPolicy,
};
use tokio::sync::{Mutex, watch};

use super::{Delivery, Phase, cache::Cache, delivery::Flush};
use crate::telemetry::otlp::Collector;

/// Name of the projection. Its position is kept in the store.
const NAME: &str = "aios_traces";
/// How many events are handled together.
const BATCH: usize = 500;
/// How long spans are gathered while the log grows slowly.
const GATHER: Duration = Duration::from_millis(200);
/// How old spans are, and how long the collector has failed, before they are dropped.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How often to check whether everything was sent.
const PAUSE: Duration = Duration::from_millis(20);

/// Sends the spans of all runs to a collector.
///
/// It follows the log, from its own position in the store: a span is sent once its end is committed, with
/// the recorded times, whichever engine did the work, and nothing is sent because a run is replayed. One
/// process at a time sends; if it dies, another one continues from its position. The position is saved
/// after the collector has taken the spans, so a crash in between sends them twice, with the same ids and
/// the same content.
///
/// - A collector that is slow or unreachable delays spans, and nothing else. The log is the queue. Once no
///   attempt of this process has succeeded for an hour, spans that ended more than an hour ago are dropped,
///   and counted in `aios_trace_spans_dropped_total`. [Retention](aios_core::store::Maintenance) keeps the events until
///   then.
/// - Runs whose `traceparent` says that the trace is not recorded are left out.
/// - The first export from a store begins at the end of its log: spans that ended before are not sent.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_agents::Runtime;
/// use aios_service::telemetry::{otlp::Collector, traces::TraceExporter};
///
/// # async fn example(runtime: Runtime, collector: Collector) -> Result<(), Box<dyn std::error::Error>> {
/// let exporter = TraceExporter::start(&runtime, collector).await?;
/// // … at the end of the program:
/// exporter.flush(Duration::from_secs(5)).await;
/// exporter.stop();
/// runtime.shutdown(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
pub struct TraceExporter {
    /// Tells the delivery what to do.
    phase: watch::Sender<Phase>,
    /// Of the projection that follows the log.
    handle: ProjectionHandle,
    /// The clock of time limits.
    clock: Arc<dyn Clock>,
}

impl TraceExporter {
    /// Starts to export. It ends with the runtime.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if the runtime has no store; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// A cancelled start may have saved the position from which a later one begins.
    pub async fn start(runtime: &Runtime, collector: Collector) -> Result<Self, RuntimeError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (phase, receiver) = watch::channel(Phase::Running);
        let store = runtime.store().ok_or_else(|| RuntimeError::InvalidConfiguration {
            reason: "a runtime without a store has no traces".to_owned(),
        })?;
        let delivery = Delivery::new(collector, Arc::clone(&clock), receiver, MAX_AGE);
        let cache = Mutex::new(Cache::new(Arc::clone(store)));
        let handle = runtime
            .projection(NAME, Exporting { delivery, cache })
            .batch_size(BATCH)
            .retry(RetryPolicy::new().with_max_attempts(0))
            .from_end_of_log()
            .await?;
        Ok(Self { phase, handle, clock })
    }

    /// Sends the spans of everything that the log contains now, without delay. Returns whether they were
    /// sent in time. Another process may be the one that sends.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let _flush = Flush::begin(&self.phase);
        let sent = async { self.reach_end().await.is_ok() };
        tokio::select! {
            biased;
            sent = sent => sent,
            () = self.clock.sleep(timeout) => false,
        }
    }

    /// Waits until everything that the log contains now was handled.
    async fn reach_end(&self) -> Result<(), RuntimeError> {
        let end = self.handle.position().await? + self.handle.lag().await?;
        while self.handle.position().await? < end {
            self.clock.sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Stops the export, so that the runtime shuts down without waiting for the collector. Spans that
    /// were not sent are sent by another process, or after the next start.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }
}

impl fmt::Debug for TraceExporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TraceExporter").finish_non_exhaustive()
    }
}

/// The projection.
struct Exporting {
    /// Sends the spans.
    delivery: Delivery,
    /// The runs in memory. Locked by one batch at a time.
    cache: Mutex<Cache>,
}

impl Projection for Exporting {
    async fn apply(&self, batch: Batch) -> Result<(), TaskError> {
        let mut spans = Vec::new();
        {
            let mut cache = self.cache.lock().await;
            for recorded in batch.events() {
                cache.add_spans(recorded, &mut spans).await?;
            }
        }
        if batch.events().len() < BATCH {
            self.delivery.gather(GATHER).await;
        }
        self.delivery.deliver(spans).await.map_err(|_| {
            // Tried again by the process that holds the lease next.
            TaskError::retryable(Failure::new(
                codes::PROJECTION_STOPPED,
                "the export of traces was stopped",
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use aios_agents::prelude::*;
    use futures_util::FutureExt;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn nothing(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        Ok(())
    }

    #[tokio::test]
    async fn should_gather_again_after_the_last_flush_has_ended_or_was_cancelled() {
        let builder = Runtime::builder()
            .store(aios_store::connect("memory://").await.unwrap())
            .broker(aios_broker::connect("memory://").await.unwrap());
        let runtime = builder.workflow("nothing", nothing).start().await.unwrap();
        // Nothing listens on this port.
        let collector = Collector::new("http://127.0.0.1:1", "test").unwrap();
        let exporter = TraceExporter::start(&runtime, collector).await.unwrap();
        let run = runtime.start("nothing", &()).id("r1").await.unwrap();
        run.result::<()>().await.unwrap();

        let mut cancelled = Box::pin(exporter.flush(HOUR));
        assert_eq!((&mut cancelled).now_or_never(), None);
        assert!(!exporter.flush(PAUSE).await);
        assert_ne!(*exporter.phase.borrow(), Phase::Running, "one flush is in progress");
        drop(cancelled);
        assert_eq!(*exporter.phase.borrow(), Phase::Running);

        let flushing = exporter.flush(PAUSE);
        exporter.stop();
        assert!(!flushing.await);
        assert_eq!(*exporter.phase.borrow(), Phase::Stopped);
    }
}
