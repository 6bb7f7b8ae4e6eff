use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::event::Timestamp;
use tokio::sync::Notify;

use super::{Engine, Message};

/// When which run is to be woken. Knows runs by id only, so a sleeping run costs little more than
/// its name.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: Mutex<BTreeSet<(Timestamp, Arc<str>, u64)>>,
    earlier: Notify,
}

impl Timers {
    pub(super) fn set(&self, at: Timestamp, run_id: &Arc<str>, operation: u64) {
        let entry = (at, Arc::clone(run_id), operation);
        let mut due = self.due();
        let is_first = due.first().is_none_or(|first| entry < *first);
        due.insert(entry);
        if is_first {
            self.earlier.notify_one();
        }
    }

    fn first(&self) -> Option<Timestamp> {
        self.due().first().map(|(at, ..)| *at)
    }

    fn pop(&self, now: Timestamp) -> Option<(Arc<str>, u64)> {
        let mut due = self.due();
        due.first().filter(|(at, ..)| *at <= now)?;
        due.pop_first().map(|(_, run_id, operation)| (run_id, operation))
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, Arc<str>, u64)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes runs when their time has come.
pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        let next = engine.timers.first();
        let sleep = async {
            match next {
                Some(at) => engine.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = engine.timers.earlier.notified() => continue,
            () = engine.stopped() => return,
        }
        while let Some((run_id, operation)) = engine.timers.pop(engine.clock.now()) {
            engine.activate(&run_id, Message::TimerDue(operation)).await;
        }
    }
}
