//! The appends of a run to its own journal.
//!
//! Every append names the version that this driver has applied and the fence of its shard.
//!
//! | the store answers | then |
//! |---|---|
//! | stored | the entries are applied, then the answers among them are acknowledged |
//! | conflict, or the stream is closed | what others appended is read and applied; what it made obsolete is dropped; the rest is appended again |
//! | fenced | another engine owns the run, which leaves memory here |
//! | too large | a failure takes the place of the entry, or the run is blocked |
//! | an id exists | an answer that another engine has recorded is dropped, another one gets another id; anything else blocks the run |
//! | another error that is retryable | the same append is repeated after a pause |
//! | another error | the run leaves memory; one that is given up ends |
//!
//! Before a run leaves memory because of an entry that is refused for good, the outcomes that share its
//! append are appended without it.
//!
//! An append whose response was lost is repeated with the same ids, so the store finds the first one.
//!
//! # Why the version is exact
//!
//! The expected version is what makes one writer's view of the journal certain: a signal that arrived
//! first changes what the code does next, and must be applied first. After a conflict the driver reads
//! what it missed and appends again what is still valid; the end of the run is decided again.
//!
//! # What the fence adds
//!
//! A version alone would not stop an engine that lost its shard and has missed nothing. The store
//! compares the fence with the lease in the same transaction, so a former owner is always refused.

mod known;
mod lookahead;

use std::{collections::BTreeSet, future::poll_fn, sync::Arc};

use aios_core::{
    Chain,
    agent::TaskFailed,
    broker::Delivery,
    event::{EventError, EventId, Timestamp},
    failure::Failure,
    retry::Backoff,
    store::{Append, Appended, EventStore, Expected, RunStatus, StoreError},
};
use tracing::warn;

pub(super) use self::lookahead::Lookahead;
use self::lookahead::is_refuted;
use super::{
    Driver, Exit, InFlight, Message, acknowledge_all,
    entries::{exit, failures, read_entry},
    oversize::{subject, too_large},
};
use crate::workflow::{
    engine::RunOutcome,
    journal::{CancelRequested, Entry, JournalError, Record},
    machine::Request,
};

/// Events read at once.
const PAGE: usize = 1000;

impl Driver {
    /// Whether there are records that should be appended now instead of together with later ones.
    ///
    /// Status texts, pinned versions and cancelled tasks wait for the next durable entry while a step
    /// is running, whose result brings one. Otherwise they are appended by themselves.
    pub(super) fn has_records(&self) -> bool {
        if !self.outbox.is_empty() {
            return true;
        }
        let machine = self.execution.machine();
        if self.execution.outcome().is_some() && !machine.is_paused() && self.children.allow_end() {
            return true;
        }
        let steps = || machine.active().any(|(_, request)| matches!(request, Request::Step { .. }));
        machine.has_recording() && !(machine.recording_is_informational() && steps())
    }

    /// Starts an append of the collected records, if there are any. The failure names an entry that
    /// can't be encoded.
    pub(super) async fn begin_append(&mut self) -> Result<(), Failure> {
        if !self.has_records() {
            return Ok(());
        }
        // May add to the outbox, and to what the code has requested.
        let mut lookahead = self.look_ahead().await;
        if let Some(failure) = self.write_failure.take() {
            return Err(failure);
        }
        match (self.encode_recording(lookahead), lookahead) {
            (Ok(()), _) => {}
            (Err(failure), Lookahead::Behind) => return Err(failure),
            // The outcomes are recorded first. The run is blocked when it requests this again.
            (Err(_), _) => lookahead = Lookahead::Diverged,
        }
        // Everything that was collected since the last append goes into one.
        let records = std::mem::take(&mut self.outbox);
        let answers = std::mem::take(&mut self.answers);
        self.submit(records, answers, lookahead);
        Ok(())
    }

