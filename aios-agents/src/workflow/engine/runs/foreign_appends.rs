//! The discovery of what other processes append to the runs of this engine.
//!
//! Any process may append a start, a signal, a cancellation or an answer to a journal, without telling
//! the owner. The positions of the log are dense, and `CountingStore` knows which of them this process
//! has written. The positions between them are foreign. They are read, without the types that only an
//! owner appends, and their runs are woken. So a busy engine does not read back its own appends, and
//! misses none of the others.
//!
//! A notification from the store is only a hint. The scan itself is driven by the head of the log, for
//! which `wait_for` waits, so a lost notification costs time and no event. An error leaves the position
//! where it is, and the same range is read again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    catalog::{EventKind, agent, system, workflow},
    event::{EventError, Pattern, Timestamp},
    failure::Failure,
    store::{EventStore, RecordedEvent, StoreError},
};
use tracing::warn;

use crate::workflow::{
    engine::{Engine, Message, recovery::recover},
    journal::{Entry, decode},
};

/// Time for this process to learn the positions of its own appends.
const LANDING_DELAY: Duration = Duration::from_millis(2);
/// The pause after a scan that found foreign appends: the first one, and the longest. It doubles
/// while every scan finds some, so that a single append is seen at once and many are read together.
const PAUSE: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(50));
/// Positions of the log scanned at once.
const RANGE: u64 = 2048;

/// Finds what other processes appended to this engine's runs: starts, signals, cancellations.
///
/// Positions are dense, and this process knows those of its own events. All positions between them
/// are read, however busy this engine is.
pub(crate) async fn run(engine: Arc<Engine>, mut position: u64) {
    let internal = match internal() {
        Ok(patterns) => patterns,
        Err(error) => {
            return engine
                .fail("look for foreign appends", &Failure::from_error(error.code(), &error));
        }
    };
    let mut pace = Pace { next: Timestamp::MIN, pause: PAUSE.0 };
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            result = scan(&engine, &mut position, &mut pace, &internal) => {
                if let Err(error) = result {
                    if !engine.survives("look for foreign appends", error) {
                        return;
                    }
                    engine.clock.sleep(engine.options.backoff.max_delay).await;
                }
            }
        }
    }
}

/// When the next scan may begin, and the pause after it if it finds foreign appends.
struct Pace {
    /// The earliest time of the next scan.
    next: Timestamp,
    /// The pause after the next scan that finds something.
    pause: Duration,
}

impl Pace {
    /// Notes the result of a scan. A busy log is scanned less often, with more events at a time.
    fn set(&mut self, now: Timestamp, has_found: bool) {
        if has_found {
            self.next = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
        } else {
            self.pause = PAUSE.0;
        }
    }
}

/// The head of the log before shards are acquired. Recovery finds the events up to it.
///
/// Positions of this process are tracked from here on, before it can append anything.
pub(crate) async fn start_position(engine: &Engine) -> Result<u64, StoreError> {
    engine.store.watch();
    engine.store.head().await
}

/// Reads the events that other processes appended after a position, and advances it.
async fn scan(
    engine: &Arc<Engine>,
    position: &mut u64,
    pace: &mut Pace,
    internal: &[Pattern],
) -> Result<(), StoreError> {
    let head = engine.store.wait_for(*position).await?;
    // The delay lets appends of this process be counted as its own, which would otherwise be read.
    let rest = pace.next.duration_since(engine.clock.now()).min(PAUSE.1);
    engine.clock.sleep(rest.max(LANDING_DELAY)).await;
    pace.set(engine.clock.now(), engine.store.foreign(*position, head).is_some());
    while let Some(foreign) = engine.store.foreign(*position, head) {
        let up_to = foreign.end.saturating_sub(1).min(foreign.start.saturating_add(RANGE - 1));
        let after = foreign.start.saturating_sub(1);
        let found = engine.read_range(after, up_to, internal).await?;
        for (position, error) in &found.unreadable {
            warn!(error = %Chain(error), position, "can't read an event of another process");
        }
        if !found.unreadable.is_empty() {
            // The run of the event is unknown, so all runs reread their journals; the one concerned
            // reports the error.
            recover::look_again(engine);
        }
        wake_runs(engine, found.events).await;
        *position = up_to;
        // Positions up to here are never asked for again.
        engine.store.forget(up_to);
    }
    *position = (*position).max(head);
    engine.store.forget(*position);
    Ok(())
}

