//! The recorder of the `metrics` facade.
//!
//! Values are atomics behind `Arc`s. A caller that keeps its handle records without a look-up. The
//! tables are locked only to find or add a series that the thread has not used lately, and to list them.
//!
//! The number of series of a metric is limited, because a label with values from outside, such as a
//! path, would otherwise fill the memory. What is beyond is counted under `other`, so that sums
//! stay right. It keeps its `status`, so that failures are still seen.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
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

/// Maximum number of combinations of the values of the labels of a metric.
const MAX_SERIES: usize = 256;
/// Maximum number of further combinations that keep the value of their label `status`.
const MAX_STATUSES: usize = 64;
/// Series that a thread remembers, of each kind.
const RECENT: usize = 64;
/// The value of the labels of the combinations above.
const OTHER: &str = "other";
/// The label that they keep.
const STATUS: &str = "status";

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
struct Table<T> {
    /// Differs between all tables of the process.
    id: u64,
    /// All series. Threads that find a series in `Recent` do not take this lock, whose count of readers
    /// they would pass from one processor to the other for every report.
    values: RwLock<HashMap<Key, Arc<T>, BuildHasherDefault<KeyHasher>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        Self { id: TABLES.fetch_add(1, Ordering::Relaxed), values: RwLock::default() }
    }
}

impl<T: Recorded> Table<T> {
    /// All series.
    fn all(&self) -> Vec<(Key, Arc<T>)> {
        let values = self.values.read();
        values.iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    /// The value of a series, which is added if it is new.
    fn find(&self, key: &Key, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = T::with_recent(|recent| recent.get(self.id, key)).flatten() {
            return known;
        }
        let value = self.find_or_add(key, make);
        T::with_recent(|recent| recent.keep(self.id, key, &value));
        value
    }

    /// Like `find`, in the table itself.
    fn find_or_add(&self, key: &Key, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = self.values.read().get(key) {
            return Arc::clone(known);
        }
        let mut values = self.values.write();
        let of_name = values.keys().filter(|known| known.name() == key.name()).count();
        let key = if of_name < MAX_SERIES || values.contains_key(key) {
            // Borrowed parts may be of the caller only for the time of the call.
            key.to_retained()
        } else {
            let of_status = other(key, &[STATUS]);
            match of_name < MAX_SERIES + MAX_STATUSES || values.contains_key(&of_status) {
                true => of_status,
                false => other(key, &[]),
            }
        };
        Arc::clone(values.entry(key).or_insert_with(|| Arc::new(make())))
    }
}

/// A kind of value, of which each thread remembers the series that it has used.
trait Recorded: Sized {
    /// Calls a function with the recent series of this thread. `None` while the thread ends.
    fn with_recent<R>(function: impl FnOnce(&mut Recent<Self>) -> R) -> Option<R>;
}

/// Implements `Recorded` for a kind of value.
macro_rules! recorded {
    ($kind:ty) => {
        impl Recorded for $kind {
            fn with_recent<R>(function: impl FnOnce(&mut Recent<Self>) -> R) -> Option<R> {
                thread_local! {
                    static RECENT: RefCell<Recent<$kind>> = RefCell::default();
                }
                RECENT.try_with(|recent| function(&mut recent.borrow_mut())).ok()
            }
        }
    };
}

recorded!(AtomicU64);
recorded!(Buckets);

/// The series that a thread has used, at places that follow from the hashes of their keys. A newer one
/// takes the place of an older one.
struct Recent<T>([Option<(u64, Key, Arc<T>)>; RECENT]);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self([const { None }; RECENT])
    }
}

impl<T> Recent<T> {
    /// The value of a series, if it is here.
    fn get(&mut self, table: u64, key: &Key) -> Option<Arc<T>> {
        let (known_table, known_key, value) = self.place(key)?.as_ref()?;
        (*known_table == table && known_key == key).then(|| Arc::clone(value))
    }

    /// Keeps the value of a series.
    fn keep(&mut self, table: u64, key: &Key, value: &Arc<T>) {
        if let Some(place) = self.place(key) {
            *place = Some((table, key.to_retained(), Arc::clone(value)));
        }
    }

    /// The place of a series.
    fn place(&mut self, key: &Key) -> Option<&mut Option<(u64, Key, Arc<T>)>> {
        let index = usize::try_from(key.get_hash() % RECENT as u64).ok()?;
        self.0.get_mut(index)
    }
}

/// Takes the hash that a key has already.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Not called: a key writes its hash and nothing else.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The series of the combinations beyond the limit, which keep the values of some labels.
fn other(key: &Key, kept: &[&str]) -> Key {
    let other = |label: &Label| match kept.contains(&label.key()) {
        true => Label::new(label.key().to_owned(), label.value().to_owned()),
        false => Label::new(label.key().to_owned(), OTHER),
    };
    let labels: Vec<_> = key.labels().map(other).collect();
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

#[cfg(test)]
mod tests {
    use metrics::{counter, with_local_recorder};

    use super::*;

    /// A thread remembers series by their keys, which those of another recorder may equal.
    #[test]
    fn should_keep_the_series_of_recorders_apart() {
        let recorders = [Metrics::new(), Metrics::new()];
        for round in 1..=3_u64 {
            for (recorder, added) in recorders.iter().zip([1, 10]) {
                // More than a thread remembers.
                with_local_recorder(recorder, || {
                    for number in 0..2 * RECENT {
                        counter!("shop_total", "id" => number.to_string()).increment(added);
                    }
                });
                for (_, value) in recorder.0.values() {
                    assert!(!matches!(value, Value::Counter(count) if count != round * added));
                }
            }
        }
    }

    /// The labels of the series of a name that has too many.
    fn series(labels: impl Iterator<Item = (String, String)>) -> Vec<Vec<String>> {
        let recorder = Metrics::new();
        with_local_recorder(&recorder, || {
            for (route, status) in labels {
                counter!("shop_total", "route" => route, "status" => status).increment(1);
            }
        });
        let of_name = recorder.0.values().filter(|(key, _)| key.name() == "shop_total");
        of_name.map(|(key, _)| key.labels().map(|it| it.value().to_owned()).collect()).collect()
    }

    #[test]
    fn should_keep_the_status_of_combinations_beyond_the_limit() {
        let refused = (0..300).map(|number| (format!("/{number}"), "401".to_owned()));
        let failed = [("/late".to_owned(), "500".to_owned())];
        let found = series(refused.chain(failed));
        assert!(found.contains(&vec![OTHER.to_owned(), "401".to_owned()]), "{found:?}");
        assert!(found.contains(&vec![OTHER.to_owned(), "500".to_owned()]), "{found:?}");
    }

    #[test]
    fn should_limit_the_series_of_a_metric_whose_status_is_unbounded() {
        let found = series((0..2000).map(|number| ("/".to_owned(), number.to_string())));
        assert!(found.len() <= MAX_SERIES + MAX_STATUSES + 1, "{}", found.len());
        assert!(found.contains(&vec![OTHER.to_owned(), OTHER.to_owned()]), "{found:?}");
    }
}
