use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    clock::ClockExt,
    store::{EventStore, PageRequest, ReadModels, RunFilter, RunStatus, Shard, StoreError},
};
use tracing::warn;

use super::{Engine, Message};

/// Shortest time between two looks at the log.
const PAUSE: Duration = Duration::from_millis(50);

/// Finds what other processes appended to this engine's runs: starts, signals, cancellations.
///
/// Positions are dense, so as long as the log has grown by just what this process appended, nobody
/// else did, and there is nothing to look for.
pub(super) async fn run(engine: Arc<Engine>, mut seen: Seen) {
    loop {
        tokio::select! {
            result = look(&engine, &mut seen) => {
                if let Err(error) = result {
                    warn!(error = %Chain(&error), "could not look for what other processes appended");
                    engine.clock.sleep(engine.options.back_off.1).await;
                }
            }
            () = engine.stopped() => return,
        }
    }
}

/// How far the log was looked through.
#[derive(Debug)]
pub(super) struct Seen {
    head: u64,
    /// Everything foreign up to here was found.
    position: u64,
    foreign: u64,
}

impl Seen {
    /// The log as it is before shards are taken: what it holds already, recovery finds.
    pub(super) async fn now(engine: &Engine) -> Result<Self, StoreError> {
        let head = engine.store.head().await?;
        let foreign = head.saturating_sub(engine.store.count().claimed);
        Ok(Self { head, position: head, foreign })
    }
}

async fn look(engine: &Arc<Engine>, seen: &mut Seen) -> Result<(), StoreError> {
    let head = engine.store.wait_for(seen.head).await?;
    // Counted after the head was read: what is being appended can hide something foreign for a
    // moment, but can't look foreign itself.
    let count = engine.store.count();
    let foreign = head.saturating_sub(count.claimed);
    let found = foreign > seen.foreign;
    if found {
        nudge(engine, seen.position).await?;
    }
    if found || !count.is_moving {
        (seen.position, seen.foreign) = (head, foreign);
    }
    seen.head = head;
    engine.clock.sleep(PAUSE).await;
    Ok(())
}

async fn nudge(engine: &Arc<Engine>, after: u64) -> Result<(), StoreError> {
    let shards: Vec<Shard> =
        Shard::all().filter(|shard| engine.ownership.fence(*shard).is_some()).collect();
    if shards.is_empty() {
        return Ok(());
    }
    let statuses = vec![RunStatus::Running, RunStatus::Cancelling, RunStatus::Paused];
    let filter = RunFilter { shards, statuses, changed_after: after, ..RunFilter::default() };
    let mut page = PageRequest::first(1000);
    loop {
        let found = engine.store.run_summaries(&filter, &page).await?;
        for row in found.rows {
            engine.activate(&row.id.into(), Message::Nudge).await;
        }
        match found.next {
            Some(next) => page = next,
            None => return Ok(()),
        }
    }
}
