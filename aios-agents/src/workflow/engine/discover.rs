use std::{collections::HashSet, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    catalog::{EventKind, agent, system, workflow},
    event::{EventError, Pattern, Timestamp},
    failure::Failure,
    store::{EventStore, RecordedEvent, StoreError},
};
use tracing::warn;

use super::{Engine, Message, recover};
use crate::workflow::journal::{Entry, decode};

/// Time in which this process learns where its own appends landed.
const MOMENT: Duration = Duration::from_millis(2);
/// Time between two looks at what others append, and that in a log which grows fast.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(50));
/// Positions looked through at once above which the log grows fast.
const FAST: u64 = 64;
/// Positions of the log looked through at once.
const RANGE: u64 = 2048;
/// Finds what other processes appended to this engine's runs: starts, signals, cancellations.
///
/// Positions are dense, and this process knows those of its own events. Whatever lies between them is
/// read, however busy this engine is.
pub(super) async fn run(engine: Arc<Engine>, mut position: u64) {
    let internal = match internal() {
        Ok(patterns) => patterns,
        Err(error) => {
            return engine.fail("look for news", &Failure::from_error(error.code(), &error));
        }
    };
    let mut next = Timestamp::MIN;
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            result = look(&engine, &mut position, &mut next, &internal) => {
                if let Err(error) = result {
                    if !engine.survives("look for what other processes appended", error) {
                        return;
                    }
                    engine.clock.sleep(engine.options.backoff.1).await;
                }
            }
        }
    }
}

/// The end of the log as it is before shards are taken: what it holds already, recovery finds.
pub(super) async fn begin(engine: &Engine) -> Result<u64, StoreError> {
    engine.store.watch();
    engine.store.head().await
}

/// Looks through what was appended since a position, and moves it.
async fn look(
    engine: &Arc<Engine>,
    position: &mut u64,
    next: &mut Timestamp,
    internal: &[Pattern],
) -> Result<(), StoreError> {
    let head = engine.store.wait_for(*position).await?;
    let rest = next.duration_since(engine.clock.now()).min(PAUSE.1);
    engine.clock.sleep(rest.max(MOMENT)).await;
    while let Some(foreign) = engine.store.foreign(*position, head) {
        let is_fast = foreign.end.saturating_sub(foreign.start) > FAST;
        *next = engine.clock.now() + if is_fast { PAUSE.1 } else { PAUSE.0 };
        let up_to = foreign.end.saturating_sub(1).min(foreign.start.saturating_add(RANGE - 1));
        let after = foreign.start.saturating_sub(1);
        let found = engine.read_range(after, up_to, internal).await?;
        for (position, error) in &found.unreadable {
            warn!(error = %Chain(error), position, "an event of another process can't be read");
        }
        if !found.unreadable.is_empty() {
            // Nobody knows whose it is. Its run reads its journal, and says what is wrong.
            recover::look_again(engine);
        }
        nudge(engine, found.events).await;
        *position = up_to;
        engine.store.forget(up_to);
    }
    *position = (*position).max(head);
    engine.store.forget(*position);
    Ok(())
}

/// Tells runs that others appended to their journals.
async fn nudge(engine: &Arc<Engine>, found: Vec<RecordedEvent>) {
    let mut told = HashSet::new();
    let foreign = found.iter().filter(|recorded| !engine.store.is_own(recorded.position));
    for run_id in foreign.clone().filter_map(ended) {
        engine.waiters.look(run_id);
    }
    foreign.clone().for_each(|recorded| place(engine, recorded));
    for run_id in foreign.flat_map(concerned) {
        let is_owned = engine.ownership.fence_of(&run_id).is_some();
        if is_owned && told.insert(Arc::clone(&run_id)) {
            engine.activate(&run_id, Message::Nudge).await;
        }
    }
}

/// Notes where another engine moved a run, and which runs need no place any more.
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

/// The runs that an event is news to: the one in whose journal it stands, and the one that waits for
/// that one to end.
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

/// Matches the events that only the owner of a run appends to its journal, and events outside of
/// journals.
fn internal() -> Result<Vec<Pattern>, EventError> {
    let system = format!("{}.#", system::DOMAIN).parse();
    let kinds = agent::EVENTS.iter().chain(workflow::EVENTS).filter(|kind| !kind.external);
    std::iter::once(system).chain(kinds.map(EventKind::pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_what_others_may_append() {
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
