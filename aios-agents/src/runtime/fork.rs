//! Copies of a run that continue from one of its operations.
//!
//! A copy has the start and all entries before the cut, rewritten to the id of the new run; what a
//! client has asked of the run, such as a pause, is left out. Everything is appended at once, so a copy
//! exists completely or not at all. The new run then replays the copied entries as its own, and
//! continues with the operation at the cut.
//!
//! A request with an id makes the id of the first event, so a repeated request finds the run that
//! it has created before.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::{
    catalog::workflow::Gap,
    event::{Event, EventId, Metadata},
    failure::Failure,
    store::{RunRecord, RunStatus},
};

use super::{RunHandle, RuntimeError, send::check_metadata};
use crate::workflow::{
    journal::{
        ChildEnded, ChildStarted, Codec, Entry, Failed, Fork, Parent, Selection, decode, mark_copy,
        on_behalf_of, seed_of,
    },
    machine::signal_timeout,
    run_id,
};

/// Events of a journal that are read at once.
const PAGE: usize = 1000;

impl RunHandle {
    /// Starts a new run with a copy of this run's journal up to an operation, and continues from
    /// there with the current code. Earlier operations that were still open start again with their full
    /// timeout.
    ///
    /// The new run keeps the version of the workflow, so that version must still be registered. The version
    /// of a change that the run chose after the last of the copied operations is chosen again.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownOperation`] if the journal has no such operation;
    /// [`RuntimeError::RunExists`] if the new id is taken; [`RuntimeError::InvalidRunId`] if the
    /// new id is invalid; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have started the new run.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{RunHandle, RuntimeError};
    ///
    /// /// Repeats everything from operation 3 with the code of today, and keeps the results of 1 and 2.
    /// async fn repeat(run: &RunHandle) -> Result<u32, Box<dyn std::error::Error>> {
    ///     let again = run.fork(3, format!("{}-again", run.id())).await?;
    ///     Ok(again.result().await?)
    /// }
    /// # let _ = repeat;
    /// ```
    pub async fn fork(
        &self,
        operation: u64,
        new_id: impl Into<Arc<str>>,
    ) -> Result<Self, RuntimeError> {
        let new_id = new_id.into();
        if let Some(made) = self.copy_made_before(&new_id).await? {
            return Ok(made);
        }
        let RunRecord { id: run_id, workflow, .. } = self.status().await?;
        let cut = Cut { run_id: &run_id, workflow: &workflow, operation, is_retry: false };
        self.begin_copy(cut, new_id).await
    }

