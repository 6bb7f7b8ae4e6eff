use std::{collections::VecDeque, sync::Arc, time::Duration};

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
/// Events read at once.
const PAGE: usize = 256;
/// Events that a new owner of the relay may have to look at again.
const UNSAVED: u64 = 10_000;
/// Time in which events gather before they are read.
const PAUSE: Duration = Duration::from_millis(20);
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
    let leases = engine.store.acquire(&[Shard::RELAY], &engine.owner, time_to_live).await?;
    engine.ownership.set_relay(leases);
    let mut position = engine.store.load_checkpoint(READER).await?;
    let mut saved = position;
    while engine.ownership.relays() {
        let page = engine.store.read_log(position, PAGE).await?;
        let is_last = page.len() < PAGE;
        position = page.last().map_or(position, |recorded| recorded.position);
        let Some(published) = publish(engine, page).await? else { return Ok(()) };
        // A checkpoint is a commit, and most of the log is steps that nobody is told of.
        if published || position >= saved + UNSAVED {
            engine.store.save_checkpoint(READER, position).await?;
            saved = position;
        }
        if is_last {
            tokio::select! {
                head = engine.store.wait_for(position) => drop(head?),
                () = engine.clock.sleep(time_to_live / 3) => {}
            }
            // What is appended in a moment is read together.
            engine.clock.sleep(PAUSE).await;
        }
        renew(engine).await?;
    }
    Ok(())
}

/// Renews the lease before it is half over.
async fn renew(engine: &Engine) -> Result<(), StoreError> {
    let soon = engine.clock.now() + engine.options.lease_time / 2;
    let leases = engine.ownership.relay();
    if leases.iter().any(|lease| lease.expires_at <= soon) {
        let renewed = engine.store.renew(&leases, engine.options.lease_time).await?;
        engine.ownership.set_relay(renewed);
    }
    Ok(())
}

/// Publishes in order; what fails is tried again before anything after it. Says whether there was
/// anything to publish; `None` if the lease was lost meanwhile, and somebody else relays.
async fn publish(engine: &Engine, page: Vec<RecordedEvent>) -> Result<Option<bool>, StoreError> {
    let mut waiting: VecDeque<Event> =
        page.into_iter().map(|recorded| recorded.event).filter(is_wanted).collect();
    if waiting.is_empty() {
        return Ok(Some(false));
    }
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
        let Some(failed) = failed else { return Ok(Some(true)) };
        waiting.drain(..failed);
        engine.clock.sleep(back_off).await;
        back_off = (back_off * 2).min(engine.options.back_off.1);
        renew(engine).await?;
        if !engine.ownership.relays() {
            return Ok(None);
        }
    }
    Ok(Some(true))
}

/// Agents publish their own events; everything of a foreign domain was emitted to be published.
fn is_wanted(event: &Event) -> bool {
    match event.event_type.segments() {
        ("workflows", _, action) => LIFECYCLE.contains(&action),
        ("agents" | "system", ..) => false,
        _ => true,
    }
}
