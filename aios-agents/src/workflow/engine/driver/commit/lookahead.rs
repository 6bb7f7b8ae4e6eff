//! The lookahead of workflows that allow it: an outcome and what the code requests next share an append.
//!
//! Without it, an outcome is recorded, the code sees it and requests the next operation, and that is
//! recorded as well: two commits, one after the other. With it, the code sees the outcome before it is
//! durable, and both are recorded at once. What the code requested takes effect only then: no task is
//! dispatched, no step begins, no timer is set and no output is stored before.
//!
//! | the append | what follows |
//! |---|---|
//! | is durable | the requests take effect |
//! | conflicts, because another process appended first | the code has seen an order that the journal does not have: only the outcome is recorded, and the run is loaded again |
//! | is too large | the same: the outcome may become a failure, which the code must see instead |
//! | is refused for another reason | the same: the store may take the outcome without the requests |
//!
//! Loading again costs what the code has in progress. A run looks ahead only if that is nothing: its other
//! operations wait for timers and signals. It does so until its first conflict after a load. It never looks
//! ahead of the result of a step, which would be lost by a crash; an agent repeats its answer.

use aios_core::{broker::Delivery, store::StoreError};

use crate::workflow::{
    engine::driver::{Driver, Exit, tasks::Outgoing},
    journal::{Entry, Record},
    machine::Request,
};

/// How far the code is, compared with an append in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Lookahead {
    /// It sees the records once they are durable.
    Behind,
    /// It has seen this many records, counted from the first one.
    Ahead(usize),
    /// It has seen them in another order than the journal has.
    Diverged,
}

impl Driver {
    /// Excludes a lookahead for as long as the run is loaded, because its last one was refuted. Takes over
    /// the notices that were not sent then.
    pub(in super::super) fn never_look_ahead(&mut self, notices: Outgoing) {
        self.looks_ahead = false;
        self.take_notices(notices);
    }

    /// Takes over the notices that the last driver of the run has not sent.
    pub(in super::super) fn take_notices(&mut self, mut notices: Outgoing) {
        notices.keep_notices();
        self.tasks.outgoing = notices;
    }

    /// Whether the code has seen outcomes whose append is in flight. Until it is durable, nothing that the
    /// code requested takes effect.
    pub(in super::super) fn is_ahead(&self) -> bool {
        self.append.as_ref().is_some_and(|append| append.lookahead != Lookahead::Behind)
    }

    /// Lets the code see the outcomes that are about to be appended, if it may. What it requests is
    /// recorded by the same append.
    pub(in super::super) async fn look_ahead(&mut self) -> Lookahead {
        if !self.may_look_ahead() {
            return Lookahead::Behind;
        }
        let entries = self.execution.machine().take_recording();
        // Timers that have fired are recorded with the answers, in the order in which the code sees
        // them.
        entries.into_iter().for_each(|entry| self.write(entry));
        if self.write_failure.is_some() {
            return Lookahead::Behind;
        }
        let outcomes: Vec<_> = self.outbox.iter().map(Record::to_applied).collect();
        let seen = outcomes.len();
        self.execution.look_ahead();
        self.apply_all(outcomes).await;
        Lookahead::Ahead(seen)
    }

    /// Whether the records to append are outcomes only, and nothing would be lost by loading the run
    /// again.
    fn may_look_ahead(&self) -> bool {
        if !self.looks_ahead || self.block.must_unblock || self.execution.outcome().is_some() {
            return false;
        }
        let machine = self.execution.machine();
        if machine.is_paused() {
            return false;
        }
        // An operation that is ending must not count as one in progress.
        let mut ended = Vec::new();
        let recorded = self.outbox.iter().map(|record| &record.entry).chain(machine.recording());
        for entry in recorded {
            if !may_be_seen_ahead(entry) {
                return false;
            }
            ended.extend(entry.operation());
        }
        let is_rest = |(operation, request): (u64, &Request)| {
            ended.contains(&operation)
                || matches!(request, Request::Sleep { .. } | Request::Signal { .. })
        };
        !ended.is_empty() && machine.active().all(is_rest)
    }

    /// Records what the code has seen ahead without what it requested then, which the journal refuses.
    /// Once that is durable, the run is loaded again.
    ///
    /// The answers among them stay unacknowledged until then.
    pub(in super::super) fn retreat(
        &mut self,
        mut records: Vec<Record>,
        answers: Vec<Delivery>,
        seen: usize,
    ) -> Option<Exit> {
        records.truncate(seen);
        // Timers fire again when the run is loaded.
        records.retain(|record| record.entry.passes_pause());
        if records.is_empty() {
            return Some(Exit::Diverged);
        }
        self.submit(records, answers, Lookahead::Diverged);
        None
    }
}

/// Whether an append that failed with this error ends the lookahead: the outcomes alone may be accepted.
pub(in super::super) fn is_refuted(error: &StoreError) -> bool {
    #[cfg(feature = "simulation")]
    if aios_core::simulation::plants("a refuted lookahead continues") {
        return false;
    }
    match error {
        // Another engine owns the run, or an answer needs another id.
        StoreError::Fenced { .. } | StoreError::DuplicateEvent { .. } => false,
        error => !error.is_retryable(),
    }
}

/// Whether the code may see an entry before it is durable: it is the outcome of a task, which is recorded
/// whatever another process appends first, or a timer.
fn may_be_seen_ahead(entry: &Entry) -> bool {
    match entry {
        Entry::StepCompleted(_) | Entry::RetryScheduled(_) => false,
        Entry::OperationFailed(failed) => failed.name.is_none(),
        Entry::TimerFired(_) => true,
        entry => entry.passes_pause(),
    }
}
