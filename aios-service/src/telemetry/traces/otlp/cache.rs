//! The runs whose spans are being made.
//!
//! A tracer needs all earlier events of a run. Those of active runs stay in memory; a run that is
//! not there, or whose tracer has missed an event, is read again from its journal. The memory is
//! bounded by the number of parts, and emptied when it is full: every run can be read again.

use std::{collections::HashMap, sync::Arc};

use aios_core::{
    Chain,
    store::{RecordedEvent, Store, StoreError},
};
use tracing::warn;

use crate::telemetry::traces::{Span, tracer::Tracer};

/// How many events of a journal are read at once.
const PAGE: usize = 1000;
/// How many parts the runs in memory may have; some hundred bytes each.
const CAPACITY: usize = 50_000;

/// The runs whose spans are being made. A run that is not here is read from its journal.
pub(super) struct Cache {
    /// Has the journals.
    store: Arc<dyn Store>,
    /// Tracers of runs that have not ended.
    runs: HashMap<Box<str>, Tracer>,
    /// Parts of all tracers.
    weight: usize,
}

impl Cache {
    /// No run is in memory.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, runs: HashMap::new(), weight: 0 }
    }

    /// Adds the spans that end with an event of the log, unless the trace is not recorded.
    ///
    /// # Errors
    ///
    /// A transient error of the store.
    pub(super) async fn add_spans(
        &mut self,
        recorded: &RecordedEvent,
        spans: &mut Vec<Span>,
    ) -> Result<(), StoreError> {
        let Some(run_id) = recorded.stream.run_id() else { return Ok(()) };
        let before = recorded.version.saturating_sub(1);
        let known = self.runs.get_mut(run_id);
        if let Some(tracer) = known.filter(|tracer| tracer.version() == before) {
            let weight = tracer.weight();
            apply(tracer, recorded, spans);
            self.weight = self.weight - weight + tracer.weight();
        } else {
            let mut tracer = match self.read(recorded, before).await {
                Err(error) if !error.is_retryable() => {
                    warn!(error = %Chain(&error), %run_id, "the spans of a run can't be made");
                    return Ok(());
                }
                tracer => tracer?,
            };
            apply(&mut tracer, recorded, spans);
            self.forget(run_id);
            self.weight += tracer.weight();
            self.runs.insert(run_id.into(), tracer);
        }
        self.trim(run_id);
        Ok(())
    }

    /// Forgets the run if it has ended, and all others if they exceed the limit.
    fn trim(&mut self, run_id: &str) {
        if self.runs.get(run_id).is_some_and(Tracer::has_ended) {
            self.forget(run_id);
        }
        if self.weight > CAPACITY {
            let current = self.runs.remove_entry(run_id);
            self.runs.clear();
            self.weight = current.as_ref().map_or(0, |(_, tracer)| tracer.weight());
            self.runs.extend(current);
        }
    }

    /// Forgets a run.
    fn forget(&mut self, run_id: &str) {
        let known = self.runs.remove(run_id);
        self.weight -= known.as_ref().map_or(0, Tracer::weight);
    }

    /// Reads the journal of a run up to a version.
    async fn read(&self, recorded: &RecordedEvent, version: u64) -> Result<Tracer, StoreError> {
        let mut tracer = Tracer::default();
        while tracer.version() < version {
            let page = self.store.read_stream(&recorded.stream, tracer.version(), PAGE).await?;
            if page.is_empty() {
                break;
            }
            for earlier in page.iter().filter(|it| it.version <= version) {
                // They were sent before.
                tracer.apply(earlier, &mut Vec::new());
            }
            if page.last().is_none_or(|last| last.version >= version) {
                break;
            }
        }
        Ok(tracer)
    }
}

/// Applies the next event of a run. Adds the spans that end with it, unless the trace is not recorded.
fn apply(tracer: &mut Tracer, recorded: &RecordedEvent, spans: &mut Vec<Span>) {
    let before = spans.len();
    tracer.apply(recorded, spans);
    if !tracer.context().is_some_and(|context| context.is_sampled()) {
        spans.truncate(before);
    }
}