    /// Adds to the outbox what the code has requested, and the end of the run if the code has ended. After
    /// a failure, only outcomes are added.
    fn encode_recording(&mut self, lookahead: Lookahead) -> Result<(), Failure> {
        if self.execution.must_block() {
            // It is blocked once the outcomes that the code has seen are durable.
            return Ok(());
        }
        let entries = self.execution.machine().take_recording();
        // A successor is started, and output is stored, before the end of the run is recorded.
        // Both take appends of their own, which can't be part of this one.
        let is_prepared = |ending: &Entry| {
            !matches!(ending, Entry::Continued(_)) && !self.execution.shared.outputs().is_held()
        };
        let may_end = |ending: &Entry| lookahead == Lookahead::Behind || is_prepared(ending);
        let entries = entries.into_iter().chain(self.ending().filter(may_end));
        let before = self.outbox.len();
        let mut failed = None;
        for entry in entries {
            match self.encode(entry) {
                Ok(record) => self.outbox.push(record),
                Err(error) => {
                    failed.get_or_insert_with(|| Failure::from_error(error.code(), &error));
                }
            }
        }
        let Some(failure) = failed else { return Ok(()) };
        let requested = self.outbox.split_off(before).into_iter();
        // What the code has requested ahead of the journal is requested again.
        let is_kept =
            |record: &Record| lookahead == Lookahead::Behind && record.entry.passes_pause();
        self.outbox.extend(requested.filter(is_kept));
        Err(failure)
    }

    /// Begins an append. `answers` are acknowledged when it is durable.
    pub(super) fn submit(
        &mut self,
        records: Vec<Record>,
        answers: Vec<Delivery>,
        lookahead: Lookahead,
    ) {
        let append = self.append_of(&records, lookahead);
        let store = Arc::clone(&self.engine.store);
        // Readers of output read no further once the run has ended.
        // Only the last record can be the end, because nothing is requested after it.
        let ends = records.last().is_some_and(|record| record.entry.is_final());
        let output = if ends { self.execution.shared.outputs().flush() } else { None };
        let appending = Box::pin(async move {
            if let Some(output) = output {
                output.await;
            }
            store.append_one(append).await
        });
        self.append = Some(InFlight { records, answers, lookahead, failures: 0, appending });
    }

    /// Repeats a failed append after a pause.
    pub(super) fn submit_again(&mut self, in_flight: InFlight) {
        let InFlight { records, answers, lookahead, failures, .. } = in_flight;
        let Backoff { initial_delay, max_delay, .. } = self.engine.options.backoff;
        // The exponent has a limit, because a multiplication of a `Duration` panics when it overflows.
        let pause = (initial_delay * 2_u32.saturating_pow(failures.min(16))).min(max_delay);
        let append = self.append_of(&records, lookahead);
        let store = Arc::clone(&self.engine.store);
        let clock = Arc::clone(&self.engine.clock);
        let appending = Box::pin(async move {
            clock.sleep(pause).await;
            store.append_one(append).await
        });
        self.append =
            Some(InFlight { records, answers, lookahead, failures: failures + 1, appending });
    }

    /// The append of records, under the fence of this driver. One that diverged expects no version: its
    /// records are valid at any place in the journal.
    pub(super) fn append_of(&self, records: &[Record], lookahead: Lookahead) -> Append {
        let events = records.iter().map(|record| record.event.clone()).collect();
        let expected = match lookahead {
            Lookahead::Behind | Lookahead::Ahead(_) => Expected::Exact(self.version),
            Lookahead::Diverged => Expected::Any,
        };
        Append { stream: self.origin.stream.clone(), expected, events, fence: Some(self.fence) }
    }

    /// The entry that ends the run, once its code has ended, unless the run is paused or its
    /// children are still being started or cancelled.
    pub(super) fn ending(&self) -> Option<Entry> {
        self.execution.outcome()?;
        if self.is_paused() || !self.children.allow_end() {
            return None;
        }
        self.execution.ending(|| self.successor_id())
    }

