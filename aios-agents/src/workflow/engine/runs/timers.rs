//! The wake-up times of runs.
//!
//! One task sleeps until the earliest of them, by the injected clock. Timers in memory are a
//! convenience: the journal of a run has its timers, and a run that is loaded sets them again.
//!
//! Two indexes are kept in step under one lock: by time, to find the next one, and by operation, to
//! replace or clear one. Setting a timer that becomes the first one wakes the sleeping task.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aios_core::event::Timestamp;
use metrics::histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::workflow::engine::{Engine, Message};

/// Operation number of a timer that wakes the whole run; no operation has it.
const WHOLE_RUN: u64 = u64::MAX;

/// The wake-up times of runs. Knows runs by id only, so a sleeping run costs little more than its
/// name.
///
/// An operation has one timer, the earliest that was set. A run that is woken too early sets it
/// again.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Locked for single operations.
    due: Mutex<Due>,
    /// Notified when a timer becomes the earliest.
    earlier: Notify,
}

/// The timers, in two orders.
#[derive(Debug, Default)]
struct Due {
    /// The earliest first.
    by_time: BTreeSet<(Timestamp, Arc<str>, u64)>,
    /// The time of each, by run and operation.
    by_operation: BTreeMap<(Arc<str>, u64), Timestamp>,
}

impl Timers {
    /// Sets the timer of an operation, unless it has an earlier one.
    pub(crate) fn set(&self, at: Timestamp, run_id: &Arc<str>, operation: u64) {
        let mut due = self.due.lock();
        let key = (Arc::clone(run_id), operation);
        match due.by_operation.get(&key).copied() {
            Some(earlier) if earlier <= at => return,
            Some(later) => drop(due.by_time.remove(&(later, Arc::clone(run_id), operation))),
            None => {}
        }
        due.by_operation.insert(key, at);
        let entry = (at, Arc::clone(run_id), operation);
        let is_first = due.by_time.first().is_none_or(|first| entry < *first);
        due.by_time.insert(entry);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Whether an operation has a timer.
    pub(crate) fn is_set(&self, run_id: &Arc<str>, operation: u64) -> bool {
        self.due.lock().by_operation.contains_key(&(Arc::clone(run_id), operation))
    }

    /// Sets a timer that activates a run whose wake-up time is noted in the store.
    pub(crate) fn set_wake_up(&self, at: Timestamp, run_id: &Arc<str>) {
        self.set(at, run_id, WHOLE_RUN);
    }

    /// The earliest timer of the run's operations.
    pub(crate) fn earliest(&self, run_id: &Arc<str>) -> Option<Timestamp> {
        let range = (Arc::clone(run_id), 0)..(Arc::clone(run_id), WHOLE_RUN);
        self.due.lock().by_operation.range(range).map(|(_, at)| *at).min()
    }

    /// Number of timers.
    pub(crate) fn len(&self) -> usize {
        self.due.lock().by_operation.len()
    }

    /// Removes the timer of an operation.
    pub(crate) fn clear(&self, run_id: &Arc<str>, operation: u64) {
        let mut due = self.due.lock();
        let key = (Arc::clone(run_id), operation);
        if let Some(at) = due.by_operation.remove(&key) {
            due.by_time.remove(&(at, key.0, operation));
        }
    }

    /// Removes the timers of a run that has ended or that another engine owns.
    pub(crate) fn clear_run(&self, run_id: &Arc<str>) {
        let mut due = self.due.lock();
        let range = (Arc::clone(run_id), 0)..=(Arc::clone(run_id), u64::MAX);
        let of_run: Vec<_> = due.by_operation.range(range).map(|(key, at)| (key.1, *at)).collect();
        for (operation, at) in of_run {
            due.by_operation.remove(&(Arc::clone(run_id), operation));
            due.by_time.remove(&(at, Arc::clone(run_id), operation));
        }
    }

    /// When the earliest timer is due.
    fn first(&self) -> Option<Timestamp> {
        self.due.lock().by_time.first().map(|(at, ..)| *at)
    }

    /// Takes a timer that is due.
    fn pop(&self, now: Timestamp) -> Option<(Arc<str>, u64)> {
        let mut due = self.due.lock();
        due.by_time.first().filter(|(at, ..)| *at <= now)?;
        let (at, run_id, operation) = due.by_time.pop_first()?;
        histogram!("aios_timer_late_seconds").record(now.duration_since(at).as_secs_f64());
        due.by_operation.remove(&(Arc::clone(&run_id), operation));
        Some((run_id, operation))
    }
}

/// Wakes runs when their timers are due.
pub(crate) async fn run(engine: Arc<Engine>) {
    loop {
        let next = engine.timers.first();
        let sleep = async {
            match next {
                Some(at) => engine.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = sleep => {}
            () = engine.timers.earlier.notified() => continue,
        }
        while let Some((run_id, operation)) = engine.timers.pop(engine.clock.now()) {
            match operation {
                // A run in memory has its own timers.
                WHOLE_RUN if engine.holds(&run_id) => {}
                WHOLE_RUN => engine.activate(&run_id, Message::Wake).await,
                operation => engine.activate(&run_id, Message::TimerDue(operation)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(second.unsigned_abs())
    }

    #[test]
    fn should_keep_the_earliest_timer_of_an_operation() {
        let (timers, run): (_, Arc<str>) = (Timers::default(), "r".into());
        timers.set(at(5), &run, 1);
        timers.set(at(3), &run, 1);
        timers.set(at(9), &run, 1);
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.pop(at(3)), Some((Arc::clone(&run), 1)));
        assert_eq!(timers.pop(at(100)), None, "it had one timer");
    }

    #[test]
    fn should_know_when_the_first_operation_of_a_run_is_due() {
        let (timers, run, other): (_, Arc<str>, Arc<str>) =
            (Timers::default(), "r".into(), "s".into());
        timers.set_wake_up(at(1), &run);
        timers.set(at(2), &other, 0);
        assert_eq!(timers.earliest(&run), None);
        timers.set(at(5), &run, 1);
        timers.set(at(4), &run, 9);
        assert_eq!((timers.earliest(&run), timers.len()), (Some(at(4)), 4));
    }

    #[test]
    fn should_forget_operations_that_no_longer_wait() {
        let (timers, run, other): (_, Arc<str>, Arc<str>) =
            (Timers::default(), "r".into(), "s".into());
        for operation in 0..4 {
            timers.set(at(1), &run, operation);
            timers.set(at(1), &other, operation);
        }
        timers.clear(&run, 2);
        assert!(!timers.is_set(&run, 2) && timers.is_set(&run, 3));
        timers.clear_run(&run);
        let left: Vec<_> = std::iter::from_fn(|| timers.pop(at(1))).collect();
        assert!(left.len() == 4 && left.iter().all(|(run_id, _)| *run_id == other), "{left:?}");
    }
}
