//! The recorder of the `metrics` facade.
//!
//! Values are atomics behind `Arc`s. A caller that keeps its handle records without a look-up. The
//! tables are locked only to find or add a series, and to list them.
//!
//! The number of series of a metric is limited, because a label with values from outside, such as a
//! path, would otherwise fill the memory. What is beyond is counted under `other`, so that sums
//! stay right.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(feature = "otlp")]
use aios_core::{
    clock::{Clock, SystemClock},
    event::Timestamp,
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::RwLock;

use super::{Metrics, histogram::Buckets, process};

/// Most combinations of the values of the labels of a metric.
const MAX_SERIES: usize = 256;
/// The value of every label of the combinations above.
const OTHER: &str = "other";

/// The values, by name and labels.
#[derive(Debug)]
pub(super) struct Series {
    /// When every counter and histogram was 0.
    #[cfg(feature = "otlp")]
    pub(super) since: Timestamp,
    /// Values that only grow.
    counters: Table<AtomicU64>,
    /// The bits of floating-point numbers.
    gauges: Table<AtomicU64>,
    /// Distributions.
    histograms: Table<Buckets>,
    /// As the program describes its own metrics.
    descriptions: RwLock<HashMap<KeyName, SharedString>>,
}

#[cfg_attr(
    not(feature = "otlp"),
    allow(clippy::derivable_impls, reason = "with the feature, `since` is the time now")
)]
impl Default for Series {
    fn default() -> Self {
        Self {
            #[cfg(feature = "otlp")]
            since: SystemClock.now(),
            counters: Table::default(),
            gauges: Table::default(),
            histograms: Table::default(),
            descriptions: RwLock::default(),
        }
    }
}

/// A value of any kind.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number that only grows.
    Counter(u64),
    /// Seconds, with fractions, that only grow. The facade has whole numbers only, so this is not
    /// recorded but read.
    Seconds(f64),
    /// The state at one time.
    Gauge(f64),
    /// A distribution.
    Histogram(Arc<Buckets>),
}

impl Value {
    /// The kind, as OpenMetrics names it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) | Self::Seconds(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl Series {
    /// All values: counters, then gauges, then histograms. The time of the processor is that of this
    /// moment.
    pub(super) fn values(&self) -> impl Iterator<Item = (Key, Value)> {
        let counters = self.counters.all().into_iter();
        let counters =
            counters.map(|(key, value)| (key, Value::Counter(value.load(Ordering::Acquire))));
        let gauges = self.gauges.all().into_iter();
        let gauges = gauges
            .map(|(key, value)| (key, Value::Gauge(f64::from_bits(value.load(Ordering::Acquire)))));
        let histograms = self.histograms.all().into_iter();
        let histograms = histograms.map(|(key, value)| (key, Value::Histogram(value)));
        let processor = process::cpu_seconds().map(Value::Seconds);
        let processor = processor.map(|value| (Key::from_static_name(process::CPU_SECONDS), value));
        counters.chain(processor).chain(gauges).chain(histograms)
    }

    /// The description of a metric of the program.
    pub(super) fn description(&self, name: &str) -> Option<SharedString> {
        let descriptions = self.descriptions.read();
        descriptions.get(name).cloned()
    }

    /// Keeps a description.
    fn describe(&self, name: KeyName, description: SharedString) {
        let mut descriptions = self.descriptions.write();
        descriptions.insert(name, description);
    }
}

/// The values of one kind.
#[derive(Debug)]
pub(super) struct Table<T>(RwLock<HashMap<Key, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Table<T> {
    /// All series.
    fn all(&self) -> Vec<(Key, Arc<T>)> {
        let values = self.0.read();
        values.iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    /// The value of a series, which is added if it is new.
    fn find(&self, key: &Key, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = self.0.read().get(key) {
            return Arc::clone(known);
        }
        let mut values = self.0.write();
        let of_name = values.keys().filter(|known| known.name() == key.name()).count();
        let key = match of_name < MAX_SERIES || values.contains_key(key) {
            // Borrowed parts may be of the caller only for the time of the call.
            true => key.to_retained(),
            false => other(key),
        };
        Arc::clone(values.entry(key).or_insert_with(|| Arc::new(make())))
    }
}

/// The series of the combinations beyond the limit.
fn other(key: &Key) -> Key {
    let labels: Vec<_> =
        key.labels().map(|label| Label::new(label.key().to_owned(), OTHER)).collect();
    Key::from_parts(key.name().to_owned(), labels)
}

impl Recorder for Metrics {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.0.describe(key, description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.0.describe(key, description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.0.describe(key, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.counters.find(key, AtomicU64::default))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.gauges.find(key, AtomicU64::default))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.0.histograms.find(key, || Buckets::of(key.name())))
    }
}
