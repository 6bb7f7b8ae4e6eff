//! Applies batches of events, with retries.
//!
//! A batch is tried once. If it fails, its events are applied one by one, each with the retry
//! policy, so that one faulty event does not hold back the others of its batch. An event that fails
//! for good is recorded as a dead letter before the projection moves past it: if the process dies
//! in between, the event is tried again.
//!
//! An attempt may fail although it has taken effect, for example if the response to a commit is lost. A
//! projection that keeps its own position is asked for it after each failed attempt, and gets only the
//! events after it again.

use std::panic::AssertUnwindSafe;

use aios_core::{
    agent::TaskError, catalog::codes, event::Pattern, failure::Failure, store::RecordedEvent,
};
use futures_util::FutureExt;
use tracing::warn;

use super::{Batch, Projection, error::RunnerError, letters::request, runner::Runner};
use crate::{agent::backoff::jitter, panic::panic_failure};

/// A part of a page.
pub(super) enum Part {
    /// Events to apply together; empty if none of a long stretch matches.
    Batch(Batch),
    /// A request to apply the dead letter at position `letter` again. The request itself is an
    /// event, at `position`.
    Redrive { letter: u64, position: u64 },
}

impl<P: Projection> Runner<P> {
    /// Applies a page around unreadable events. The caller saves the position.
    pub(super) async fn apply_page(&self, page: Vec<RecordedEvent>) -> Result<(), RunnerError> {
        for part in self.parts(page) {
            if self.stop.is_set() {
                return Err(RunnerError::Stopped);
            }
            self.apply_part(part, false).await?;
        }
        Ok(())
    }

    /// Advances a projection that keeps its own position past events that are not applied. If it fails, it
    /// advances with the next event that it applies.
    pub(super) async fn advance_past(&self, position: u64) -> Result<(), RunnerError> {
        if self.settings.position.is_some() {
            let _ = self.apply_with_retries(Batch::empty(position)).await?;
        }
        Ok(())
    }

    /// Divides a page into batches, with the redrive requests for this projection in between.
    pub(super) fn parts(&self, page: Vec<RecordedEvent>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = Vec::new();
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
    pub(super) async fn apply_part(
        &self,
        part: Part,
        unsaved: bool,
    ) -> Result<(u64, bool), RunnerError> {
        match part {
            Part::Batch(batch) if batch.events().is_empty() => {
                // A projection that keeps its own position has to hear of it now and then, or it
                // would read the same events again after a restart.
                if unsaved {
                    self.advance_past(batch.position()).await?;
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
    async fn apply(&self, mut batch: Batch) -> Result<(), RunnerError> {
        if batch.events().len() > 1 {
            let Err(error) = self.attempt(batch.clone()).await else { return Ok(()) };
            let Some(left) = self.unapplied(batch).await? else { return Ok(()) };
            batch = left;
            warn!(
                error = %error, projection = &*self.name, position = batch.position(),
                "a batch failed; applying its events one by one"
            );
        }
        for single in batch.singles() {
            self.apply_single(single).await?;
        }
        Ok(())
    }

    /// Applies one event, or makes it a dead letter and moves past it.
    async fn apply_single(&self, single: Batch) -> Result<(), RunnerError> {
        if let Err((failure, attempts)) = self.apply_with_retries(single.clone()).await? {
            self.dead_letter(&single, failure, attempts, 0).await?;
            self.advance_past(single.position()).await?;
        }
        Ok(())
    }

    /// The part of a batch that a failed attempt has not applied; `None` if it has applied all.
    async fn unapplied(&self, batch: Batch) -> Result<Option<Batch>, RunnerError> {
        let Some(load) = &self.settings.position else { return Ok(Some(batch)) };
        let position = load().await.map_err(RunnerError::position)?;
        Ok(batch.after(position))
    }

    /// Applies a batch with retries. Returns the failure and the number of attempts.
    pub(super) async fn apply_with_retries(
        &self,
        mut batch: Batch,
    ) -> Result<Result<(), (Failure, u32)>, RunnerError> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(batch.clone().with_attempt(attempt)).await {
                Ok(()) => return Ok(Ok(())),
                Err(error) => error,
            };
            match self.unapplied(batch).await? {
                Some(left) => batch = left,
                None => return Ok(Ok(())),
            }
            let retry = &self.settings.retry;
            let again = error.retryable && retry.allows(&error.failure.code);
            let delay = retry.delay_after(attempt, jitter()).filter(|_| again);
            let Some(delay) = delay else { return Ok(Err((error.failure, attempt))) };
            warn!(
                error = %error, projection = &*self.name, position = batch.position(), attempt,
                "failed to apply an event; retrying"
            );
            self.refresh_lag(batch.position()).await;
            let pause = self.unless_stopped(self.journals.clock.sleep(delay));
            pause.await.ok_or(RunnerError::Stopped)?;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Calls the projection once. A panic counts as a retryable error.
    async fn attempt(&self, batch: Batch) -> Result<(), TaskError> {
        let events = u64::try_from(batch.events().len()).unwrap_or(u64::MAX);
        let applying = AssertUnwindSafe(async { self.projection.apply(batch).await });
        let applied = applying.catch_unwind().await;
        let applied = applied.unwrap_or_else(|panic| {
            Err(TaskError::retryable(panic_failure(codes::PROJECTION_PANICKED, &*panic)))
        });
        if applied.is_ok() {
            let name = self.name.to_string();
            metrics::counter!("aios_projection_events_total", "projection" => name)
                .increment(events);
        }
        applied
    }
}
