//! Histograms with fixed buckets.
//!
//! The bounds are fixed, so that histograms of several processes can be added. They are chosen by
//! the unit in the name: from a millisecond to a day for durations, powers of two for counts.
//! Recording is one atomic addition; only a value in a sampled trace takes a lock, that of the
//! exemplar of its bucket.

use std::sync::atomic::{AtomicU64, Ordering};

use aios_agents::trace::TraceParent;
use aios_core::{
    clock::{Clock, SystemClock},
    event::Timestamp,
};
use metrics::{GaugeFn, HistogramFn};
use parking_lot::Mutex;

/// Upper bounds of durations, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 7200.0, 86400.0,
];
/// Upper bounds of numbers.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// How many values are in each bucket, and their sum.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Upper bounds, sorted, inclusive.
    bounds: &'static [f64],
    /// One more than bounds: the last has the values above all of them.
    buckets: Box<[Bucket]>,
    /// The bits of a floating-point number.
    sum: AtomicU64,
}

/// The values between two bounds.
#[derive(Debug, Default)]
struct Bucket {
    /// Values of this bucket alone; the sums up to a bound are made when it is read.
    count: AtomicU64,
    /// Locked only to copy or replace.
    exemplar: Mutex<Option<Exemplar>>,
}

/// The last value of a bucket that was measured in a sampled trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    /// The trace of the value.
    pub(super) trace: TraceParent,
    /// The value.
    pub(super) value: f64,
    /// When it was recorded.
    pub(super) at: Timestamp,
}

/// The values of a histogram at one time.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    /// The bound of each bucket, infinite for the last, and the number of values up to it.
    pub(super) buckets: Vec<(f64, u64)>,
    /// The exemplar of each bucket.
    pub(super) exemplars: Vec<Option<Exemplar>>,
    /// Of all values.
    pub(super) sum: f64,
    /// Number of all values.
    pub(super) count: u64,
}

impl Buckets {
    /// The buckets of a metric: those of durations if its unit is the second.
    pub(super) fn of(name: &str) -> Self {
        let bounds = if name.ends_with("_seconds") { SECONDS } else { COUNTS };
        let buckets = std::iter::repeat_with(Bucket::default).take(bounds.len() + 1).collect();
        Self { bounds, buckets, sum: AtomicU64::default() }
    }

    /// Reads the buckets, one after the other. A value that is recorded in the meantime may be in
    /// the sum and not in the count.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let bucket = |(bound, bucket): (f64, &Bucket)| {
            count += bucket.count.load(Ordering::Acquire);
            (bound, count)
        };
        let buckets = bounds.zip(&self.buckets).map(bucket).collect();
        let exemplars = self.buckets.iter().map(|bucket| *bucket.exemplar.lock()).collect();
        let sum = f64::from_bits(self.sum.load(Ordering::Acquire));
        Snapshot { buckets, exemplars, sum, count }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.count.fetch_add(1, Ordering::Release);
            GaugeFn::increment(&self.sum, value);
            if let Some(trace) = TraceParent::current().filter(|trace| trace.is_sampled()) {
                let at = SystemClock.now();
                *bucket.exemplar.lock() = Some(Exemplar { trace, value, at });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_count_values_up_to_each_bound() {
        let buckets = Buckets::of("aios_store_append_events");
        [1.0, 2.0, 3.0, 5000.0].iter().for_each(|value| buckets.record(*value));
        let Snapshot { buckets, exemplars, sum, count } = buckets.snapshot();
        assert_eq!((sum, count), (5006.0, 4));
        assert!(exemplars.iter().all(Option::is_none));
        assert_eq!(buckets[..3], [(1.0, 1), (2.0, 2), (4.0, 3)]);
        assert_eq!(buckets[buckets.len() - 2..], [(4096.0, 3), (f64::INFINITY, 4)]);
    }
}
