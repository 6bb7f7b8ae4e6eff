use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    agent::TaskError,
    catalog::system::{DeadLetterPosition, PROJECTION_FAILED, PROJECTION_REDRIVEN},
    event::{EventId, Pattern},
    failure::Failure,
    retry::RetryPolicy,
    store::{
        Append, Checkpoints, EventStore, Lease, Leases, OwnerId, RecordedEvent, Shard, StoreError,
        StreamId,
    },
};
use futures_util::FutureExt;
use serde::Serialize;
use tracing::{info, warn};

use super::{
    Batch, DEFAULT_BATCH_SIZE, DEFAULT_LEASE_TIME, Projection, ProjectionDeadLetter,
    letters::{note, open, request},
    running::Stop,
    start::Position,
};
use crate::{
    agent::backoff::{Backoff, jitter},
    failing::{Failing, truncate},
    panic::panic_failure,
    workflow::{
        engine::{Range, is_unreadable, read_range},
        journal::Journals,
    },
};

/// How many events of the log are read at once.
const PAGE: usize = 500;
/// How many positions are read at once in a range with unreadable events.
const RANGE: u64 = 500;
/// How many positions without matching events may pass before the position is saved.
const UNSAVED: u64 = 10_000;
/// The time without new events after which the position is saved in any case.
const IDLE: Duration = Duration::from_secs(1);

/// Options of a projection.
pub(super) struct Settings {
    pub(super) patterns: Option<Vec<Pattern>>,
    pub(super) batch_size: usize,
    pub(super) retry: RetryPolicy,
    pub(super) lease_time: Duration,
    pub(super) position: Option<Position>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patterns: None,
            batch_size: DEFAULT_BATCH_SIZE,
            retry: RetryPolicy::new(),
            lease_time: DEFAULT_LEASE_TIME,
            position: None,
        }
    }
}

/// Runs one projection in this process.
pub(super) struct Runner<P> {
    pub(super) journals: Journals,
    pub(super) name: Arc<str>,
    pub(super) stream: StreamId,
    pub(super) lease: Shard,
    pub(super) projection: P,
    pub(super) settings: Settings,
    pub(super) stop: Stop,
    pub(super) failing: Arc<Failing>,
}

/// Why a projection was interrupted.
#[derive(Debug, thiserror::Error)]
enum RunnerError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("failed to encode an event")]
    Event(#[from] aios_core::event::EventError),
    #[error("failed to load the projection's own position")]
    Position {
        #[source]
        failure: Failure,
        retryable: bool,
    },
    #[error("the projection was stopped")]
    Stopped,
}

impl RunnerError {
    fn position(error: TaskError) -> Self {
        let TaskError { failure, retryable } = error;
        Self::Position { failure, retryable }
    }

    /// Whether the error is transient.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Position { retryable, .. } => *retryable,
            Self::Event(_) | Self::Stopped => false,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Store(error) => error.code(),
            Self::Position { failure, .. } => &failure.code,
            Self::Event(error) => error.code(),
            Self::Stopped => "PROJECTION_STOPPED",
        }
    }
}

impl<P: Projection> Runner<P> {
    pub(super) async fn run(self) {
        let owner = OwnerId::new(EventId::generate().to_string());
        let mut backoff = Backoff::new(&RetryPolicy::new());
        info!(projection = &*self.name, "projection started");
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
        let leases = store.acquire(&[self.lease], owner, time_to_live).await?;
        if leases.is_empty() {
            let pause = self.journals.clock.sleep(time_to_live / 3);
            self.unless_stopped(pause).await;
            return Ok(());
        }
        let followed = tokio::select! {
            biased;
            lost = self.renew(leases.clone()) => {
                warn!(projection = &*self.name, "lost the lease of a projection to another process");
                lost
            }
            followed = self.follow() => followed,
        };
        let released = store.release(&leases).await;
        followed?;
        Ok(released?)
    }

    /// Renews the lease. Returns when it is lost.
    async fn renew(&self, mut leases: Vec<Lease>) -> Result<(), RunnerError> {
        let time_to_live = self.settings.lease_time;
        while !leases.is_empty() {
            self.journals.clock.sleep(time_to_live / 3).await;
            leases = self.journals.store.renew(&leases, time_to_live).await?;
        }
        Ok(())
    }