    /// Handles the result of the append in flight.
    pub(super) async fn appended(&mut self, result: Result<Appended, StoreError>) -> Option<Exit> {
        let in_flight = self.append.take()?;
        // First, because a refused lookahead must not be treated as an ordinary append: the code has
        // seen what is not in the journal.
        if let (Lookahead::Ahead(seen), Err(error)) = (in_flight.lookahead, &result)
            && is_refuted(error)
        {
            return self.retreat(in_flight.records, in_flight.answers, seen);
        }
        match result {
            Ok(appended) if self.is_stray(appended, &in_flight) => {
                let known = in_flight.records.iter().map(|record| record.event.id.clone());
                let known = known.collect();
                self.on_known(in_flight, known).await
            }
            Ok(appended) => self.committed(appended, in_flight).await,
            Err(StoreError::Conflict { .. } | StoreError::StreamClosed { .. }) => {
                match in_flight.lookahead {
                    Lookahead::Diverged => Some(Exit::Diverged),
                    Lookahead::Behind | Lookahead::Ahead(_) => {
                        self.catch_up(in_flight, &BTreeSet::new()).await
                    }
                }
            }
            Err(StoreError::Fenced { .. }) => {
                self.engine.lost(self.fence);
                Some(Exit::NotOwner)
            }
            // The outcome becomes a failure, which the code of the run can handle.
            Err(StoreError::TooLarge { id, bytes, limit }) => {
                let failure = too_large(&subject(&in_flight.records, &id), bytes, limit);
                match self.replace_oversized(&in_flight.records, &id, &failure) {
                    Some(shrunk) => self.submit(shrunk, in_flight.answers, in_flight.lookahead),
                    None => {
                        self.keep_outcomes(in_flight.records, in_flight.answers).await;
                        return Some(self.block(failure).await);
                    }
                }
                None
            }
            Err(StoreError::DuplicateEvent { id }) => self.on_known(in_flight, [id].into()).await,
            // The outcome is unknown: the append may be durable. Repeated with the same ids, it is
            // stored once.
            Err(error) if error.is_retryable() => {
                self.engine.store_failed(&error);
                self.submit_again(in_flight);
                None
            }
            Err(error) => {
                self.keep_outcomes(in_flight.records, in_flight.answers).await;
                // One that is given up ends without what the store refuses.
                if self.block.is_given_up && !error.needs_restart() {
                    return Some(self.block(Failure::from_error(error.code(), &error)).await);
                }
                Some(Exit::Failed(error))
            }
        }
    }

    /// Appends the outcomes among records that the store refuses together for good. Their work is done,
    /// and would be done again whenever the run is loaded.
    pub(super) async fn keep_outcomes(&mut self, mut records: Vec<Record>, answers: Vec<Delivery>) {
        let length = records.len();
        records.retain(|record| record.entry.passes_pause());
        let has_outcome = records.iter().any(|record| record.entry.is_outcome());
        if records.len() == length || !has_outcome {
            return;
        }
        let mut backoff = self.engine.options.backoff.initial_delay;
        while self.engine.ownership.is_valid() {
            match self.append_anywhere(&mut records).await {
                Ok(()) => return acknowledge_all(answers).await,
                Err(JournalError::Store(error)) if error.is_retryable() => {
                    self.engine.store_failed(&error);
                }
                Err(error) => {
                    let run = &*self.run_id;
                    return warn!(error = %Chain(&error), run, "could not record what a run has done");
                }
            }
            self.engine.clock.sleep(backoff).await;
            backoff = self.engine.options.backoff.next(backoff);
        }
    }

    /// The append is durable: applies its entries, then acknowledges the answers among them. The order
    /// is the promise of `driver`: an outcome is durable before the code sees it, and an answer is
    /// acknowledged after that.
    async fn committed(&mut self, appended: Appended, in_flight: InFlight) -> Option<Exit> {
        // Set before anything is applied, so that what is recorded next expects it.
        self.version = appended.version;
        let InFlight { records, answers, lookahead, .. } = in_flight;
        records.iter().for_each(|record| self.block.note(&record.entry));
        let ended = records.last().and_then(|record| RunOutcome::from_entry(&record.entry));
        if let (Some(ended), Some(last)) = (&ended, records.last()) {
            self.succession.note_end(&last.entry);
            self.measure_end(ended, last.event.timestamp);
            self.report_untaken_signals(ended);
        }
        match lookahead {
            Lookahead::Behind => {
                self.apply_all(records.into_iter().map(Record::into_applied)).await
            }
            Lookahead::Ahead(seen) => {
                self.execution.end_lookahead();
                // The code has seen the first ones ahead.
                let followers = records.into_iter().skip(seen);
                self.apply_all(followers.map(Record::into_applied)).await;
            }
            Lookahead::Diverged => {}
        }
        // Nothing awaits an answer once the run has ended.
        let unawaited = if ended.is_some() { std::mem::take(&mut self.postponed) } else { vec![] };
        acknowledge_all(answers.into_iter().chain(unawaited)).await;
        self.engine.store_answered();
        if lookahead == Lookahead::Diverged {
            return Some(Exit::Diverged);
        }
        if let Some(ended) = ended {
            return Some(Exit::Ended(ended));
        }
        match std::mem::take(&mut self.reread_pending) {
            true => self.reread().await,
            false => None,
        }
    }

