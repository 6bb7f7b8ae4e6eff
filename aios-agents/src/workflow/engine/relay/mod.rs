//! The relay: it publishes the log to the broker, so that the log is the outbox.
//!
//! - One engine at a time relays, under the lease `Shard::RELAY`.
//! - Every event is published at least once, and those of a stream in their order (see `window`).
//! - The position is a checkpoint of the store, which is saved after the broker has the events. A crash
//!   in between publishes them again, with the same ids.
//! - Steps, timers and what agents publish themselves are left out: `EventKind::relayed` says so for
//!   each event. Events that workflows emit are published.
//! - An event that cannot be read, or that the broker refuses, is skipped or stops the engine, as
//!   `RefusedEvents` says.
//!
//! ```text
//! load the checkpoint ──► read a range ──► publish it, window by window ──► save the checkpoint ─┐
//!                              ▲                                                                 │
//!                              └──────────── the head of the log grows ──────────────────────────┘
//! ```
//!
//! A former relay that is still publishing does no harm: consumers get repetitions, which delivery
//! allows. `Engine::relaying` is locked while the log is relayed, so that an engine that leaves can
//! wait for the last window.

mod lag;
mod window;

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    catalog::{EventKind, agent, system, workflow},
    event::{EventError, Pattern},
    failure::Failure,
    store::{Checkpoints, EventStore, PageSize, StoreError},
};
use metrics::counter;
use tracing::{error, warn};

use self::{lag::Lag, window::Published};
use super::{Engine, EngineError, RefusedEvents};

/// Name of the relay's checkpoint.
const READER: &str = "relay";
/// The highest number of positions of the log that are read at once.
const RANGE: usize = 2048;
/// Positions that a new owner of the relay may have to read again.
const UNSAVED: u64 = 10_000;
/// How long to wait for more events before they are read.
const PAUSE: Duration = Duration::from_millis(20);

/// Publishes the log's lifecycle events and what workflows emit, at least once and in order (see
/// [`window`]). One engine at a time does so, under a lease.
pub(super) async fn run(engine: Arc<Engine>) {
    let not_relayed = match not_relayed() {
        Ok(patterns) => patterns,
        Err(error) => {
            return engine.fail("relay the log", &Failure::from_error(error.code(), &error));
        }
    };
    tokio::select! {
        biased;
        () = engine.stopped() => {}
        () = relay_again(&engine, &not_relayed) => {}
    }
}

/// Relays whenever the lease is held, and waits longer after each consecutive error. Returns after
/// a permanent error.
async fn relay_again(engine: &Arc<Engine>, not_relayed: &[Pattern]) {
    let first = engine.options.backoff.initial_delay;
    let mut backoff = first;
    let lag = Lag::new();
    loop {
        let result = relay(engine, not_relayed, &mut backoff, &lag).await;
        let pause = if result.is_ok() { first } else { backoff };
        if let Err(error) = result
            && !engine.survives("relay the log", error)
        {
            return;
        }
        engine.clock.sleep(pause).await;
        backoff = engine.options.backoff.next(pause);
    }
}