    /// Starts a new run that does the failed operation of this run again: a [fork](Self::fork) from the
    /// operation with which the run failed, or from its last failed operation if the run failed for
    /// another reason. Results of earlier operations are kept, and so are all signals; the failed
    /// operation and those with a higher number are done again, with the current code. So is an earlier
    /// operation that had not ended, and one that ended later than they began, if its journal shows only
    /// its end, as that of a step.
    ///
    /// The result of a child that has succeeded after the run had failed is kept as well. A child that still
    /// runs belongs to this run: the new run starts another one. If the child has an id of its own, which
    /// does not change with the id of the run, that fails with `RUN_EXISTS`; so does a retry of a child
    /// with such an id that has failed.
    ///
    /// Compensations that this run has made are not undone. If they have undone effects of operations
    /// whose results are kept, start the workflow again instead.
    ///
    /// The start of the new run names this run (`retry_of`). A run can be retried any number of times.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::RunNotFailed`] if the run has not failed; [`RuntimeError::NoFailedOperation`] if
    /// none of its operations has failed; otherwise see [`fork`](Self::fork).
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have started the new run.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use aios_agents::prelude::*;
    ///
    /// static IS_FIXED: AtomicBool = AtomicBool::new(false);
    ///
    /// async fn order(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    ///     let price: u32 = context.run("price", || async { 7 }).await?; // done once
    ///     let pay = || async {
    ///         match IS_FIXED.load(Ordering::Relaxed) {
    ///             true => Ok(price),
    ///             false => Err(TaskError::terminal(Failure::new("NO_ACCOUNT", "there is no account"))),
    ///         }
    ///     };
    ///     context.step("pay", pay).await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .workflow("order", order)
    /// #     .start()
    /// #     .await?;
    /// let run = runtime.start("order", &()).id("order-7").await?;
    /// assert_eq!(run.result::<u32>().await.unwrap_err().code(), "NO_ACCOUNT");
    ///
    /// IS_FIXED.store(true, Ordering::Relaxed);
    /// let again = run.retry("order-7-again").await?;
    /// assert_eq!(again.result::<u32>().await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn retry(&self, new_id: impl Into<Arc<str>>) -> Result<Self, RuntimeError> {
        let new_id = new_id.into();
        if let Some(made) = self.copy_made_before(&new_id).await? {
            return Ok(made);
        }
        let RunRecord { id: run_id, workflow, status, .. } = self.status().await?;
        if status != RunStatus::Failed {
            return Err(RuntimeError::RunNotFailed { run_id, status });
        }
        let operation = self.failed_operation(&run_id).await?;
        let cut = Cut { run_id: &run_id, workflow: &workflow, operation, is_retry: true };
        self.begin_copy(cut, new_id).await
    }

    /// The operation with which a run failed.
    async fn failed_operation(&self, run_id: &str) -> Result<u64, RuntimeError> {
        let mut failed = Vec::new();
        let mut awaited = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = self.journal_of(run_id, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            for recorded in page {
                match decode(&recorded.event)? {
                    Entry::OperationFailed(it) => failed.push((it.operation, it.failure)),
                    Entry::ChildEnded(it) => {
                        failed.extend(it.failure.map(|failure| (it.operation, failure)));
                    }
                    Entry::SignalAwaited(it) => drop(awaited.insert(it.operation, it.name)),
                    // The wait for a signal timed out.
                    Entry::TimerFired(it) => {
                        let name = awaited.get(&it.operation);
                        failed.extend(name.map(|name| (it.operation, signal_timeout(name))));
                    }
                    Entry::Failed(run) => {
                        return cause_of(&run, &failed).ok_or_else(|| none_failed(run_id));
                    }
                    _ => {}
                }
            }
        }
        Err(none_failed(run_id))
    }

    /// Copies the journal up to the cut, and begins the new run with it.
    async fn begin_copy(&self, cut: Cut<'_>, new_id: Arc<str>) -> Result<Self, RuntimeError> {
        check_metadata(&self.metadata)?;
        let mut events = self.copies(cut, &new_id).await?;
        if let Some((id, first)) = self.request_event("fork").zip(events.first_mut()) {
            first.id = id;
        }
        // Announced to the engine before the append, so that it does not read the journal from the
        // store.
        let starting = self.client.engine.as_ref().map(|engine| engine.starting(&new_id));
        let appended = match self.client.journals.begin(&new_id, events).await {
            Ok(appended) => appended,
            // Another attempt at the request was faster.
            Err(error) => match self.copy_made_before(&new_id).await? {
                Some(made) => return Ok(made),
                None => return Err(error.into()),
            },
        };
        if let Some(starting) = starting {
            starting.activate_new(appended);
        }
        Ok(Self::new(self.client.clone(), new_id))
    }

    /// The run that an earlier attempt at the request has created. Looked for before anything else, because
    /// this run may have continued as another one since.
    async fn copy_made_before(&self, new_id: &Arc<str>) -> Result<Option<Self>, RuntimeError> {
        run_id::check_chosen(new_id)?;
        let Some(id) = self.request_event("fork") else { return Ok(None) };
        let found = self.client.journals.first(new_id).await?;
        let is_made = found.is_some_and(|found| found.event.id == id);
        Ok(is_made.then(|| Self::new(self.client.clone(), Arc::clone(new_id))))
    }

    /// The part of the journal that the new run begins with, rewritten for it.
    async fn copies(&self, cut: Cut<'_>, new_id: &str) -> Result<Vec<Event>, RuntimeError> {
        let Cut { run_id, workflow, operation, is_retry } = cut;
        let codec = self.client.journals.codec(workflow)?;
        let at = self.client.journals.clock.now();
        let fork = Fork { run_id, new_id, operation, is_retry, at };
        let mut selection = Selection::new(&fork);
        let mut events = Vec::new();
        let mut after = 0;
        let mut origin = None;
        let mut incarnation = None;
        while !selection.is_complete() {
            let page = self.journal_of(run_id, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            for recorded in page {
                let entry = decode(&recorded.event)?;
                if !selection.takes(&entry) {
                    continue;
                }
                let source = &recorded.event;
                incarnation.get_or_insert_with(|| source.id.clone());
                // Random values and UUIDs are those of the first run, however often it was forked.
                let origin = origin.get_or_insert_with(|| seed_of(source, run_id));
                let entry = fork.copy(entry, source.timestamp, origin);
                let metadata = self.metadata_of_copy(source, new_id, events.is_empty())?;
                let copy = codec.encode(entry, source.timestamp, Arc::clone(&metadata))?.event;
                // An event that another program wrote is encoded as it is, with its own id.
                events.push(Event { id: EventId::generate(), metadata, ..copy });
            }
        }
        if !selection.is_cut() {
            let run_id = run_id.to_owned();
            return Err(RuntimeError::UnknownOperation { run_id, operation });
        }
        let ends = match is_retry {
            true => self.ends_of_children(&mut selection, run_id, incarnation).await?,
            false => Vec::new(),
        };
        let withdrawn = selection.withdrawn();
        let selected = events.into_iter().enumerate();
        let selected = selected.filter(|(index, _)| !withdrawn.contains(index));
        let mut events: Vec<_> = selected.map(|(_, event)| event).collect();
        // The start tells when the copied part ends, which is known only now.
        let ended = events.iter().map(|event| event.timestamp).max();
        if let Some((start, ended)) = events.first_mut().zip(ended) {
            note_gap(&codec, start, Gap::new(ended, at))?;
            let metadata = Arc::clone(&start.metadata);
            for end in ends {
                events.push(codec.encode(end, ended, Arc::clone(&metadata))?.event);
            }
        }
        Ok(events)
    }

    /// The metadata of the copy of an event in the new run. The start of the new run is an event of its own;
    /// the others only repeat events.
    fn metadata_of_copy(
        &self,
        source: &Event,
        new_id: &str,
        is_start: bool,
    ) -> Result<Arc<Metadata>, RuntimeError> {
        let mut metadata = (*source.metadata).clone();
        if is_start {
            metadata = on_behalf_of(&self.metadata, metadata);
        } else {
            mark_copy(&mut metadata, &source.id)?;
        }
        metadata.run_id = Some(new_id.into());
        Ok(Arc::new(metadata))
    }

    /// The ends of the children that have succeeded, although the journal of the run does not say so: the
    /// run had failed before.
    async fn ends_of_children(
        &self,
        selection: &mut Selection<'_>,
        run_id: &str,
        incarnation: Option<EventId>,
    ) -> Result<Vec<Entry>, RuntimeError> {
        let children: Vec<ChildStarted> = selection.open_children().cloned().collect();
        let mut ends = Vec::new();
        for child in children {
            let parent = Parent::new(run_id.to_owned(), incarnation.clone(), child.operation);
            let result = self.client.journals.result_of_child(&child, &parent).await?;
            if result.is_some() {
                selection.note_child_end(child.operation);
                ends.push(Entry::ChildEnded(ChildEnded::new(child.operation, result, None)));
            }
        }
        Ok(ends)
    }
}

