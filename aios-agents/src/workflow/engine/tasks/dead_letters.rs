//! Notifies runs of tasks that became dead letters.
//!
//! The delivery of a task may become a dead letter. No agent answers it then, and the broker does not
//! tell the engine. So one task looks at the queues that have open tasks of this engine: at each of
//! them within `dead_letter_check`, then at doubling intervals up to five minutes. It looks again soon
//! when a queue had a dead letter, and at all of them when the broker may have lost tasks (`suspicion`)
//! or tasks are sought.
//!
//! The same checks count what waits in a queue (`activity`). The dead letters stay in the broker, where
//! operators find them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    agent::TaskAssigned,
    broker::{Address, BrokerError, DeadLetter},
    event::Timestamp,
};
use tracing::{debug, warn};

use super::{activity::Queue, suspicion};
use crate::workflow::engine::{Engine, Message};

/// The longest pause between two checks. A check may take every dead letter from its queue for a
/// moment.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The pause between two checks of the queues of a broker that may have lost tasks.
pub(crate) const CLOSE: Duration = Duration::from_secs(1);
/// The pause while tasks are sought.
pub(crate) const SEEK: Duration = Duration::from_millis(200);

/// When to check the dead letters of one agent type or agent again.
#[derive(Debug)]
struct Next {
    /// When it is due.
    at: Timestamp,
    /// The pause that led to it.
    pause: Duration,
}

/// Looks for dead letters of tasks that no agent has begun: soon at first, then at increasing
/// intervals.
pub(crate) async fn run(engine: Arc<Engine>) {
    let interval = engine.options.dead_letter_check;
    let mut checks: BTreeMap<Address, Next> = BTreeMap::new();
    let mut close_until = Timestamp::MIN;
    loop {
        let is_close = engine.clock.now() < close_until;
        let pause = match is_close {
            true if engine.activity.is_seeking(engine.clock.now()) => interval.min(SEEK),
            true => interval.min(CLOSE),
            false => interval,
        };
        tokio::select! {
            biased;
            () = engine.activity.suspected() => {
                close_until = engine.clock.now() + suspicion::WINDOW;
                checks.clear();
            }
            () = engine.clock.sleep(pause) => {}
        }
        let queued = engine.activity.queued();
        // At every check, whereas dead letters are listed at increasing intervals: that costs more.
        if is_close {
            count(&engine, &queued).await;
        }
        // A queue without open tasks of this engine is forgotten, and begins with short pauses the next
        // time.
        checks.retain(|address, _| queued.contains_key(address));
        for (address, queue) in queued {
            let now = engine.clock.now();
            let next = checks.entry(address.clone()).or_insert(Next { at: now, pause: interval });
            if next.at > now {
                continue;
            }
            let found = check(&engine, &address, &queue).await;
            match next_pause(&engine, &address, &queue, next.pause, found) {
                Ok(pause) => next.pause = pause,
                Err(error) => {
                    if !engine.survives("look for dead letters of tasks", error) {
                        return;
                    }
                }
            }
            next.at = engine.clock.now() + next.pause;
        }
    }
}

/// The pause before the next check of an address, after one that followed `pause` and found a number of
/// dead letters. An error is one that the engine may not survive.
fn next_pause(
    engine: &Engine,
    address: &Address,
    queue: &Queue,
    pause: Duration,
    found: Result<usize, BrokerError>,
) -> Result<Duration, BrokerError> {
    let interval = engine.options.dead_letter_check;
    let longest = LONGEST_PAUSE.max(interval);
    match found {
        Ok(0) => Ok((pause * 2).min(longest)),
        Ok(_) => Ok(interval),
        // No agent has subscribed yet, or the queue is gone together with its tasks.
        Err(BrokerError::UnknownAddress { .. }) => {
            if engine.activity.note_gone(queue, engine.clock.now()) {
                engine.suspect_broker();
            }
            Ok(pause)
        }
        // The address is used for something else and has no dead letters of tasks.
        Err(error @ (BrokerError::Incompatible { .. } | BrokerError::InvalidAddress(_))) => {
            warn!(error = %Chain(&error), %address, "has no dead letters of tasks");
            Ok(longest)
        }
        Err(error) => Err(error),
    }
}

/// Notes which queues of a broker that may have lost tasks are empty.
///
/// A queue that can't be counted keeps what was noted before.
async fn count(engine: &Engine, queued: &BTreeMap<Address, Queue>) {
    for (address, queue) in queued {
        let waiting = match engine.broker.dead_letters(address).await {
            Ok(dead_letters) => dead_letters.waiting().await,
            Err(error) => Err(error),
        };
        match waiting {
            Ok(count) => engine.activity.note(queue, count == 0, engine.clock.now()),
            // The less frequent checks report it.
            Err(error) => {
                debug!(error = %Chain(&error), %address, "could not count the tasks that wait")
            }
        }
    }
}

/// Notifies the runs of this engine of their dead letters; returns how many there are. Notes
/// whether the queue is empty.
async fn check(
    engine: &Arc<Engine>,
    address: &Address,
    queue: &Queue,
) -> Result<usize, BrokerError> {
    let dead_letters = engine.broker.dead_letters(address).await?;
    let now = engine.clock.now();
    engine.activity.note(queue, dead_letters.waiting().await? == 0, now);
    let mut notified = 0;
    let mut notify = |letter| notified += usize::from(notify_run(engine, letter));
    dead_letters.for_each(&mut notify).await?;
    Ok(notified)
}

/// Notifies the run of a dead letter, if it is in memory here. Letters of other engines and of direct
/// calls are left alone.
fn notify_run(engine: &Arc<Engine>, letter: DeadLetter) -> bool {
    let Ok(task) = letter.event.data::<TaskAssigned>() else { return false };
    let Some((run_id, operation)) = task.task_id.run() else { return false };
    let run_id: Arc<str> = run_id.into();
    // A run that waits for a task is in memory.
    if !engine.holds(&run_id) {
        return false;
    }
    debug!(%run_id, operation, reason = letter.reason, "a task is a dead letter");
    let attempt = task.attempt;
    let letter = Box::new(letter);
    engine.send(&run_id, Message::DeadLettered { operation, attempt, letter });
    true
}
