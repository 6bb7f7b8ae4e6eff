//! A bounded queue of spans that are not in any journal.
//!
//! Spans of requests can't be made again, so they are sent as soon as possible and for a short time
//! only. A request never waits for the queue: a span that finds it full is dropped and counted.

use std::{sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use tokio::{
    sync::{
        mpsc::{self, Receiver, Sender},
        oneshot, watch,
    },
    task::JoinHandle,
};

use super::{Delivery, Phase, delivery::Flush};
use crate::telemetry::{
    otlp::Collector,
    traces::{RequestSpans, Span},
};

/// How many spans may wait. Further ones are dropped and counted.
const CAPACITY: usize = 2048;
/// How many spans are sent together.
const BATCH: usize = 512;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_millis(500);
/// How long spans are sent again while the collector does not accept them.
const MAX_AGE: Duration = Duration::from_secs(120);

/// Sends the spans of requests to a collector, in the background. Dropping it ends that.
///
/// Spans of runs come from the log; see [`TraceExporter`](super::TraceExporter). Those of requests exist only in
/// the process that handles the request. They wait in a bounded queue, and are dropped and counted in
/// `aios_trace_spans_dropped_total` if it is full, or if the collector takes none for 2 minutes. A
/// [`Service`](crate::Service) does this by itself.
///
/// # Examples
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::Runtime;
/// use aios_service::{
///     http::{ApiOptions, api},
///     telemetry::{otlp::Collector, traces::RequestExporter},
/// };
///
/// # async fn example(runtime: Arc<Runtime>) -> Result<(), Box<dyn std::error::Error>> {
/// let collector = Collector::new("http://localhost:4318", "shop")?;
/// let requests = RequestExporter::start(collector);
/// let options = ApiOptions::new().with_request_spans(requests.spans());
/// let router = axum::Router::new().nest("/api/v1", api(runtime, options));
/// // Serve the router, and send what is left at the end.
/// # drop(router);
/// requests.flush(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RequestExporter {
    /// To the worker.
    spans: Sender<Item>,
    /// Tells the delivery what to do.
    phase: watch::Sender<Phase>,
    /// Aborted when the queue is dropped.
    worker: JoinHandle<()>,
}

/// Work of the worker.
#[derive(Debug)]
enum Item {
    /// A span to send.
    Span(Box<Span>),
    /// Answered once all spans before it were sent or dropped.
    Flush(oneshot::Sender<()>),
}

impl RequestExporter {
    /// Starts the queue, on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(collector: Collector) -> Self {
        let (spans, queue) = mpsc::channel(CAPACITY);
        let (phase, receiver) = watch::channel(Phase::Running);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let delivery = Delivery::new(collector, clock, receiver, MAX_AGE);
        let worker = tokio::spawn(work(queue, delivery));
        Self { spans, phase, worker }
    }

    /// Returns what takes the spans, for [`ApiOptions::with_request_spans`](crate::http::ApiOptions::with_request_spans).
    /// It never waits.
    #[must_use]
    pub fn spans(&self) -> RequestSpans {
        let spans = self.spans.clone();
        RequestSpans::new(move |span| {
            if spans.try_send(Item::Span(Box::new(span))).is_err() {
                metrics::counter!("aios_trace_spans_dropped_total", "reason" => "queue_full")
                    .increment(1);
            }
        })
    }

    /// Sends what waits. Returns whether it was sent, or dropped, in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the spans are sent all the same.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let _flush = Flush::begin(&self.phase);
        let (done, flushed) = oneshot::channel();
        let flushing =
            async { self.spans.send(Item::Flush(done)).await.is_ok() && flushed.await.is_ok() };
        tokio::select! {
            biased;
            flushed = flushing => flushed,
            () = SystemClock.sleep(timeout) => false,
        }
    }
}

impl Drop for RequestExporter {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Gathers spans for a moment, and delivers them in batches, until the queue is dropped or the
/// delivery ends. A flush cuts the gathering short.
async fn work(mut queue: Receiver<Item>, delivery: Delivery) {
    let mut items = Vec::new();
    while queue.recv_many(&mut items, BATCH).await > 0 {
        if items.len() < BATCH && !items.iter().any(|item| matches!(item, Item::Flush(_))) {
            delivery.gather(GATHER).await;
        }
        let mut spans = Vec::new();
        let mut flushed = Vec::new();
        while items.len() < BATCH
            && let Ok(item) = queue.try_recv()
        {
            items.push(item);
        }
        for item in items.drain(..) {
            match item {
                Item::Span(span) => spans.push(*span),
                Item::Flush(done) => flushed.push(done),
            }
        }
        if delivery.deliver(spans).await.is_err() {
            return;
        }
        for done in flushed {
            // The caller may have given up.
            let _ = done.send(());
        }
    }
}
