use std::{collections::VecDeque, sync::Arc};

use aios_core::{
    broker::Publish,
    clock::ClockExt,
    event::Event,
    store::{Checkpoints, EventStore, Leases, RecordedEvent, Shard, StoreError},
};
use tracing::warn;

use super::Engine;

/// Name of the relay's checkpoint.
const READER: &str = "relay";
/// Events published at once.
const PAGE: usize = 256;
/// Actions of runs that others want to know of; steps and timers are not among them.
const LIFECYCLE: [&str; 10] = [
    "registered",
    "started",
    "signaled",
    "paused",
    "resumed",
    "blocked",
    "completed",
    "failed",
    "cancelled",
    "continued",
];

/// Publishes the log's lifecycle events and what workflows emit, at least once and in order. One
/// engine at a time does so, under a lease.
pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            result = relay(&engine) => {
                if let Err(error) = result {
                    warn!(%error, "the relay stumbled");
                }
                engine.clock.sleep(engine.options.lease_time / 3).await;
            }
            () = engine.stopped() => return,
        }
    }
}

/// Relays while the lease is held.
async fn relay(engine: &Arc<Engine>) -> Result<(), StoreError> {
    let time_to_live = engine.options.lease_time;
    let mut leases = engine.store.acquire(&[Shard::RELAY], &engine.owner, time_to_live).await?;
    let mut position = engine.store.load_checkpoint(READER).await?;
    while !leases.is_empty() {
        let page = engine.store.read_log(position, PAGE).await?;
        let Some(last) = page.last().map(|recorded| recorded.position) else {
            tokio::select! {
                head = engine.store.wait_for(position) => drop(head?),
                () = engine.clock.sleep(time_to_live / 3) => {}
            }
            leases = engine.store.renew(&leases, time_to_live).await?;
            continue;
        };
        publish(engine, page).await;
        position = last;
        engine.store.save_checkpoint(READER, position).await?;
        leases = renewed(engine, leases).await?;
    }
    Ok(())
}

/// Renews the lease before it is half over.
async fn renewed(
    engine: &Engine,
    leases: Vec<aios_core::store::Lease>,
) -> Result<Vec<aios_core::store::Lease>, StoreError> {
    let half = engine.options.lease_time / 2;
    let soon = engine.clock.now() + half;
    if leases.iter().all(|lease| lease.expires_at > soon) {
        return Ok(leases);
    }
    engine.store.renew(&leases, engine.options.lease_time).await
}

/// Publishes in order; what fails is tried again before anything after it.
async fn publish(engine: &Engine, page: Vec<RecordedEvent>) {
    let mut waiting: VecDeque<Event> =
        page.into_iter().map(|recorded| recorded.event).filter(is_wanted).collect();
    let mut back_off = engine.options.back_off.0;
    while !waiting.is_empty() {
        let batch = waiting.iter().cloned().map(Publish::new).collect();
        let results = engine.broker.publish(batch).await;
        let failed = results.iter().position(|result| {
            result.as_ref().is_err_and(aios_core::broker::BrokerError::is_retryable)
        });
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            warn!(%error, code = error.code(), "could not relay an event");
        }
        let Some(failed) = failed else { return };
        waiting.drain(..failed);
        engine.clock.sleep(back_off).await;
        back_off = (back_off * 2).min(engine.options.back_off.1);
    }
}

/// Agents publish their own events; everything of a foreign domain was emitted to be published.
fn is_wanted(event: &Event) -> bool {
    match event.event_type.segments() {
        ("workflows", _, action) => LIFECYCLE.contains(&action),
        ("agents" | "system", ..) => false,
        _ => true,
    }
}
