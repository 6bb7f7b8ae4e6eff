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

    /// The spans that end with an event of the log, unless the trace is not recorded.
    ///
    /// # Errors
    ///
    /// A transient error of the store.
    pub(super) async fn spans(
        &mut self,
        recorded: &RecordedEvent,
    ) -> Result<Vec<Span>, StoreError> {
        let Some(run_id) = recorded.stream.run_id() else { return Ok(Vec::new()) };
        let run_id = Box::from(run_id);
        let before = recorded.version.saturating_sub(1);
        let known = self.runs.remove(&run_id);
        self.weight -= known.as_ref().map_or(0, Tracer::weight);
        let mut tracer = match known.filter(|tracer| tracer.version() == before) {
            Some(tracer) => tracer,
            None => match self.read(recorded, before).await {
                Err(error) if !error.is_retryable() => {
                    warn!(error = %Chain(&error), %run_id, "the spans of a run can't be made");
                    return Ok(Vec::new());
                }
                tracer => tracer?,
            },
        };
        let spans = tracer.apply(recorded);
        let is_sampled = tracer.context().is_some_and(|context| context.is_sampled());
        if !tracer.has_ended() {
            self.keep(run_id, tracer);
        }
        Ok(if is_sampled { spans } else { Vec::new() })
    }

    /// Keeps a tracer. If that exceeds the limit, all others are forgotten.
    fn keep(&mut self, run_id: Box<str>, tracer: Tracer) {
        self.weight += tracer.weight();
        if self.weight > CAPACITY {
            self.weight = tracer.weight();
            self.runs.clear();
        }
        self.runs.insert(run_id, tracer);
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
                tracer.apply(earlier);
            }
            if page.last().is_none_or(|last| last.version >= version) {
                break;
            }
        }
        Ok(tracer)
    }
}
