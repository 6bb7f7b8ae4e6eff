//! Publishes the log to the broker.

mod window;

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    event::{EventError, Pattern},
    failure::Failure,
    store::{Checkpoints, EventStore, StoreError},
};
use metrics::counter;
use tracing::error;

use self::window::Published;
use super::{Engine, EngineError, RefusedEvents};

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
const QUIET: [&str; 16] = [
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
    "workflows.*.moved",
];

/// Publishes the log's lifecycle events and what workflows emit, at least once and in order (see
/// [`window`]). One engine at a time does so, under a lease.
pub(super) async fn run(engine: Arc<Engine>) {
    let quiet = match quiet() {
        Ok(quiet) => quiet,
        Err(error) => {
            return engine.fail("relay the log", &Failure::from_error(error.code(), &error));
        }
    };
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            result = relay(&engine, &quiet) => {
                if let Err(error) = result && !engine.survives("relay the log", error) {
                    return;
                }
                engine.clock.sleep(engine.options.back_off.0).await;
            }
        }
    }
}

/// Relays while the lease is held. It is renewed with all others.
async fn relay(engine: &Arc<Engine>, quiet: &[Pattern]) -> Result<(), EngineError> {
    engine.ownership.until_relays(true).await;
    let _relaying = engine.relaying.lock().await;
    let mut position = engine.store.load_checkpoint(READER).await?;
    let (mut saved, mut head) = (position, engine.store.head().await?);
    while engine.ownership.relays() {
        let up_to = head.min(position + RANGE);
        if up_to > position {
            let mut news = engine.read_range(position, up_to, quiet).await?;
            let stops = engine.options.refused_events == RefusedEvents::Stop;
            let last = news.unreadable.first().filter(|_| stops).cloned();
            match &last {
                Some((unreadable, _)) => news.events.retain(|it| it.position < *unreadable),
                None => news.unreadable.iter().for_each(|(at, error)| skip(*at, error)),
            }
            let published = window::publish(engine, news.events).await?;
            if published == Published::LeaseLost {
                return Ok(());
            }
            if let Some((unreadable, error)) = last {
                engine.store.save_checkpoint(READER, unreadable.saturating_sub(1)).await?;
                return Err(error.into());
            }
            position = up_to;
            // A checkpoint is a commit, and most of the log is steps that nobody is told of.
            if published == Published::All || position >= saved + UNSAVED {
                engine.store.save_checkpoint(READER, position).await?;
                saved = position;
            }
        }
        if position >= head {
            tokio::select! {
                biased;
                () = engine.ownership.until_relays(false) => return Ok(()),
                grown = engine.store.wait_for(position) => head = grown?,
            }
            // What is appended in a moment is read together.
            engine.clock.sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Says that an event is not published, because it can't be read.
fn skip(position: u64, error: &StoreError) {
    counter!("aios_relay_skipped_total", "code" => error.code()).increment(1);
    error!(error = %Chain(error), position, "an event can't be read; it is not published");
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