/// Wakes the runs that other processes appended events for.
///
/// Each run is woken once for a page, however many events it got.
async fn wake_runs(engine: &Arc<Engine>, found: Vec<RecordedEvent>) {
    let mut woken = HashSet::new();
    let foreign = found.iter().filter(|recorded| !engine.store.is_own(recorded.position));
    // A caller here may wait for a run that another engine has ended.
    for run_id in foreign.clone().filter_map(ended) {
        engine.waiters.recheck(run_id);
    }
    foreign.clone().for_each(|recorded| place(engine, recorded));
    for run_id in foreign.flat_map(concerned) {
        let is_owned = engine.ownership.fence_of(&run_id).is_some();
        if is_owned && woken.insert(Arc::clone(&run_id)) {
            engine.activate(&run_id, Message::Wake).await;
        }
    }
}

/// Notes where another engine moved a run, and forgets the runs that have ended.
fn place(engine: &Engine, recorded: &RecordedEvent) {
    let (domain, _, action) = recorded.event.event_type.segments();
    let Some(run_id) = recorded.stream.run_id().filter(|_| domain == workflow::DOMAIN) else {
        return;
    };
    match action {
        workflow::MOVED => {
            if let Ok(Entry::Moved(moved)) = decode(&recorded.event) {
                engine.ownership.place(&run_id.into(), moved.to);
            }
        }
        action if workflow::FINAL.contains(&action) => engine.ownership.forget(run_id),
        _ => {}
    }
}

/// The run that an event may have ended or blocked.
fn ended(recorded: &RecordedEvent) -> Option<&str> {
    match recorded.event.event_type.segments() {
        (workflow::DOMAIN, _, action)
            if action == workflow::BLOCKED || workflow::FINAL.contains(&action) =>
        {
            recorded.stream.run_id()
        }
        _ => None,
    }
}

/// The runs that have to react to an event: the run of its journal, or the successor of a run that
/// continued.
///
/// The end of a run concerns its successor, which waits for it. The ends of others need no driver:
/// waiters are notified apart.
fn concerned(recorded: &RecordedEvent) -> impl Iterator<Item = Arc<str>> {
    let run_id = recorded.stream.run_id();
    let (own, next) = match (recorded.event.event_type.segments(), run_id) {
        ((workflow::DOMAIN, _, workflow::CONTINUED), Some(_)) => match decode(&recorded.event) {
            Ok(Entry::Continued(end)) => (None, Some(end.run_id.into())),
            _ => (None, None),
        },
        ((workflow::DOMAIN, _, action), _) if workflow::FINAL.contains(&action) => (None, None),
        (_, None) => (None, None),
        ((workflow::DOMAIN | agent::DOMAIN, ..), Some(run_id)) => (Some(run_id.into()), None),
        (_, Some(_)) => (None, None),
    };
    own.into_iter().chain(next)
}

/// Matches the events that only the owner of a run appends to its journal, and system events.
fn internal() -> Result<Vec<Pattern>, EventError> {
    let system = format!("{}.#", system::DOMAIN).parse();
    let kinds = agent::EVENTS.iter().chain(workflow::EVENTS).filter(|kind| !kind.external);
    std::iter::once(system).chain(kinds.map(EventKind::pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_the_events_that_other_processes_may_append() {
        let internal = internal().unwrap();
        for (event_type, is_quiet) in [
            ("workflows.deploy.started", false),
            ("workflows.deploy.signaled", false),
            ("workflows.deploy.paused", false),
            ("workflows.deploy.resumed", false),
            ("workflows.deploy.cancel_requested", false),
            ("workflows.deploy.child_ended", false),
            ("workflows.deploy.continued", false),
            ("agents.builder.task_completed", false),
            ("agents.builder.task_failed", false),
            ("workflows.deploy.step_completed", true),
            ("workflows.deploy.timer_fired", true),
            ("agents.builder.task_assigned", true),
            ("system.engine.started", true),
        ] {
            let event_type = event_type.parse().unwrap();
            let found = internal.iter().any(|pattern| pattern.matches(&event_type));
            assert_eq!(found, is_quiet, "{event_type}");
        }
    }
}
