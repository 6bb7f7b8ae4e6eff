//! Sends spans until the collector accepts them, they are too old, or the process ends.
//!
//! ```text
//! Running ── flush ──► Flushing ── the last one is done ──► Running
//!    └────────── stop ──┴─────► Stopped (final)
//! ```
//!
//! While it runs, spans are gathered for a moment, so that requests are large. A flush ends the
//! gathering; a stop ends everything, also an attempt in progress.

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    clock::Clock,
    event::{EventId, Timestamp},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::telemetry::{
    otlp::{Collector, CollectorError, MAX_WANTED_PAUSE, Receipt},
    traces::Span,
};

/// How many spans a request has.
const BATCH: usize = 512;
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a failing collector may be silent in the log.
const REPORT: Duration = Duration::from_secs(60);

/// State of an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It gathers spans, to send many at once.
    Running,
    /// It sends everything as soon as possible, because this number of flushes are waiting.
    Flushing(usize),
    /// It sends nothing any more.
    Stopped,
}

/// A flush in progress, which ends when it is dropped.
pub(super) struct Flush<'e>(&'e watch::Sender<Phase>);

impl<'e> Flush<'e> {
    /// Begins a flush, or joins others.
    pub(super) fn begin(phase: &'e watch::Sender<Phase>) -> Self {
        phase.send_modify(|phase| {
            *phase = match *phase {
                Phase::Running => Phase::Flushing(1),
                Phase::Flushing(flushes) => Phase::Flushing(flushes.saturating_add(1)),
                Phase::Stopped => Phase::Stopped,
            }
        });
        Self(phase)
    }
}

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|phase| {
            *phase = match *phase {
                Phase::Flushing(flushes @ 2..) => Phase::Flushing(flushes.saturating_sub(1)),
                Phase::Flushing(_) | Phase::Running => Phase::Running,
                Phase::Stopped => Phase::Stopped,
            }
        });
    }
}

/// The exporter was stopped before the collector accepted the spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

/// Sends spans.
pub(crate) struct Delivery {
    /// Where spans go.
    collector: Collector,
    /// Pauses and ages.
    clock: Arc<dyn Clock>,
    /// Set by the owner of the exporter.
    phase: watch::Receiver<Phase>,
    /// Spans that ended longer ago are dropped if the collector has accepted none for as long.
    max_age: Duration,
    /// Time since which each attempt has failed; `None` after the collector has accepted or refused spans.
    failing_since: Mutex<Option<Duration>>,
}

impl Delivery {
    /// A delivery to a collector.
    pub(crate) fn new(
        collector: Collector,
        clock: Arc<dyn Clock>,
        phase: watch::Receiver<Phase>,
        max_age: Duration,
    ) -> Self {
        Self { collector, clock, phase, max_age, failing_since: Mutex::default() }
    }

    /// Waits, unless the phase changes.
    pub(crate) async fn gather(&self, time: Duration) {
        let mut phase = self.phase.clone();
        tokio::select! {
            biased;
            // An error means that the exporter was dropped.
            _ = phase.wait_for(|phase| *phase != Phase::Running) => {}
            () = self.clock.sleep(time) => {}
        }
    }

