//! The parts that starting and handling runs need, and how a caller waits for the end of a run.
//!
//! A waiting caller is woken in one of three ways, and reads the run's row in each case but the
//! first:
//!
//! | the run | wake-up |
//! |---|---|
//! | is in the memory of this process's engine | the engine tells the outcome itself |
//! | is advanced elsewhere | the engine's scan of the log, or `Ends` in a process without an engine |
//! | any, if a notification is lost | the interval of polling, 5 s up to 60 s |
//!
//! The caller registers before it reads the row, so no end is missed in between. While the store
//! fails, it keeps waiting with a back-off of its own.

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    retry::Backoff,
    store::{RunRecord, RunStatus},
};
use tokio::sync::futures::Notified;

use super::{
    RuntimeError,
    ends::{Ends, Watch},
};
use crate::workflow::{
    engine::{Engine, Message, RunOutcome, Waiter},
    journal::Journals,
};

/// Intervals of polling for the end of a run, in case its notification is
/// missed.
const POLL: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
/// Delays after failures of the store.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// How long a call is repeated while the store is unavailable. A start is appended as patiently.
const PATIENCE: Duration = Duration::from_secs(30);

/// Dependencies of starting and handling runs.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Reads and appends journals.
    pub(super) journals: Journals,
    /// The engine of this process, which is notified directly; other engines poll.
    pub(super) engine: Option<Arc<Engine>>,
    /// Follows the ends of runs if there is no engine.
    pub(super) ends: Arc<Ends>,
}

impl Client {
    /// Fails if the engine of this process has stopped after an error.
    pub(super) fn check(&self) -> Result<(), RuntimeError> {
        match self.engine.as_ref().and_then(|engine| engine.failure()) {
            Some(failure) => Err(RuntimeError::EngineStopped { failure }),
            None => Ok(()),
        }
    }

    /// Repeats a call that may be repeated while the store is unavailable. Reads give up after seconds, so
    /// without this, an outage that a start survives would fail every other call.
    pub(super) async fn patiently<T, F>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, RuntimeError>
    where
        F: Future<Output = Result<T, RuntimeError>>,
    {
        let clock = &self.journals.clock;
        let end = clock.elapsed().saturating_add(PATIENCE);
        let mut backoff = BACKOFF.initial_delay;
        loop {
            match call().await {
                Err(error) if error.is_retryable() && clock.elapsed() < end => {
                    tracing::debug!(error = %Chain(&error), "repeats a call to the store");
                }
                result => return result,
            }
            clock.sleep(backoff).await;
            backoff = BACKOFF.next(backoff);
        }
    }

    /// Something that the run waits for and that does not progress. Only a run that is working can
    /// wait for something.
    pub(super) async fn waits_for(&self, run: &RunRecord) -> Result<Option<String>, RuntimeError> {
        match run.status {
            RunStatus::Running | RunStatus::Cancelling => {
                Ok(self.journals.stalled_on(&run.id).await?)
            }
            _ => Ok(None),
        }
    }

    /// Notifies a run that its journal has grown.
    pub(super) fn nudge(&self, run_id: String) {
        if let Some(engine) = &self.engine {
            engine.send(&run_id.into(), Message::Wake);
        }
    }

    /// Waits for the end of a run, even while the store is unavailable.
    pub(super) async fn ended(&self, run_id: &Arc<str>) -> Result<RunOutcome, RuntimeError> {
        let Self { journals, engine, ends } = self;
        let mut pause = POLL.initial_delay;
        let mut backoff = BACKOFF.initial_delay;
        loop {
            if let Some(failure) = engine.as_ref().and_then(|engine| engine.failure()) {
                // The run may have ended before the engine stopped.
                return match journals.ended(run_id).await {
                    Ok(Some(ended)) => Ok(ended),
                    Ok(None) | Err(_) => Err(RuntimeError::EngineStopped { failure }),
                };
            }
            // A stopping engine notifies no more callers; they follow the log instead.
            let engine = engine.as_ref().filter(|engine| !engine.is_stopping());
            // Register before checking, so that an end in between is not missed.
            let notified = engine.map(|engine| (engine, engine.waiters.wait(run_id)));
            let watched = notified.is_none().then(|| ends.watch(journals, run_id));
            let recovered = engine.map(|engine| engine.recovered());
            // In this order: when the discovery ends, the run is in memory.
            let is_found_soon = engine.is_some_and(|it| it.is_recovering(run_id));
            let is_held = engine.is_some_and(|it| it.holds(run_id));
            // A run in memory notifies of its end. Its row is still checked at intervals, because
            // another engine may have taken it over.
            let is_live = pause < POLL.max_delay && is_held;
            // Replaced by a shorter one while the store fails.
            let mut next = pause;
            if !is_live {
                match journals.ended(run_id).await {
                    // One that is blocked may be tried again in a moment.
                    Ok(Some(ended)) if ended.status.is_final() || !(is_found_soon || is_held) => {
                        return Ok(ended);
                    }
                    Ok(_) => {
                        ends.store_answered();
                        backoff = BACKOFF.initial_delay;
                    }
                    Err(error) if error.is_retryable() => {
                        ends.store_failed(&error);
                        next = backoff;
                        backoff = BACKOFF.next(backoff);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            tokio::select! {
                biased;
                ended = notified_end(notified, watched) => if let Some(ended) = ended {
                    return Ok(ended);
                },
                () = completed(recovered), if is_found_soon => {}
                () = journals.clock.sleep(next) => pause = POLL.next(pause),
            }
        }
    }
}

/// Waits for a notification, indefinitely if there can be none.
async fn completed(notified: Option<Notified<'_>>) {
    match notified {
        Some(notified) => notified.await,
        None => std::future::pending().await,
    }
}

/// Waits for a notification. Returns the end of the run, or `None` if the run should be checked.
async fn notified_end(
    notified: Option<(&Arc<Engine>, Waiter<'_>)>,
    watched: Option<Watch<'_>>,
) -> Option<RunOutcome> {
    if let Some((engine, mut waiter)) = notified {
        return tokio::select! {
            biased;
            ended = waiter.ended() => ended,
            () = engine.stopped() => None,
        };
    }
    watched?.changed().await;
    None
}
