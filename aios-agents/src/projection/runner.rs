//! Runs one projection: holds its lease, reads the log, applies, and saves the position.
//!
//! ```text
//! acquire ──held by another──► wait a third of the lease time ──► acquire
//!    │
//!    ▼
//! renew every third of the lease time   ∥   follow the log
//!    └── lost, or an error: the batch in progress is dropped, the lease is released, acquire again
//! ```
//!
//! The lease only prevents needless work. A process stops to apply when its lease ends by its own clock,
//! even if the store does not answer. Two processes may apply the same events for a moment, if one is
//! frozen beyond its lease. A projection that saves its position in the transaction of its
//! view can compare it there.
//!
//! The order per batch is: apply, then save the position. A crash in between repeats the batch.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    event::EventId,
    failure::Failure,
    retry::Backoff,
    store::{
        Checkpoints, EventStore, Lease, Leases, OwnerId, PageSize, Shard, StoreError, StreamId,
    },
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Projection, error::RunnerError, running::Stop, settings::Settings};
use crate::{
    agent::backoff::BackoffTimer,
    failing::Failing,
    workflow::{engine::is_unreadable, journal::Journals},
};

/// The highest number of events of the log that are read at once.
const PAGE: usize = 500;
/// How many positions without matching events may pass before the position is saved.
const UNSAVED: u64 = 10_000;
/// The time without new events after which the position is saved in any case.
const IDLE: Duration = Duration::from_secs(1);

/// Runs one projection in this process.
pub(super) struct Runner<P> {
    /// The store, the clock and the source of events.
    pub(super) journals: Journals,
    /// For logs and metrics.
    pub(super) name: Arc<str>,
    /// The stream of its dead letters, and the key of its saved position.
    pub(super) stream: StreamId,
    /// The lease that the name has in the store.
    pub(super) lease: Shard,
    /// The code of the user.
    pub(super) projection: P,
    pub(super) settings: Settings,
    /// Set when the runtime stops.
    pub(super) stop: Stop,
    /// Where a permanent error is reported.
    pub(super) failing: Arc<Failing>,
    /// Its open dead letters after the position from which it continued, whose events it has not reached.
    pub(super) ahead: Mutex<BTreeSet<u64>>,
}

impl<P: Projection> Runner<P> {
    /// Runs until the projection is stopped, or ends after a permanent error.
    pub(super) async fn run(self) {
        // New in each process, so a restart waits for the old lease to expire.
        let owner = OwnerId::new(EventId::generate().to_string());
        let mut backoff = BackoffTimer::new(Backoff::default());
        info!(projection = &*self.name, "projection started");
        // Also if the process drops this. One that does not hold the lease has no lag.
        let _none = NoLag(&self.name);
        while !self.stop.is_set() {
            match self.hold(&owner).await {
                Ok(()) => backoff.reset(),
                Err(RunnerError::Stopped) => break,
                Err(error) if !error.is_retryable() => {
                    self.fail(&error);
                    break;
                }
                Err(error) => {
                    warn!(error = %Chain(&error), projection = &*self.name, "a projection failed; retrying");
                    self.unless_stopped(backoff.wait(&*self.journals.clock)).await;
                }
            }
        }
        info!(projection = &*self.name, "projection stopped");
    }

    /// Reports a permanent error that ends the projection.
    fn fail(&self, error: &RunnerError) {
        let Failure { code, message, .. } = Failure::from_error(error.code(), error);
        let message = format!("projection {}: {message}", self.name);
        tracing::error!(
            error = message,
            code,
            projection = &*self.name,
            "a projection ended after a permanent error"
        );
        self.failing.fail(Failure::new(code, message));
    }

    /// Runs the projection while this process holds its lease.
    async fn hold(&self, owner: &OwnerId) -> Result<(), RunnerError> {
        let time_to_live = self.settings.lease_time;
        let store = &self.journals.store;
        let sent = self.journals.clock.elapsed();
        let leases = store.acquire(&[self.lease], owner, time_to_live).await?;
        if leases.is_empty() {
            report_lag(&self.name, 0);
            let pause = self.journals.clock.sleep(time_to_live / 3);
            self.unless_stopped(pause).await;
            return Ok(());
        }
        let valid_until = watch::Sender::new(self.valid_until(sent));
        let followed = tokio::select! {
            biased;
            () = self.expired(&valid_until) => {
                warn!(
                    projection = &*self.name,
                    "the lease of a projection ended before it could be renewed"
                );
                Ok(())
            }
            lost = self.renew(leases.clone(), &valid_until) => {
                warn!(projection = &*self.name, "lost the lease of a projection to another process");
                lost
            }
            followed = self.follow() => followed,
        };
        // Also after an error, so that another process takes over at once.
        let released = store.release(&leases).await;
        followed?;
        Ok(released?)
    }

    /// When a lease that was requested at a time ends by the clock of this process, which is a margin
    /// before another process can acquire it.
    fn valid_until(&self, sent: Duration) -> Duration {
        let time_to_live = self.settings.lease_time;
        sent.saturating_add(time_to_live - time_to_live / 10)
    }

