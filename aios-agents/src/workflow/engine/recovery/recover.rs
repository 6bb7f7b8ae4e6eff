//! The discovery of the runs of shards that this engine has just acquired.
//!
//! A run whose wait is noted in the store is not loaded: its note says when to wake it. All others are
//! loaded, and so is a sample of those that wait, so that code which no longer fits is noticed soon
//! after its deployment. It is repeated until it succeeds; a run that is activated twice is loaded once.
//!
//! | run of the shard | then |
//! |---|---|
//! | without a note | it was being advanced: it is loaded |
//! | whose journal is ahead of its note | something happened since: it is loaded |
//! | with a valid note | it is left alone, and found when it falls due |

use std::{collections::HashSet, sync::Arc};

use super::{notes::OPEN, recovering::RecoveringGuard};
use crate::workflow::engine::{Engine, Message};
use aios_core::store::{PageRequest, ReadModels, RunFilter, Shard, StoreError, Unsettled};

/// Shards queried at once.
const SHARDS: usize = 8;
/// Runs per page.
const PAGE: usize = 5000;
/// Waiting runs that are loaded nevertheless, so that code which no longer fits their journals is
/// noticed soon after its deployment.
const SAMPLE: usize = 1000;

/// Resumes the runs of acquired shards. Runs that are noted as waiting are not loaded, except for a
/// sample; they are found when they fall due. The shards count as being recovered from this call on, and
/// not from the first poll.
pub(crate) fn run(engine: Arc<Engine>, shards: Vec<Shard>) -> impl Future<Output = ()> + Send {
    let guard = engine.recovering.begin(&shards);
    async move { resume(&engine, shards, guard).await }
}

/// Repeats the discovery until it succeeds.
async fn resume(engine: &Arc<Engine>, shards: Vec<Shard>, guard: RecoveringGuard) {
    engine.parking.begin(&shards);
    let mut guard = Some(guard);
    while let Err(error) = recover(engine, &shards, &mut guard).await {
        if !engine.survives("find the runs to resume", error) {
            return;
        }
        engine.clock.sleep(engine.options.backoff.max_delay).await;
        if engine.is_stopping() {
            return;
        }
    }
}

/// Makes every run reread its journal that an unreadable event may belong to: the runs in memory,
/// those whose journal is ahead of their note, and those that were moved to this engine.
pub(crate) fn look_again(engine: &Arc<Engine>) {
    let shards = engine.ownership.shards();
    engine.live.broadcast(&shards, || Message::Wake);
    for run_id in engine.ownership.guests() {
        engine.send(&run_id, Message::Wake);
    }
    let shares = engine.ownership.shares().into_iter().collect();
    engine.background.spawn(run(Arc::clone(engine), shares));
}

/// Finds and wakes the runs, once. May be repeated from the start after an error. The guard is dropped once
/// all runs are found that may be blocked.
async fn recover(
    engine: &Arc<Engine>,
    shards: &[Shard],
    guard: &mut Option<RecoveringGuard>,
) -> Result<(), StoreError> {
    let mut woken = HashSet::new();
    for which in [Unsettled::Unnoted, Unsettled::Outdated] {
        for some in shards.chunks(SHARDS) {
            wake(engine, some, which, &mut woken).await?;
        }
    }
    drop(guard.take());
    sample(engine, shards, &woken).await
}

/// Wakes the runs that have to be loaded, and collects up to a page of them in `woken`.
async fn wake(
    engine: &Arc<Engine>,
    shards: &[Shard],
    which: Unsettled,
    woken: &mut HashSet<Arc<str>>,
) -> Result<(), StoreError> {
    let mut page = PageRequest::first(PAGE);
    loop {
        let found = engine.store.unsettled_runs(shards, which, &page).await?;
        for run_id in found.rows {
            let run_id: Arc<str> = run_id.into();
            engine.activate(&run_id, Message::Wake).await;
            if woken.len() < PAGE {
                woken.insert(run_id);
            }
        }
        match found.next {
            Some(next) => page = next,
            None => return Ok(()),
        }
    }
}

/// Loads some of the runs that wait.
async fn sample(
    engine: &Arc<Engine>,
    shards: &[Shard],
    woken: &HashSet<Arc<str>>,
) -> Result<(), StoreError> {
    let shards = shards.to_vec();
    let statuses = OPEN.to_vec();
    let filter = RunFilter { shards, statuses, ..RunFilter::default() };
    let found = engine.store.run_summaries(&filter, &PageRequest::first(SAMPLE)).await?;
    for run in found.rows {
        let run_id: Arc<str> = run.id.into();
        if !woken.contains(&run_id) && !engine.holds(&run_id) {
            engine.activate(&run_id, Message::Wake).await;
        }
    }
    Ok(())
}