    /// Sends all spans, in the order in which they ended.
    pub(crate) async fn deliver(&self, spans: Vec<Span>) -> Result<(), Stopped> {
        if spans.is_empty() {
            return Ok(());
        }
        let mut phase = self.phase.clone();
        let delivering = async {
            let mut spans = spans.into_iter();
            while spans.len() > 0 {
                self.deliver_batch(spans.by_ref().take(BATCH)).await;
            }
        };
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Err(Stopped),
            () = delivering => Ok(()),
        }
    }

    /// Sends a batch until it is taken or has to be dropped: if it is refused, or if it is old and the
    /// collector has failed for long. Even then it is sent again once, after a pause, so that a collector that
    /// comes back does not find that all spans which waited for it are gone.
    async fn deliver_batch(&self, batch: impl Iterator<Item = Span>) {
        let (mut spans, mut newest) = (0, Timestamp::UNIX_EPOCH);
        let batch = batch.inspect(|span| {
            spans += 1;
            newest = newest.max(span.end.unwrap_or(Timestamp::UNIX_EPOCH));
        });
        let request = self.collector.request(batch);
        let mut pause = PAUSE.0;
        let mut reported = None;
        loop {
            let error = match self.collector.send_request(&request).await {
                Ok(receipt) => {
                    *self.failing_since.lock() = None;
                    if reported.is_some() {
                        info!("the collector of traces accepts spans again");
                    }
                    return taken(spans, &receipt);
                }
                Err(error) => error,
            };
            let now = self.clock.elapsed();
            if !error.is_retryable() {
                *self.failing_since.lock() = None;
                return dropped(spans, &error);
            }
            let since = *self.failing_since.lock().get_or_insert(now);
            let gives_up = reported.is_some() && now.saturating_sub(since) > self.max_age;
            if gives_up && self.is_too_old(newest) {
                return dropped(spans, &error);
            }
            if reported.is_none_or(|last| now.saturating_sub(last) >= REPORT) {
                warn!(error = %Chain(&error), code = error.code(), "could not send spans; trying again");
                reported = Some(now);
            }
            let wanted = error.retry_after().unwrap_or_default().min(MAX_WANTED_PAUSE);
            self.clock.sleep(jittered(pause).max(wanted)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether even the newest span of a batch, which ended at this time, ended too long ago.
    fn is_too_old(&self, newest: Timestamp) -> bool {
        self.clock.now().duration_since(newest) > self.max_age
    }
}

/// Counts what the collector has taken and rejected.
fn taken(spans: u64, receipt: &Receipt) {
    let Receipt { rejected, message } = receipt;
    metrics::counter!("aios_trace_spans_sent_total").increment(spans.saturating_sub(*rejected));
    if *rejected > 0 || message.is_some() {
        let message = message.as_deref();
        warn!(rejected, reason = message, "the collector of traces does not accept every span");
    }
    if *rejected > 0 {
        metrics::counter!("aios_trace_spans_dropped_total", "reason" => "rejected")
            .increment(*rejected);
    }
}

/// Counts and reports spans that are not sent.
fn dropped(spans: u64, error: &CollectorError) {
    warn!(
        error = %Chain(error), code = error.code(), spans,
        "dropped spans; `aios trace RUN --export URL` sends the spans of a run again"
    );
    let reason = if error.is_retryable() { "too_old" } else { "refused" };
    metrics::counter!("aios_trace_spans_dropped_total", "reason" => reason).increment(spans);
}

/// A pause between half of this one and all of it.
fn jittered(pause: Duration) -> Duration {
    // The last byte of a new id is random.
    let random = EventId::generate().key().as_bytes().last().copied().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aios_agents::trace::{SpanId, TraceId};
    use aios_core::{BoxFuture, clock::VirtualClock};
    use axum::{Router, http::StatusCode};

    use super::*;
    use crate::{
        http::{Shutdown, serve},
        telemetry::traces::{SpanKind, SpanStatus},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    /// Time passes only while it is slept.
    #[derive(Debug, Default)]
    struct Sleeper {
        clock: VirtualClock,
        slept: Mutex<Vec<Duration>>,
    }

    impl Clock for Sleeper {
        fn now(&self) -> Timestamp {
            self.clock.now()
        }

        fn elapsed(&self) -> Duration {
            self.clock.elapsed()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.slept.lock().push(duration);
            self.clock.advance(duration);
            Box::pin(std::future::ready(()))
        }

        fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
            self.clock.sleep_until(deadline)
        }
    }

    fn span(end: Timestamp) -> Span {
        let event = EventId::generate();
        Span {
            trace_id: TraceId::of_run(&event),
            span_id: SpanId::of_run(&event),
            parent: None,
            name: "run".to_owned(),
            kind: SpanKind::Internal,
            start: end,
            end: Some(end),
            status: SpanStatus::Ok,
            attributes: Vec::new(),
            links: Vec::new(),
        }
    }

    /// A collector that fails as often, and how often it was asked.
    async fn collector(failures: usize) -> (Collector, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answer = async move || match count.fetch_add(1, Ordering::SeqCst) {
            number if number < failures => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer);
        tokio::spawn(serve(listener, router, Shutdown::new()));
        (Collector::new(&url, "test").unwrap(), asked)
    }

    /// A service that starts after a day has old spans, and the collector may fail for a moment.
    #[tokio::test]
    async fn should_send_old_spans_again_after_a_failure() {
        let (collector, asked) = collector(3).await;
        let sleeper = Arc::new(Sleeper::default());
        sleeper.clock.advance(HOUR * 24);
        let (_phase, phase) = watch::channel(Phase::Running);
        let delivery = Delivery::new(collector, Arc::clone(&sleeper) as Arc<_>, phase, HOUR);
        delivery.deliver(vec![span(Timestamp::UNIX_EPOCH)]).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    /// Each further batch of old spans gets a second attempt, after a pause.
    #[tokio::test]
    async fn should_drop_old_spans_when_the_collector_has_failed_for_long_enough() {
        let (collector, asked) = collector(usize::MAX).await;
        let sleeper = Arc::new(Sleeper::default());
        sleeper.clock.advance(HOUR * 24);
        let (_phase, phase) = watch::channel(Phase::Running);
        let delivery = Delivery::new(collector, Arc::clone(&sleeper) as Arc<_>, phase, HOUR);
        delivery.deliver(vec![span(Timestamp::UNIX_EPOCH)]).await.unwrap();
        let slept: Duration = sleeper.slept.lock().drain(..).sum();
        assert!(slept > HOUR && slept < HOUR + PAUSE.1 * 2, "{slept:?}");
        let before = asked.load(Ordering::SeqCst);
        delivery.deliver(vec![span(Timestamp::UNIX_EPOCH)]).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), before + 2);
        assert_eq!(sleeper.slept.lock().len(), 1);
    }
}