    /// Logs that a run has completed although signals were accepted that its code has not received. They
    /// may have come after its last wait.
    fn report_untaken_signals(&self, ended: &RunOutcome) {
        let signals = self.execution.machine().untaken_signals().len();
        if ended.status == RunStatus::Completed && signals > 0 {
            warn!(run = %self.run_id, signals, "a run has completed without receiving all of its signals");
        }
    }

    /// The journal has foreign appends: applies them, then repeats the append without what they contain.
    /// `known` has the ids that the store refuses because it knows them. If none of them is among the
    /// foreign appends, they belong to other events.
    pub(super) async fn catch_up(
        &mut self,
        mut in_flight: InFlight,
        known: &BTreeSet<EventId>,
    ) -> Option<Exit> {
        let found = match self.read_ahead().await {
            Ok(found) => found,
            Err(Exit::Failed(error)) if error.is_retryable() => {
                self.engine.store_failed(&error);
                // The append will conflict again, and the store may answer then.
                self.submit_again(in_flight);
                return None;
            }
            Err(exit) => return Some(exit),
        };
        let length = in_flight.records.len();
        // Another engine has recorded the same answer.
        in_flight.records.retain(|record| !found.contains(&record.event.id));
        if !known.is_empty() && in_flight.records.len() == length {
            return self.settle_known(in_flight, known).await;
        }
        // The outcome may have changed, for example because the run was cancelled.
        let mut records = in_flight.records;
        // What was read may have ended an operation that these records continue.
        self.drop_obsolete(&mut records);
        if records.last().is_some_and(|record| record.entry.is_final()) {
            // The end is decided again, with what was just read.
            records.pop();
        }
        if self.is_paused() {
            self.put_back(&mut records);
        }
        match records.is_empty() {
            true => acknowledge_all(in_flight.answers).await,
            false => self.submit(records, in_flight.answers, Lookahead::Behind),
        }
        None
    }

    /// Drops further attempts at tasks whose result another engine has recorded, and timeouts of waits whose
    /// signal has come.
    fn drop_obsolete(&self, records: &mut Vec<Record>) {
        let machine = self.execution.machine();
        records.retain(|Record { entry, .. }| match entry {
            Entry::TaskAssigned(_) | Entry::RetryScheduled(_) | Entry::TimerFired(_) => {
                entry.operation().is_none_or(|operation| !machine.has_outcome(operation))
            }
            _ => true,
        });
    }

    /// A paused run begins nothing: operations that it was about to begin wait until it is resumed.
    fn put_back(&self, records: &mut Vec<Record>) {
        let entries = std::mem::take(records).into_iter();
        let (kept, begun): (Vec<_>, Vec<_>) =
            entries.partition(|record| record.entry.passes_pause());
        *records = kept;
        self.execution.machine().put_back(begun.into_iter().map(|record| record.entry));
    }

    /// Applies foreign appends; retries later if the store does not answer.
    pub(super) async fn reread(&mut self) -> Option<Exit> {
        match self.read_ahead().await {
            Ok(_) => None,
            Err(Exit::Failed(error)) if error.is_retryable() => {
                self.engine.store_failed(&error);
                let clock = Arc::clone(&self.engine.clock);
                let pause = self.engine.options.backoff.max_delay;
                self.reread_timer = Some(Box::pin(async move { clock.sleep(pause).await }));
                None
            }
            Err(exit) => Some(exit),
        }
    }

