//! The order in which the relay publishes.
//!
//! The events of a window are published at once. A window holds at most one event of each stream,
//! and the next one begins when the broker has all of this one. So an event never reaches the
//! broker before an earlier one of its stream, whatever fails. When an event of a window fails,
//! those after it are published again with it: a consumer that keeps the last copy of each event
//! has the order of the log.
//!
//! The width of a window therefore follows the number of streams that are active: a single busy stream
//! is relayed at one event for each confirmation of the broker.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
    event::Timestamp,
    store::{RecordedEvent, StreamId},
};
use metrics::counter;
use tracing::{error, warn};

use super::{Engine, EngineError, lag::Lag};
use crate::workflow::engine::RefusedEvents;
use crate::workflow::journal::is_copy;

/// Events published at once.
const WINDOW: usize = 512;

/// The result of publishing a range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// There was nothing to publish.
    Nothing,
    /// All events were published, except those that the broker refuses.
    All,
    /// The lease was lost, and another engine relays.
    LeaseLost,
}

/// The result of an attempt to publish a window.
#[derive(Debug, Default)]
struct Attempt {
    /// Events at the front of the window that are done: the broker has them or refuses them.
    done: usize,
    /// Events that were refused, with the reason; they are skipped.
    refused: Vec<(usize, BrokerError)>,
    /// The error of the event after those that are done, if there is one.
    failed: Option<BrokerError>,
}

/// Publishes events in order. A failed event is retried before any event after its window is
/// published.
pub(super) async fn publish(
    engine: &Engine,
    events: Vec<RecordedEvent>,
    lag: &Lag,
) -> Result<Published, EngineError> {
    // Events copied by a fork were published when they happened.
    let mut waiting: VecDeque<RecordedEvent> =
        events.into_iter().filter(|recorded| !is_copy(&recorded.event)).collect();
    if waiting.is_empty() {
        return Ok(Published::Nothing);
    }
    let first = engine.options.backoff.initial_delay;
    let mut backoff = first;
    let mut rejected_since = None;
    while !waiting.is_empty() {
        if !engine.ownership.relays() {
            return Ok(Published::LeaseLost);
        }
        let gives_up = gives_up(engine, rejected_since);
        let Attempt { done, refused, failed } = attempt(engine, &waiting, gives_up).await;
        if let Some((_, error)) = refused.first()
            && engine.options.refused_events == RefusedEvents::Stop
        {
            return Err(error.clone().into());
        }
        for (recorded, error) in refused.iter().filter_map(|(at, it)| Some((waiting.get(*at)?, it)))
        {
            skip(recorded, error);
        }
        waiting.drain(..done);
        // The patience is that of the first event; progress gives the next one its own.
        let since = rejected_since.filter(|_| done == 0);
        (backoff, rejected_since) = match failed {
            None => (first, None),
            Some(error @ BrokerError::Closed) => return Err(error.into()),
            Some(error) => {
                warn!(
                    error = %Chain(&error), code = error.code(), waiting = waiting.len(),
                    "relay failed; retrying"
                );
                if let Some(next) = waiting.front() {
                    lag.refresh(engine, next.position.saturating_sub(1)).await;
                }
                let pause = if done == 0 { backoff } else { first };
                let now = engine.clock.now();
                engine.clock.sleep(pause).await;
                let is_rejected = matches!(error, BrokerError::Rejected { .. });
                (engine.options.backoff.next(pause), is_rejected.then(|| since.unwrap_or(now)))
            }
        };
    }
    Ok(Published::All)
}

/// The number of events at the front that belong to different streams.
///
/// A repeated stream ends the window, so that two events of it are never in flight together.
fn window(waiting: &VecDeque<RecordedEvent>) -> usize {
    let mut streams: HashSet<&StreamId> = HashSet::new();
    waiting.iter().take(WINDOW).take_while(|recorded| streams.insert(&recorded.stream)).count()
}

/// Whether the first event counts as refused if it is rejected once more.
fn gives_up(engine: &Engine, rejected_since: Option<Timestamp>) -> bool {
    let patience: Duration = engine.options.relay_patience;
    rejected_since.is_some_and(|since| since + patience <= engine.clock.now())
}

/// Publishes one window, and finds the events at its front that are done. Those after the first failure
/// count as not published, even if the broker has them.
async fn attempt(engine: &Engine, waiting: &VecDeque<RecordedEvent>, gives_up: bool) -> Attempt {
    let events = waiting.iter().take(window(waiting));
    let batch = events.map(|recorded| Publish::new(recorded.event.clone())).collect();
    let mut results = engine.broker.publish(batch).await;
    // A broker that answers nothing must not make the relay skip an event.
    if results.is_empty() {
        results.push(Err(BrokerError::Uncertain));
    }
    let mut attempt = Attempt::default();
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => counter!("aios_relay_published_total").increment(1),
            Err(error) if is_refusal(&error, gives_up && index == 0) => {
                attempt.refused.push((index, error));
            }
            Err(error) => {
                attempt.failed = Some(error);
                break;
            }
        }
        attempt.done += 1;
    }
    attempt
}

/// Whether the broker will never take the event, as far as can be known.
fn is_refusal(error: &BrokerError, gives_up: bool) -> bool {
    match error {
        BrokerError::Rejected { .. } => gives_up,
        // This error is not about the event.
        BrokerError::Closed => false,
        other => !other.is_retryable(),
    }
}

/// Reports that an event is not published. It stays in the log.
fn skip(recorded: &RecordedEvent, error: &BrokerError) {
    let RecordedEvent { event, stream, position, .. } = recorded;
    counter!("aios_relay_skipped_total", "code" => error.code()).increment(1);
    error!(
        error = %Chain(error), code = error.code(), event_id = %event.id, position,
        event_type = %event.event_type, %stream,
        "the broker refuses an event; it is not published, and stays in the log"
    );
}
