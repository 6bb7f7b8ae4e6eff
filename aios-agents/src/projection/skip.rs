//! Events that a projection skips: they become dead letters, which can be applied again.
//!
//! Two kinds of events are skipped: those on which the projection fails for good, and those that
//! the store can't read. The record of the dead letter comes first, then the position moves past
//! the event. After a crash in between, the event is tried again, and the letter is closed if that
//! succeeds.
//!
//! The store fails a whole page if one of its events is unreadable. The range is therefore read
//! again in parts, until the unreadable events are isolated. Readable events between them are
//! applied in order.

use std::collections::BTreeMap;

use aios_core::{
    Chain,
    catalog::system::{DeadLetterPosition, PROJECTION_FAILED, PROJECTION_REDRIVEN},
    failure::Failure,
    store::{Append, EventStore, PageSize, StoreError},
};
use serde::Serialize;
use tracing::{info, warn};

use super::{
    Batch, Projection, ProjectionDeadLetter,
    error::RunnerError,
    letters::{is_record, note, open, redriven},
    runner::Runner,
};
use crate::{
    failing::truncate,
    workflow::{
        engine::{Range, is_unreadable, read_range},
        journal::Journals,
    },
};

impl<P: Projection> Runner<P> {
    /// Applies the readable events of the next positions of the log, as many as a page has events. Unreadable
    /// ones become dead letters. Returns the new position.
    pub(super) async fn step_over(
        &self,
        position: u64,
        size: &mut PageSize,
    ) -> Result<u64, RunnerError> {
        let store = &self.journals.store;
        let range = size.events();
        let up_to = store.head().await?.min(position.saturating_add(range as u64));
        let Range { events, unreadable } = read_range(&**store, position, up_to, &[]).await?;
        size.adapt(range, &events);
        let mut unreadable = unreadable.into_iter().peekable();
        let mut page = Vec::new();
        for recorded in events {
            while let Some((at, error)) = unreadable.next_if(|(at, _)| *at < recorded.position) {
                self.apply_page(std::mem::take(&mut page)).await?;
                self.skip_unreadable(at, &error, at, 0).await?;
            }
            page.push(recorded);
        }
        self.apply_page(page).await?;
        for (at, error) in unreadable {
            self.skip_unreadable(at, &error, at, 0).await?;
        }
        Ok(up_to)
    }

    /// Records that the unreadable event at a position is skipped. A projection that keeps its own
    /// position advances to `reached`. `request` is the position of the request to apply the event, or 0.
    async fn skip_unreadable(
        &self,
        position: u64,
        error: &StoreError,
        reached: u64,
        request: u64,
    ) -> Result<(), RunnerError> {
        let failure = Failure::from_error(error.code(), error);
        let mut letter = ProjectionDeadLetter::new(position, failure, 0);
        letter.request = Some(request);
        self.record_dead_letter(letter).await?;
        self.advance_past(reached).await
    }

    /// Records an event that is skipped as a dead letter. `request` is the position of the request to apply
    /// it, or 0.
    ///
    /// The record of a dead letter does not become one: a projection that fails on every event would get
    /// the record of each failure as another event, without end.
    pub(super) async fn dead_letter(
        &self,
        single: &Batch,
        failure: Failure,
        attempts: u32,
        request: u64,
    ) -> Result<(), RunnerError> {
        let Some(recorded) = single.events().first() else { return Ok(()) };
        if is_record(&recorded.event.event_type) {
            warn!(
                %failure, projection = &*self.name, position = recorded.position, attempts,
                "skipped the record of a dead letter, which could not be applied"
            );
            return Ok(());
        }
        let mut letter = ProjectionDeadLetter::new(recorded.position, failure, attempts);
        letter.event_id = recorded.event.id.to_string();
        letter.event_type = recorded.event.event_type.to_string();
        letter.request = Some(request);
        self.record_dead_letter(letter).await
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
        // It stays open.
        self.ahead.lock().remove(&letter.position);
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

    /// Records the dead letters that a projection which keeps its own position has applied again without a
    /// record of it. It saves that position together with the event of the letter, and the process
    /// may have died right after that.
    pub(super) async fn close_redriven(&self, position: u64) -> Result<(), RunnerError> {
        for letter in redriven(&*self.journals.store, &self.stream, position).await? {
            self.note(PROJECTION_REDRIVEN, &DeadLetterPosition::new(letter)).await?;
        }
        Ok(())
    }

    /// Finds the dead letters after the position from which the projection continues: it applies their
    /// events like all others from there on. It may have begun again, or its process died before the
    /// position moved past the event.
    pub(super) async fn find_letters_after(&self, position: u64) -> Result<(), RunnerError> {
        let open = match open(&*self.journals.store, &self.stream).await {
            Err(error) if is_unreadable(&error) => {
                warn!(
                    error = %Chain(&error), projection = &*self.name,
                    "can't read the dead letters; those that are applied again remain listed"
                );
                BTreeMap::new()
            }
            open => open?,
        };
        *self.ahead.lock() = open.into_keys().filter(|letter| *letter > position).collect();
        Ok(())
    }

    /// Closes those dead letters up to a position, whose events were applied.
    pub(super) async fn close_reached(&self, position: u64) -> Result<(), RunnerError> {
        let reached: Vec<u64> = self.ahead.lock().range(..=position).copied().collect();
        for letter in reached {
            self.note(PROJECTION_REDRIVEN, &DeadLetterPosition::new(letter)).await?;
            self.ahead.lock().remove(&letter);
        }
        Ok(())
    }

    /// Applies a dead letter again, unless it was redriven already. A letter whose event was removed from the
    /// log counts as redriven: nothing is left to apply.
    pub(super) async fn redrive(&self, letter: u64, position: u64) -> Result<(), RunnerError> {
        let store = &self.journals.store;
        if !open(&**store, &self.stream).await?.contains_key(&letter) {
            return Ok(());
        }
        let found = match store.read_log(letter.saturating_sub(1), 1).await {
            Err(error) if is_unreadable(&error) => {
                return self.skip_unreadable(letter, &error, position, position).await;
            }
            found => found?.pop(),
        };
        let Some(recorded) = found.filter(|recorded| recorded.position == letter) else {
            warn!(
                projection = &*self.name,
                position = letter,
                "the event of a dead letter is not in the log any more; the letter is closed"
            );
            return self.note(PROJECTION_REDRIVEN, &DeadLetterPosition::new(letter)).await;
        };
        let batch = Batch::redriven(recorded, position);
        match self.apply_with_retries(batch.clone()).await? {
            Ok(()) => {
                info!(projection = &*self.name, position = letter, "applied a dead letter");
                self.note(PROJECTION_REDRIVEN, &DeadLetterPosition::new(letter)).await
            }
            Err((failure, attempts)) => self.dead_letter(&batch, failure, attempts, position).await,
        }
    }

    /// Appends an event to the stream of the projection.
    async fn note<T: Serialize + Sync>(&self, action: &str, data: &T) -> Result<(), RunnerError> {
        let Journals { store, clock, source, .. } = &self.journals;
        let event = note(action, source, &**clock, data)?;
        store.append_one(Append::new(self.stream.clone(), vec![event])).await?;
        Ok(())
    }
}