/// Where the journal of a run is cut, to continue from there as another run.
#[derive(Clone, Copy, Debug)]
struct Cut<'c> {
    /// The run that is copied.
    run_id: &'c str,
    /// The name of its workflow.
    workflow: &'c str,
    /// The first operation that the new run does itself.
    operation: u64,
    /// Whether later signals are copied as well.
    is_retry: bool,
}

/// Adds the gap before a fork to the start of the copy.
fn note_gap(codec: &Codec, start: &mut Event, gap: Gap) -> Result<(), RuntimeError> {
    let Entry::Started(mut started) = decode(start)? else { return Ok(()) };
    add_gap(&mut started.gaps, gap);
    let metadata = Arc::clone(&start.metadata);
    let copy = codec.encode(Entry::Started(started), start.timestamp, metadata)?.event;
    *start = Event { id: start.id.clone(), ..copy };
    Ok(())
}

/// Adds the gap before a fork. Of those before it, it keeps what lies in the copied part.
fn add_gap(gaps: &mut Vec<Gap>, gap: Gap) {
    for earlier in gaps.iter_mut() {
        earlier.until = earlier.until.min(gap.from);
    }
    gaps.retain(|earlier| earlier.from < earlier.until);
    gaps.extend((gap.from < gap.until).then_some(gap));
}

/// The operation with which the run failed. If its code made the error itself, that is not recorded: the
/// first operation that failed like the run, or the last one that failed.
fn cause_of(run: &Failed, failed: &[(u64, Failure)]) -> Option<u64> {
    let known = run.operation.filter(|known| failed.iter().any(|(found, _)| found == known));
    if known.is_some() {
        return known;
    }
    let is_cause = |failure: &Failure| {
        // The run's message usually contains that of its operation.
        failure.code == run.failure.code && run.failure.message.contains(&failure.message)
    };
    let causes = failed.iter().filter(|(_, failure)| is_cause(failure));
    let first = causes.map(|(operation, _)| *operation).min();
    first.or_else(|| failed.last().map(|(operation, _)| *operation))
}

/// The error of a run that can't be retried.
fn none_failed(run_id: &str) -> RuntimeError {
    RuntimeError::NoFailedOperation { run_id: run_id.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aios_core::event::Timestamp;

    use super::*;

    /// The clock of the engine that ran the first fork is behind that of the client.
    #[test]
    fn should_keep_an_earlier_gap_that_ends_after_the_next_one_begins() {
        let at = |seconds| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut gaps = vec![Gap::new(at(10), at(100))];
        add_gap(&mut gaps, Gap::new(at(99), at(200)));
        assert_eq!(gaps, [Gap::new(at(10), at(99)), Gap::new(at(99), at(200))]);
        add_gap(&mut gaps, Gap::new(at(5), at(300)));
        assert_eq!(gaps, [Gap::new(at(5), at(300))], "none that the copied part does not reach");
    }
}