    /// Applies foreign appends, and returns the ids of their events. What waits in the outbox is dropped
    /// if it is among them, or if they made it obsolete.
    ///
    /// Everything is read, page by page. If a page has the end of the run, the run exits at once: the
    /// entries before that end can't change anything any more.
    async fn read_ahead(&mut self) -> Result<BTreeSet<EventId>, Exit> {
        let mut found = BTreeSet::new();
        loop {
            let page = self.engine.store.read_stream(&self.origin.stream, self.version, PAGE).await;
            let page = page.map_err(Exit::Failed)?;
            let Some(last) = page.last() else { return Ok(found) };
            found.extend(page.iter().map(|recorded| recorded.event.id.clone()));
            self.outbox.retain(|record| !found.contains(&record.event.id));
            let version = last.version;
            let is_last = page.len() < PAGE;
            let entries = page
                .iter()
                .map(|recorded| {
                    let entry = read_entry(self.origin.workflow.as_str(), &recorded.event)?;
                    Ok((entry, recorded.event.timestamp))
                })
                .collect::<Result<Vec<_>, EventError>>()
                .map_err(Exit::Unreadable)?;
            self.version = version;
            if let Some(ended) = entries.iter().find_map(|(entry, _)| RunOutcome::from_entry(entry))
            {
                return Err(Exit::Ended(ended));
            }
            // Before they are applied: the code may end because of them.
            self.note_requests(&entries);
            // Collected before the entries are consumed, and recorded after the machine knows them.
            let failed = failures(entries.iter().map(|(entry, _)| entry));
            self.apply_all(entries).await;
            let mut outbox = std::mem::take(&mut self.outbox);
            self.drop_obsolete(&mut outbox);
            self.outbox = outbox;
            self.record_failures(failed);
            // Their answers are in the journal.
            if self.outbox.is_empty() {
                acknowledge_all(std::mem::take(&mut self.answers)).await;
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    /// Records what follows failed attempts that were recorded by engines which do not own the run.
    pub(super) fn record_failures(&mut self, failed: Vec<(u64, TaskFailed)>) {
        for (operation, failed) in failed {
            self.on_failed_elsewhere(failed, operation);
        }
    }

    /// Notes blocks and requests, and keeps the reason of a cancellation.
    fn note_requests(&mut self, entries: &[(Entry, Timestamp)]) {
        for (entry, _) in entries {
            self.block.note(entry);
            if let Entry::CancelRequested(request) = entry {
                self.cancel_requested.get_or_insert_with(|| request.reason.clone());
            }
        }
    }

    /// Feeds durable entries to the execution and polls the code until it has seen them. Also notes
    /// what the driver itself needs of them: children, open tasks and durations.
    pub(super) async fn apply_all<I>(&mut self, entries: I)
    where
        I: IntoIterator<Item = (Entry, Timestamp), IntoIter: Send> + Send,
    {
        for (entry, at) in entries {
            self.children.note(&entry);
            self.tasks.open.note(&entry);
            self.measure_operation(&entry, at);
            self.execution.feed(entry, at);
        }
        poll_fn(|context| self.execution.poll(context)).await;
    }

    /// Forwards a cancellation to the successor if it was requested after the code had ended by
    /// continuing as another run.
    pub(super) async fn forward_cancellation(&mut self) -> Result<(), Exit> {
        let Some(reason) = self.cancel_requested.clone() else { return Ok(()) };
        let Some(Entry::Continued(next)) = self.ending() else { return Ok(()) };
        let id = EventId::derive_from(&self.origin.incarnation, "continued/cancel");
        let entry = Entry::CancelRequested(CancelRequested::new(reason));
        match self.engine.journals.append(&next.run_id, entry, Some(id)).await {
            Ok(()) => self.engine.send(&next.run_id.into(), Message::Wake),
            Err(JournalError::Ended { .. }) => {}
            Err(error) => return Err(exit(error)),
        }
        Ok(())
    }
}
