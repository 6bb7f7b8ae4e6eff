//! Notices runs whose code does not return when it is polled, and so blocks its thread.
//!
//! A poll that does not return can't say so itself. Each run shows the beginning and end of its polls
//! in two atomic numbers (`polling`), and a task of the engine compares them at regular checks. A run
//! is reported when the same poll was seen at four checks in a row. Rust code can't be interrupted from
//! outside. An executor that polls code of another language may be able to interrupt it, so each check calls
//! the executor.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::{counter, gauge};
use parking_lot::Mutex;
use tracing::warn;

use crate::workflow::engine::Engine;

/// How often a poll is checked before its code counts as blocking.
const CHECKS: u32 = 4;

/// The code of a run that is being polled.
#[derive(Clone, Debug)]
pub(super) struct Polled {
    /// Name of its workflow, for the log.
    pub(crate) workflow: Arc<str>,
    /// Number of operations that the code had requested.
    pub(crate) requested: u64,
    /// Identifies the poll.
    pub(crate) poll: u64,
}

/// The runs whose code blocks its thread, with the failed checks of those that may be.
#[derive(Debug, Default)]
pub(crate) struct BlockingRuns(Mutex<BTreeMap<Arc<str>, (Polled, u32)>>);

impl BlockingRuns {
    /// The ids of the runs whose code blocks its thread.
    fn ids(&self) -> Vec<Arc<str>> {
        let runs = self.0.lock();
        let blocking = runs.iter().filter(|(_, (_, checks))| *checks >= CHECKS);
        blocking.map(|(run_id, _)| Arc::clone(run_id)).collect()
    }

    /// Notes which runs are being polled. Time is counted in checks, so that a suspended process does
    /// not count as blocked.
    fn check(&self, polled: BTreeMap<Arc<str>, Polled>, limit: Duration) {
        let mut runs = self.0.lock();
        let before = std::mem::take(&mut *runs);
        for (run_id, (seen, _)) in before.iter().filter(|(_, (_, checks))| *checks >= CHECKS) {
            if polled.get(run_id).is_none_or(|now| now.poll != seen.poll) {
                warn!(run = %run_id, workflow = %seen.workflow, "the code of a run has returned");
            }
        }
        for (run_id, now) in polled {
            let known = before.get(&run_id).filter(|(seen, _)| seen.poll == now.poll);
            let checks = known.map_or(0, |(_, checks)| *checks).saturating_add(1);
            if checks == CHECKS {
                report(&run_id, &now, limit);
            }
            runs.insert(run_id, (now, checks));
        }
        let blocking = runs.values().filter(|(_, checks)| *checks >= CHECKS).count();
        gauge!("aios_runs_blocking").set(f64::from(u32::try_from(blocking).unwrap_or(u32::MAX)));
    }
}

/// Reports a run whose code blocks, once for each poll.
fn report(run_id: &str, polled: &Polled, limit: Duration) {
    let Polled { workflow, requested, .. } = polled;
    counter!("aios_run_blocks_total", "workflow" => workflow.to_string()).increment(1);
    warn!(
        run = run_id, %workflow, after_operation = requested,
        "the code of a run has not returned for about {limit:?}: it blocks its thread or event loop, and \
         every other run there waits; do what takes long in a step"
    );
}

/// Checks the runs in memory regularly.
pub(crate) async fn watch(engine: Arc<Engine>, limit: Duration) {
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = engine.clock.sleep(limit / CHECKS) => {}
        }
        engine.blocking.check(engine.live.polled(), limit);
        if let Some(executor) = &engine.executor {
            for run_id in engine.blocking.ids() {
                executor.on_blocking(&run_id, limit);
            }
        }
    }
}

impl Engine {
    /// The runs whose code blocks the thread or event loop where it runs.
    pub(crate) fn blocking_runs(&self) -> Vec<Arc<str>> {
        self.blocking.ids()
    }
}
