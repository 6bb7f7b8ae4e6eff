//! Appends with events whose ids the store knows.
//!
//! | the id is | the event is |
//! |---|---|
//! | among the foreign appends | dropped: another engine has recorded the same answer |
//! | elsewhere in this journal, and the event is an answer | dropped for the same reason |
//! | in another stream, and the event is an answer | appended with a new id |
//! | stored, and the event is no answer | the reason for which the run is blocked |

use std::collections::BTreeSet;

use aios_core::{
    catalog::codes,
    event::{Event, EventId},
    failure::Failure,
    store::{Appended, StoreError},
};
use tracing::warn;

use super::lookahead::Lookahead;
use crate::workflow::{
    engine::driver::{Driver, Exit, InFlight, acknowledge_all, entries::exit},
    journal::{Entry, JournalError, Record},
};

impl Driver {
    /// Whether the store found all of the events at another place in the journal: another engine has
    /// recorded the same answers, or they are other events with the same ids. Events found at the
    /// expected place were appended by an earlier attempt, and so were those of an append that expects
    /// no place: the ids of outcomes are derived from their run or new.
    pub(in super::super) fn is_stray(&self, appended: Appended, in_flight: &InFlight) -> bool {
        if in_flight.lookahead == Lookahead::Diverged {
            return false;
        }
        let length: u64 = in_flight.records.len().try_into().unwrap_or(u64::MAX);
        // A repetition that was stored by an earlier attempt directly follows what was applied.
        appended.repeated && appended.version != self.version + length
    }

    /// The store knows the ids of some of the events. Usually another engine has recorded the same answer,
    /// which is then found among the foreign appends.
    pub(in super::super) async fn on_known(
        &mut self,
        in_flight: InFlight,
        known: BTreeSet<EventId>,
    ) -> Option<Exit> {
        match in_flight.lookahead {
            Lookahead::Ahead(seen) => self.retreat(in_flight.records, in_flight.answers, seen),
            Lookahead::Behind => self.catch_up(in_flight, &known).await,
            Lookahead::Diverged => self.settle_known(in_flight, &known).await,
        }
    }

    /// Appends the records again without what is stored already. Blocks the run if an event that is no
    /// answer is stored: the ids of other events are derived from their run or new.
    pub(in super::super) async fn settle_known(
        &mut self,
        in_flight: InFlight,
        known: &BTreeSet<EventId>,
    ) -> Option<Exit> {
        let is_other = |it: &&Record| known.contains(&it.event.id) && !is_answer(it);
        if let Some(other) = in_flight.records.iter().find(is_other) {
            let Event { id, event_type, .. } = &other.event;
            let message = format!("event {id} ({event_type}) is stored already");
            let failure = self.engine.own_failure(Failure::new(codes::DUPLICATE_EVENT, message));
            self.keep_outcomes(in_flight.records, in_flight.answers).await;
            return Some(self.block(failure).await);
        }
        let records = match self.without_known(&in_flight.records, known).await {
            Ok(records) => records,
            Err(JournalError::Store(error)) if error.is_retryable() => {
                self.engine.store_failed(&error);
                self.submit_again(in_flight);
                return None;
            }
            Err(error) => return Some(exit(error)),
        };
        let InFlight { answers, lookahead, .. } = in_flight;
        if !records.is_empty() {
            self.submit(records, answers, lookahead);
            return None;
        }
        acknowledge_all(answers).await;
        (lookahead == Lookahead::Diverged).then_some(Exit::Diverged)
    }

    /// Appends records whose place in the journal does not matter, without those that are stored
    /// already.
    pub(in super::super) async fn append_anywhere(
        &mut self,
        records: &mut Vec<Record>,
    ) -> Result<(), JournalError> {
        while !records.is_empty() {
            let append = self.append_of(records, Lookahead::Diverged);
            let Err(error) = self.engine.store.append_one(append).await else { return Ok(()) };
            let is_known = |known: &EventId| {
                records.iter().any(|record| record.event.id == *known && is_answer(record))
            };
            *records = match error {
                StoreError::DuplicateEvent { id } if is_known(&id) => {
                    self.without_known(records, &[id].into()).await?
                }
                error => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// The records without the answers whose ids are in this journal: they were recorded before. An
    /// answer whose id is that of an event in another stream gets a new one.
    ///
    /// The journal is read for it. That is rare: answers that were found among the foreign appends are
    /// gone already.
    async fn without_known(
        &mut self,
        records: &[Record],
        known: &BTreeSet<EventId>,
    ) -> Result<Vec<Record>, JournalError> {
        let mut left = Vec::with_capacity(records.len());
        for record in records {
            let mut record = record.clone();
            if known.contains(&record.event.id) && is_answer(&record) {
                let id = &record.event.id;
                if self.engine.journals.has_recorded(&self.run_id, id).await? {
                    continue;
                }
                let known = std::mem::replace(&mut record.event.id, EventId::generate());
                warn!(event = %known, run = %self.run_id, "ignored an answer that has the id of another event");
                record.event.metadata_mut().causation_id = Some(known.to_string().into());
            }
            left.push(record);
        }
        Ok(left)
    }
}

/// Whether the event is an answer, which any engine may have recorded.
fn is_answer(record: &Record) -> bool {
    matches!(record.entry, Entry::TaskCompleted(_) | Entry::TaskFailed(_))
}
