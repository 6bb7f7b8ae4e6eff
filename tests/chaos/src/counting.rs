//! Counts the appends of a process that the store refused because of their fence, and tells the harness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The interval at which the count is compared with the last one.
const PAUSE: Duration = Duration::from_millis(100);
/// The metric that is counted.
const FENCED: &str = "aios_appends_fenced_total";
/// Prefix of a line for the harness.
pub(crate) const LINE: &str = "fenced ";

/// Keeps one metric.
struct Counting(Arc<AtomicU64>);

/// Prints the number of refused appends whenever it has grown.
pub(crate) fn begin() {
    let count = Arc::new(AtomicU64::new(0));
    metrics::set_global_recorder(Counting(Arc::clone(&count))).expect("there is no recorder yet");
    thread::spawn(move || {
        let mut printed = 0;
        loop {
            thread::sleep(PAUSE);
            let now = count.load(Ordering::Relaxed);
            if now > printed {
                println!("{LINE}{}", now - printed);
                printed = now;
            }
        }
    });
}

impl Recorder for Counting {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            FENCED => Counter::from_arc(Arc::clone(&self.0)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