    /// Completes when the lease ends by the clock of this process, whether or not the store answers.
    async fn expired(&self, valid_until: &watch::Sender<Duration>) {
        let clock = &self.journals.clock;
        loop {
            let rest = valid_until.borrow().saturating_sub(clock.elapsed());
            if rest.is_zero() {
                return;
            }
            clock.sleep(rest).await;
        }
    }

    /// Renews the lease. Returns when it is lost.
    async fn renew(
        &self,
        mut leases: Vec<Lease>,
        valid_until: &watch::Sender<Duration>,
    ) -> Result<(), RunnerError> {
        let time_to_live = self.settings.lease_time;
        while !leases.is_empty() {
            self.journals.clock.sleep(time_to_live / 3).await;
            let sent = self.journals.clock.elapsed();
            leases = self.journals.store.renew(&leases, time_to_live).await?;
            valid_until.send_replace(self.valid_until(sent));
        }
        Ok(())
    }

    /// The position from which the projection continues.
    async fn first_position(&self) -> Result<u64, RunnerError> {
        let store = &self.journals.store;
        let checkpoint = self.stream.as_str();
        // From now on, retention keeps what the projection has not applied. A position is never moved back.
        store.save_checkpoint(checkpoint, 0).await?;
        let Some(load) = &self.settings.position else {
            let position = store.load_checkpoint(checkpoint).await?;
            let head = store.head().await?;
            if position > head {
                let reader = checkpoint.to_owned();
                return Err(StoreError::AfterEnd { reader, position, head }.into());
            }
            return Ok(position);
        };
        let position = load().await.map_err(RunnerError::position)?;
        let head = store.head().await?;
        if position > head {
            return Err(RunnerError::after_end(position, head));
        }
        self.close_redriven(position).await?;
        // The process may have died between the two.
        store.save_checkpoint(checkpoint, position).await?;
        Ok(position)
    }

    /// Applies the log from the position of the projection, until the projection is stopped.
    async fn follow(&self) -> Result<(), RunnerError> {
        let store = &self.journals.store;
        let checkpoint = self.stream.as_str();
        let mut position = self.first_position().await?;
        self.find_letters_after(position).await?;
        let mut saved = position;
        let mut size = PageSize::new(PAGE);
        while !self.stop.is_set() {
            let page = match store.read_log(position, size.events()).await {
                // One unreadable event fails the whole page; it is found and skipped.
                Err(error) if is_unreadable(&error) => {
                    position = self.step_over(position, &mut size).await?;
                    self.close_reached(position).await?;
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                    continue;
                }
                page => page?,
            };
            if page.is_empty() {
                report_lag(&self.name, 0);
                if !self.wait_for_growth(position, position > saved).await? {
                    // Retention waits for this position, and `lag` must reach 0.
                    self.advance_past(position).await?;
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                }
                continue;
            }
            size.adapt(page.len(), &page);
            for part in self.parts(page) {
                if self.stop.is_set() {
                    return Ok(());
                }
                let (reached, applied) = self.apply_part(part, position >= saved + UNSAVED).await?;
                position = reached;
                self.close_reached(position).await?;
                if applied {
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                }
            }
            report_lag(&self.name, store.head().await?.saturating_sub(position));
        }
        Ok(())
    }

    /// Waits until the log grows. With `until_idle`, returns false if it does not grow for some
    /// time.
    async fn wait_for_growth(&self, position: u64, until_idle: bool) -> Result<bool, RunnerError> {
        let idle = async {
            match until_idle {
                true => self.journals.clock.sleep(IDLE).await,
                false => std::future::pending().await,
            }
        };
        let growing = async {
            tokio::select! {
                biased;
                grown = self.journals.store.wait_for(position) => grown.map(|_| true),
                () = idle => Ok(false),
            }
        };
        let grown = self.unless_stopped(growing).await;
        Ok(grown.ok_or(RunnerError::Stopped)??)
    }

    /// Reports the lag of an event that is not applied yet. The log may have grown.
    pub(super) async fn refresh_lag(&self, event: u64) {
        match self.journals.store.head().await {
            Ok(head) => report_lag(&self.name, head.saturating_sub(event.saturating_sub(1))),
            Err(error) => debug!(
                error = %Chain(&error), projection = &*self.name,
                "the lag of a projection is not up to date"
            ),
        }
    }

    /// Waits for a future, or returns `None` when the projection is stopped.
    pub(super) async fn unless_stopped<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.requested() => None,
            value = waiting => Some(value),
        }
    }
}

/// Sets the gauge to 0 when the projection ends.
struct NoLag<'a>(&'a str);

impl Drop for NoLag<'_> {
    fn drop(&mut self) {
        report_lag(self.0, 0);
    }
}

/// Sets the gauge.
fn report_lag(name: &str, lag: u64) {
    let name = name.to_owned();
    #[allow(clippy::cast_precision_loss, reason = "a gauge shows a magnitude")]
    metrics::gauge!("aios_projection_lag", "projection" => name).set(lag as f64);
}