    /// Applies the log from the position of the projection, until the projection is stopped.
    async fn follow(&self) -> Result<(), RunnerError> {
        let store = &self.journals.store;
        let checkpoint = self.stream.as_str();
        let mut position = match &self.settings.position {
            Some(load) => load().await.map_err(RunnerError::position)?,
            None => store.load_checkpoint(checkpoint).await?,
        };
        let mut saved = position;
        while !self.stop.is_set() {
            let page = match store.read_log(position, PAGE).await {
                Err(error) if is_unreadable(&error) => {
                    position = self.step_over(position).await?;
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                    continue;
                }
                page => page?,
            };
            if page.is_empty() {
                self.report_lag(0);
                if !self.wait_for_growth(position, position > saved).await? {
                    // Retention waits for this position, and `lag` must reach 0.
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                }
                continue;
            }
            for part in self.parts(page) {
                if self.stop.is_set() {
                    return Ok(());
                }
                let (reached, applied) = self.apply_part(part, position >= saved + UNSAVED).await?;
                position = reached;
                if applied {
                    store.save_checkpoint(checkpoint, position).await?;
                    saved = position;
                }
            }
            self.report_lag(store.head().await?.saturating_sub(position));
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

    /// Applies the readable events of a range of the log. Unreadable ones become dead letters.
    /// Returns the new position.
    async fn step_over(&self, position: u64) -> Result<u64, RunnerError> {
        let store = &self.journals.store;
        let up_to = store.head().await?.min(position.saturating_add(RANGE));
        let Range { events, unreadable } = read_range(&**store, position, up_to, &[]).await?;
        let mut unreadable = unreadable.into_iter().peekable();
        let mut page = Vec::new();
        for recorded in events {
            while let Some((at, error)) = unreadable.next_if(|(at, _)| *at < recorded.position) {
                self.apply_page(std::mem::take(&mut page)).await?;
                self.skip_unreadable(at, &error).await?;
            }
            page.push(recorded);
        }
        self.apply_page(page).await?;
        for (at, error) in unreadable {
            self.skip_unreadable(at, &error).await?;
        }
        Ok(up_to)
    }

    async fn apply_page(&self, page: Vec<RecordedEvent>) -> Result<(), RunnerError> {
        for part in self.parts(page) {
            if self.stop.is_set() {
                return Err(RunnerError::Stopped);
            }
            self.apply_part(part, false).await?;
        }
        Ok(())
    }

    /// Records that the unreadable event at a position is skipped. A projection that keeps its own
    /// position advances past it.
    async fn skip_unreadable(&self, position: u64, error: &StoreError) -> Result<(), RunnerError> {
        let failure = Failure::from_error(error.code(), error);
        self.record_dead_letter(ProjectionDeadLetter {
            position,
            event_id: String::new(),
            event_type: String::new(),
            failure,
            attempts: 0,
        })
        .await?;
        self.advance_past(position).await
    }

    /// Advances a projection that keeps its own position past a skipped event.
    async fn advance_past(&self, position: u64) -> Result<(), RunnerError> {
        if self.settings.position.is_some() {
            let _ = self.apply_with_retries(Batch::empty(position)).await?;
        }
        Ok(())
    }

    /// Divides a page into batches, with the redrive requests for this projection in between.
    fn parts(&self, page: Vec<RecordedEvent>) -> Vec<Part> {
        let (mut parts, mut rest) = (Vec::new(), Vec::new());
        let all = [Pattern::all()];
        let patterns = self.settings.patterns.as_deref().unwrap_or(&all);
        let divide = |rest: &mut Vec<RecordedEvent>, parts: &mut Vec<Part>| {
            let batches = Batch::divide(std::mem::take(rest), patterns, self.settings.batch_size);
            parts.extend(batches.into_iter().map(Part::Batch));
        };
        for recorded in page {
            match request(&recorded, &self.stream) {
                Some(letter) => {
                    divide(&mut rest, &mut parts);
                    parts.push(Part::Redrive { letter, position: recorded.position });
                }
                None => rest.push(recorded),
            }
        }
        divide(&mut rest, &mut parts);
        parts
    }

    /// Applies a part. Returns the new position, and whether it must be saved.
    async fn apply_part(&self, part: Part, unsaved: bool) -> Result<(u64, bool), RunnerError> {
        match part {
            Part::Batch(batch) if batch.events().is_empty() => {
                if unsaved && self.settings.position.is_some() {
                    self.apply(batch.clone()).await?;
                }
                Ok((batch.position(), unsaved))
            }
            Part::Batch(batch) => {
                let position = batch.position();
                self.apply(batch).await?;
                Ok((position, true))
            }
            Part::Redrive { letter, position } => {
                self.redrive(letter, position).await?;
                Ok((position, true))
            }
        }
    }

    /// Applies a batch. If that fails, applies its events one by one.
    async fn apply(&self, batch: Batch) -> Result<(), RunnerError> {
        if batch.events().len() > 1 {
            match self.attempt(batch.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => warn!(
                    error = %error, projection = &*self.name, position = batch.position(),
                    "a batch failed; applying its events one by one"
                ),
            }
        }
        for single in batch.singles() {
            self.apply_single(single).await?;
        }
        Ok(())
    }

    async fn apply_single(&self, single: Batch) -> Result<(), RunnerError> {
        if let Err((failure, attempts)) = self.apply_with_retries(single.clone()).await? {
            self.dead_letter(&single, failure, attempts).await?;
            self.advance_past(single.position()).await?;
        }
        Ok(())
    }

    /// Applies a batch with retries. Returns the failure and the number of attempts.
    async fn apply_with_retries(
        &self,
        batch: Batch,
    ) -> Result<Result<(), (Failure, u32)>, RunnerError> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(batch.clone().with_attempt(attempt)).await {
                Ok(()) => return Ok(Ok(())),
                Err(error) => error,
            };
            let retry = &self.settings.retry;
            let again = error.retryable && retry.allows(&error.failure.code);
            let delay = retry.delay_after(attempt, jitter()).filter(|_| again);
            let Some(delay) = delay else { return Ok(Err((error.failure, attempt))) };
            warn!(
                error = %error, projection = &*self.name, position = batch.position(), attempt,
                "failed to apply an event; retrying"
            );
            let pause = self.unless_stopped(self.journals.clock.sleep(delay));
            pause.await.ok_or(RunnerError::Stopped)?;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn attempt(&self, batch: Batch) -> Result<(), TaskError> {
        let events = u64::try_from(batch.events().len()).unwrap_or(u64::MAX);
        let applying = AssertUnwindSafe(async { self.projection.apply(batch).await });
        let applied = applying.catch_unwind().await;
        let applied = applied.unwrap_or_else(|panic| {
            Err(TaskError::retryable(panic_failure("PROJECTION_PANICKED", &*panic)))
        });
        if applied.is_ok() {
            let name = self.name.to_string();
            metrics::counter!("aios_projection_events_total", "projection" => name)
                .increment(events);
        }
        applied
    }

    /// Records an event that is skipped as a dead letter.
    async fn dead_letter(
        &self,
        single: &Batch,
        failure: Failure,
        attempts: u32,
    ) -> Result<(), RunnerError> {
        let Some(recorded) = single.events().first() else { return Ok(()) };
        self.record_dead_letter(ProjectionDeadLetter {
            position: recorded.position,
            event_id: recorded.event.id.to_string(),
            event_type: recorded.event.event_type.to_string(),
            failure,
            attempts,
        })
        .await
    }

    /// Records a dead letter. Truncates a failure that is larger than the store accepts.
    async fn record_dead_letter(
        &self,
        mut letter: ProjectionDeadLetter,
    ) -> Result<(), RunnerError> {
        warn!(
            failure = %letter.failure, projection = &*self.name, position = letter.position,
            attempts = letter.attempts, "an event became a dead letter"
        );
        let name = self.name.to_string();
        metrics::counter!("aios_projection_dead_letters_total", "projection" => name).increment(1);
        match self.note(PROJECTION_FAILED, &letter).await {
            Err(RunnerError::Store(StoreError::TooLarge { .. })) => {
                letter.failure = truncate(&letter.failure);
                self.note(PROJECTION_FAILED, &letter).await
            }
            noted => noted,
        }
    }

    /// Applies a dead letter again, unless it was redriven already.
    async fn redrive(&self, letter: u64, position: u64) -> Result<(), RunnerError> {
        let store = &self.journals.store;
        if !open(&**store, &self.stream).await?.contains_key(&letter) {
            return Ok(());
        }
        let found = match store.read_log(letter.saturating_sub(1), 1).await {
            Err(error) if is_unreadable(&error) => {
                return self.skip_unreadable(letter, &error).await;
            }
            found => found?.pop(),
        };
        let Some(recorded) = found.filter(|recorded| recorded.position == letter) else {
            warn!(
                projection = &*self.name,
                position = letter,
                "the event of a dead letter is not in the log"
            );
            return Ok(());
        };
        let batch = Batch::redriven(recorded, position);
        match self.apply_with_retries(batch.clone()).await? {
            Ok(()) => {
                info!(projection = &*self.name, position = letter, "applied a dead letter");
                self.note(PROJECTION_REDRIVEN, &DeadLetterPosition { position: letter }).await
            }
            Err((failure, attempts)) => self.dead_letter(&batch, failure, attempts).await,
        }
    }

    async fn note<T: Serialize + Sync>(&self, action: &str, data: &T) -> Result<(), RunnerError> {
        let Journals { store, clock, source, .. } = &self.journals;
        let event = note(action, source, &**clock, data)?;
        store.append_one(Append::new(self.stream.clone(), vec![event])).await?;
        Ok(())
    }

    fn report_lag(&self, lag: u64) {
        let name = self.name.to_string();
        #[allow(clippy::cast_precision_loss, reason = "a gauge shows a magnitude")]
        metrics::gauge!("aios_projection_lag", "projection" => name).set(lag as f64);
    }

    /// Waits for a future, or returns `None` when the projection is stopped.
    async fn unless_stopped<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.requested() => None,
            value = waiting => Some(value),
        }
    }
}

/// A part of a page.
enum Part {
    Batch(Batch),
    Redrive { letter: u64, position: u64 },
}
