//! The usage of model calls in progress, as far as their providers have reported it.
//!
//! A call that ends reports its usage with its response or its error. One that is dropped, because its run
//! is cancelled, reports nothing: what is known of it then is here. The workflow and the hosts of an agent
//! share the meters of a process. A process that only makes model calls records them for the other one, see
//! `interrupted`.

use std::sync::Arc;

use hashlink::LruCache;
use parking_lot::Mutex;

use crate::model::Usage;

/// Calls that a process remembers. Those that were dropped stay until they are forgotten.
const REMEMBERED: usize = 4096;

/// The latest model call of each run, which makes one at a time.
pub(in crate::agent) struct Meters(Mutex<LruCache<String, Meter>>);

/// The usage of a call so far.
pub(in crate::agent) type Meter = Arc<Mutex<Usage>>;

impl Default for Meters {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Meters {
    /// Begins a call of a run.
    pub(in crate::agent) fn begin(&self, run_id: &str) -> Meter {
        let meter = Meter::default();
        self.0.lock().insert(run_id.to_owned(), Arc::clone(&meter));
        meter
    }

    /// Ends a call, which reports its usage itself.
    pub(in crate::agent) fn end(&self, run_id: &str, meter: &Meter) {
        let mut all = self.0.lock();
        // Another call may have begun, if this one took longer than the run waited.
        if all.peek(run_id).is_some_and(|latest| Arc::ptr_eq(latest, meter)) {
            all.remove(run_id);
        }
    }

    /// The usage of the call of a run in progress; `None` if another process makes it.
    pub(in crate::agent) fn reported(&self, run_id: &str) -> Option<Usage> {
        self.0.lock().peek(run_id).map(|meter| *meter.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_know_the_usage_of_calls_that_have_not_ended() {
        let meters = Meters::default();
        let (first, other) = (meters.begin("r"), meters.begin("s"));
        (*first.lock(), *other.lock()) = (Usage::new(10, 1), Usage::new(20, 2));
        assert_eq!(
            [meters.reported("r"), meters.reported("s")],
            [Some(Usage::new(10, 1)), Some(Usage::new(20, 2))]
        );
        let second = meters.begin("r");
        meters.end("r", &first);
        *second.lock() = Usage::new(30, 3);
        assert_eq!(meters.reported("r"), Some(Usage::new(30, 3)));
        meters.end("r", &second);
        assert_eq!(meters.reported("r"), None);
        for number in 0..REMEMBERED {
            meters.begin(&number.to_string());
        }
        assert_eq!(meters.reported("s"), None, "it was forgotten");
    }
}
