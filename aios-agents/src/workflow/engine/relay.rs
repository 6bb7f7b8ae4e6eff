use std::{collections::VecDeque, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    broker::Publish,
    clock::ClockExt,
    event::{Event, EventError, Pattern},
    store::{Checkpoints, EventStore, Leases, RecordedEvent, Shard, StoreError},
};
use tracing::{error, warn};

use super::Engine;
use crate::workflow::journal::is_copy;

/// Name of the relay's checkpoint.
const READER: &str = "relay";
/// Positions of the log looked through at once.
const RANGE: u64 = 2048;
/// Events that a new owner of the relay may have to look at again.
const UNSAVED: u64 = 10_000;
/// Time in which events gather before they are read.
const PAUSE: Duration = Duration::from_millis(20);
/// What nobody is told of: the steps of runs, and what agents publish themselves. Everything of a
/// foreign domain was emitted to be published.
const QUIET: [&str; 15] = [
    "agents.#",
    "system.#",
    "workflows.*.step_completed",
    "workflows.*.operation_failed",
    "workflows.*.retry_scheduled",
    "workflows.*.timer_started",
    "workflows.*.timer_fired",
    "workflows.*.signal_awaited",
    "workflows.*.child_started",
    "workflows.*.child_ended",
    "workflows.*.version_marked",
    "workflows.*.event_emitted",
    "workflows.*.status_set",
    "workflows.*.cancel_requested",
    "workflows.*.unblocked",
];

/// Publishes the log's lifecycle events and what workflows emit, at least once and in order. One
/// engine at a time does so, under a lease.
pub(super) async fn run(engine: Arc<Engine>) {
    let quiet = match quiet() {
        Ok(quiet) => quiet,
        Err(error) => return error!(error = %Chain(&error), "nothing is relayed"),
    };
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            result = relay(&engine, &quiet) => {
                if let Err(error) = result {
                    warn!(error = %Chain(&error), "the relay stumbled");
                }
                engine.clock.sleep(engine.options.lease_time / 3).await;
            }
        }
    }
}

/// Relays while the lease is held.
async fn relay(engine: &Arc<Engine>, quiet: &[Pattern]) -> Result<(), StoreError> {
    let time_to_live = engine.options.lease_time;
    let leases = engine.store.acquire(&[Shard::RELAY], &engine.owner, time_to_live).await?;
    engine.ownership.set_relay(leases);
    let mut position = engine.store.load_checkpoint(READER).await?;
    let mut saved = position;
    while engine.ownership.relays() {
        let head = engine.store.head().await?;
        let up_to = head.min(position + RANGE);
        if up_to > position {
            let news = engine.store.read_log_except(position, up_to, quiet).await?;
            let Some(published) = publish(engine, news).await? else { return Ok(()) };
            position = up_to;
            // A checkpoint is a commit, and most of the log is steps that nobody is told of.
            if published || position >= saved + UNSAVED {
                engine.store.save_checkpoint(READER, position).await?;
                saved = position;
            }
        }
        if position >= head {
            tokio::select! {
                biased;
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
async fn publish(engine: &Engine, news: Vec<RecordedEvent>) -> Result<Option<bool>, StoreError> {
    // What a fork copied was published when it happened.
    let mut waiting: VecDeque<Event> =
        news.into_iter().map(|recorded| recorded.event).filter(|event| !is_copy(event)).collect();
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
            warn!(error = %Chain(error), code = error.code(), "could not relay an event");
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

/// [`QUIET`], read; a pattern that can't be read is a fault of this file.
fn quiet() -> Result<Vec<Pattern>, EventError> {
    QUIET.iter().map(|pattern| pattern.parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_tell_of_the_life_of_runs_and_of_what_they_emit() {
        let quiet = quiet().unwrap();
        for (event_type, is_quiet) in [
            ("workflows.deploy.registered", false),
            ("workflows.deploy.started", false),
            ("workflows.deploy.signaled", false),
            ("workflows.deploy.paused", false),
            ("workflows.deploy.resumed", false),
            ("workflows.deploy.blocked", false),
            ("workflows.deploy.completed", false),
            ("workflows.deploy.failed", false),
            ("workflows.deploy.cancelled", false),
            ("workflows.deploy.continued", false),
            ("orders.order.placed", false),
            ("workflows.deploy.step_completed", true),
            ("workflows.deploy.timer_fired", true),
            ("agents.builder.task_completed", true),
            ("system.engine.started", true),
        ] {
            let event_type = event_type.parse().unwrap();
            let found = quiet.iter().any(|pattern| pattern.matches(&event_type));
            assert_eq!(found, is_quiet, "{event_type}");
        }
    }
}