/// Relays while the lease is held. The lease is renewed with all others. Resets `backoff` after
/// each range of the log.
async fn relay(
    engine: &Arc<Engine>,
    not_relayed: &[Pattern],
    backoff: &mut Duration,
    lag: &Lag,
) -> Result<(), EngineError> {
    if !engine.ownership.relays() {
        lag.clear();
    }
    engine.ownership.until_relays(true).await;
    let _relaying = engine.relaying.lock().await;
    let mut position = engine.store.load_checkpoint(READER).await?;
    let mut head = engine.store.head().await?;
    if position > head {
        return Err(StoreError::AfterEnd { reader: READER.to_owned(), position, head }.into());
    }
    // The first position is saved at once: retention keeps what a reader with a position has not passed.
    let mut checkpoint = Checkpoint { saved: position, is_due: position == 0, backoff: *backoff };
    checkpoint.save(engine, position).await?;
    let mut size = PageSize::new(RANGE);
    while engine.ownership.relays() {
        lag.set(head, position);
        let up_to = head.min(position + size.events() as u64);
        if up_to > position {
            let mut range = engine.read_range(position, up_to, not_relayed).await?;
            size.adapt(usize::try_from(up_to - position).unwrap_or_default(), &range.events);
            let stops = engine.options.refused_events == RefusedEvents::Stop;
            let stop_at = range.unreadable.first().filter(|_| stops).cloned();
            match &stop_at {
                Some((unreadable, _)) => range.events.retain(|it| it.position < *unreadable),
                None => range.unreadable.iter().for_each(|(at, error)| skip(*at, error)),
            }
            let published = window::publish(engine, range.events, lag).await?;
            if published == Published::LeaseLost {
                return Ok(());
            }
            if let Some((unreadable, error)) = stop_at {
                engine.store.save_checkpoint(READER, unreadable.saturating_sub(1)).await?;
                return Err(error.into());
            }
            position = up_to;
            // A checkpoint costs a commit, and most of the log is steps that are not published.
            checkpoint.is_due |= published == Published::All;
            checkpoint.is_due |= position >= checkpoint.saved + UNSAVED;
        }
        checkpoint.save(engine, position).await?;
        *backoff = engine.options.backoff.initial_delay;
        if position >= head {
            tokio::select! {
                biased;
                () = engine.ownership.until_relays(false) => return Ok(()),
                grown = engine.store.wait_for(position) => head = grown?,
                () = engine.clock.sleep(checkpoint.backoff), if checkpoint.is_due => continue,
            }
            // Wait, so that events appended shortly after each other are read together.
            engine.clock.sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// The position that a new owner of the relay begins at.
struct Checkpoint {
    /// The position that was saved last.
    saved: u64,
    /// Whether the position has changed by something worth a commit.
    is_due: bool,
    /// The delay before the next attempt to save it.
    backoff: Duration,
}

impl Checkpoint {
    /// Saves the checkpoint if it is due. If the store does not accept it now, it stays due, so that
    /// the relay continues, and publishes nothing again that the broker has.
    async fn save(&mut self, engine: &Engine, position: u64) -> Result<(), StoreError> {
        if !self.is_due {
            return Ok(());
        }
        match engine.store.save_checkpoint(READER, position).await {
            Ok(()) => {
                *self = Self {
                    saved: position,
                    is_due: false,
                    backoff: engine.options.backoff.initial_delay,
                }
            }
            Err(error) if error.is_retryable() => {
                warn!(
                    error = %Chain(&error), code = error.code(), position,
                    "could not save the position of the relay; trying again"
                );
                self.backoff = engine.options.backoff.next(self.backoff);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reports that an unreadable event is not published.
fn skip(position: u64, error: &StoreError) {
    counter!("aios_relay_skipped_total", "code" => error.code()).increment(1);
    error!(error = %Chain(error), position, "can't read an event; it is not published");
}

/// Matches the events that are not published: steps of runs, and events that agents publish
/// themselves. Events of other domains, which workflows emit, are published.
fn not_relayed() -> Result<Vec<Pattern>, EventError> {
    let kinds = workflow::EVENTS.iter().chain(agent::EVENTS).filter(|kind| !kind.relayed);
    let system = format!("{}.#", system::DOMAIN).parse();
    [system].into_iter().chain(kinds.map(EventKind::pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_relay_lifecycle_events_and_emitted_events() {
        let not_relayed = not_relayed().unwrap();
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
            ("agents.builder.created", false),
            ("agents.builder.replaced", false),
            ("agents.builder.deleted", false),
            ("agents.builder.restart_requested", false),
            ("agents.builder.registered", true),
            ("agents.builder.seen", true),
            ("agents.builder.task_assigned", true),
            ("agents.builder.task_completed", true),
            ("system.engine.started", true),
        ] {
            let event_type = event_type.parse().unwrap();
            let found = not_relayed.iter().any(|pattern| pattern.matches(&event_type));
            assert_eq!(found, is_quiet, "{event_type}");
        }
    }
}
