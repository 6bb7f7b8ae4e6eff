//! The keys of a metric with a label whose values are names.
//!
//! The macros of `metrics` build a new key for each report if a label is not a constant. These
//! reports happen for every task and step, so the keys are kept here. A read lock is enough once a
//! key exists. Agent types and workflows are named by users and may be many, so their number is
//! limited: a metric with unlimited labels would fill the memory of the process and of the
//! monitoring system.

use std::collections::BTreeMap;

use metrics::{Key, Label, Level, Metadata, with_recorder};
use parking_lot::RwLock;

/// Maximum number of names that are reported separately. Those above are reported together.
const MAX_NAMES: usize = 256;
/// The value of the label of the names above.
const OTHER: &str = "other";

/// Level and target with which recorders may filter.
const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The keys of one name, by outcome. They are a few, so a list is faster than a map.
type ByOutcome = Vec<(&'static str, Key)>;

/// The keys of one metric, by name and outcome. A key is made when it is first used, so that reports
/// allocate nothing later, with and without a recorder.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Name of the metric.
    metric: &'static str,
    /// The label that has the name.
    label: &'static str,
    /// The label that has the outcome, if the metric has one.
    outcome: Option<&'static str>,
    /// By name.
    known: RwLock<BTreeMap<Box<str>, ByOutcome>>,
    /// Used for names above the maximum.
    others: RwLock<ByOutcome>,
}

impl Keys {
    /// Keys of a metric that has none yet.
    pub(crate) fn new(
        metric: &'static str,
        label: &'static str,
        outcome: Option<&'static str>,
    ) -> Self {
        Self { metric, label, outcome, known: RwLock::default(), others: RwLock::default() }
    }

    /// Records a value of a histogram.
    pub(crate) fn record(&self, name: &str, outcome: &'static str, value: f64) {
        self.with(name, outcome, |key| {
            with_recorder(|recorder| recorder.register_histogram(key, &METADATA)).record(value);
        });
    }

    /// Counts one.
    pub(crate) fn count(&self, name: &str, outcome: &'static str) {
        self.with(name, outcome, |key| {
            with_recorder(|recorder| recorder.register_counter(key, &METADATA)).increment(1);
        });
    }

    /// Adds to a gauge without an outcome.
    pub(crate) fn add(&self, name: &str, added: f64) {
        self.with(name, "", |key| {
            with_recorder(|recorder| recorder.register_gauge(key, &METADATA)).increment(added);
        });
    }

    /// Calls `report` with the key of a name and an outcome. The key is reported before it is kept,
    /// so no lock is held for writing during a report.
    fn with(&self, name: &str, outcome: &'static str, report: impl Fn(&Key)) {
        let known = self.known.read();
        let is_full = known.len() >= MAX_NAMES;
        let keys = known.get(name);
        if let Some(key) = keys.and_then(|keys| find(keys, outcome)) {
            return report(key);
        }
        // A name that is known keeps its own label, also for a new outcome.
        let is_other = is_full && keys.is_none();
        drop(known);
        match is_other {
            true => self.with_other(outcome, report),
            false => {
                let key = self.key(name.to_owned(), outcome);
                report(&key);
                let mut known = self.known.write();
                keep(known.entry(name.into()).or_default(), outcome, key);
            }
        }
    }

    /// Like `with`, for all names above the maximum together.
    fn with_other(&self, outcome: &'static str, report: impl Fn(&Key)) {
        let others = self.others.read();
        if let Some(key) = find(&others, outcome) {
            return report(key);
        }
        drop(others);
        let key = self.key(OTHER.to_owned(), outcome);
        report(&key);
        keep(&mut self.others.write(), outcome, key);
    }

    /// Builds the key with its labels.
    fn key(&self, name: String, outcome: &'static str) -> Key {
        let mut labels = vec![Label::new(self.label, name)];
        labels.extend(self.outcome.map(|label| Label::from_static_parts(label, outcome)));
        Key::from_parts(self.metric, labels)
    }
}

/// The key of an outcome, if there is one.
fn find<'k>(keys: &'k [(&'static str, Key)], outcome: &str) -> Option<&'k Key> {
    keys.iter().find(|(known, _)| *known == outcome).map(|(_, key)| key)
}

/// Another thread may have added the key in the meantime.
///
/// Adds a key.
fn keep(keys: &mut Vec<(&'static str, Key)>, outcome: &'static str, key: Key) {
    if find(keys, outcome).is_none() {
        keys.push((outcome, key));
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;

    #[test]
    fn should_bound_the_names_that_are_told_apart() {
        let recorder = DebuggingRecorder::new();
        let keys = Keys::new("waits", "kind", Some("end"));
        with_local_recorder(&recorder, || {
            for number in 0..1000 {
                let name = format!("name_{number}");
                keys.record(&name, "good", 1.0);
                keys.record(&name, "bad", 1.0);
            }
        });
        let series = recorder.snapshotter().snapshot().into_vec();
        assert_eq!(series.len(), 2 * (MAX_NAMES + 1));
        let others = |end: &str| {
            let others = Key::from_parts(
                "waits",
                vec![Label::new("kind", OTHER), Label::new("end", end.to_owned())],
            );
            series.iter().filter(|(key, ..)| *key.key() == others).count()
        };
        assert_eq!((others("good"), others("bad")), (1, 1));
    }
}
