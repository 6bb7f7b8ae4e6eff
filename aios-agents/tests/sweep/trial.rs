//! One trial: a script, a fault at one append, and what must hold afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::store::Append;
use serde_json::Value;

use super::{
    PATIENCE,
    course::{Course, LONG},
    executions::Executions,
    fault::{Fault, Point},
    faulty::FaultyStore,
    journals::Journals,
    script::{nameless, settled},
    shapes::{SHAPES, process},
};

/// An undisturbed run of a script.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The number of appends to journals.
    pub(super) appends: usize,
    pub(super) outcome: Value,
    executions: BTreeMap<(String, String), usize>,
}

pub(super) struct Trial<'t> {
    pub(super) store: &'t Arc<dyn Store>,
    pub(super) shape: usize,
    pub(super) fault: Fault,
    /// The number of the append, from 1.
    pub(super) point: usize,
    /// The ids of all runs begin with it.
    pub(super) id: String,
    pub(super) baseline: &'t Baseline,
}

pub(super) async fn baseline(store: &Arc<dyn Store>, shape: usize) -> Baseline {
    let faulty = FaultyStore::new(Arc::clone(store));
    let appends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&appends);
    faulty.on_append(move |append| {
        counted.fetch_add(usize::from(append.stream.run_id().is_some()), Ordering::SeqCst);
        None
    });
    let (executions, id) = (Executions::default(), format!("baseline{shape}"));
    let broker = MemoryBroker::new();
    let broker = Arc::new(broker.new_connection());
    let runtime = process(faulty, broker, &executions, LONG).start().await.unwrap();
    let outcome = SHAPES[shape].1(&runtime, &id).await.unwrap();
    settled(&Journals { store: &**store, id: &id, from: 0 }).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    let appends = appends.load(Ordering::SeqCst);
    Baseline { appends, outcome: nameless(&outcome, &id), executions: counts(&executions, &id) }
}

fn counts(executions: &Executions, id: &str) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for (of, what) in executions.all() {
        // A run that is cancelled before its code has begun has nothing to undo.
        if what != "undo waiting" {
            *counts.entry((of.replace(id, "ID"), what)).or_default() += 1;
        }
    }
    counts
}

impl Trial<'_> {
    /// Returns what is wrong.
    pub(super) async fn run(&self) -> Vec<String> {
        let (executions, fault) = (Executions::default(), self.fault);
        let course = Course {
            store: self.store,
            id: &self.id,
            script: SHAPES[self.shape].1,
            fault: Some(fault),
            executions: &executions,
            process: &|store, broker, lease_time| process(store, broker, &executions, lease_time),
        };
        let of_journal = |append: &Append| append.stream.run_id().is_some();
        let set = |faulty: &FaultyStore| {
            let happens = move |reach| fault.of_store(reach);
            Point::set(faulty, self.point, fault.crashes(), of_journal, happens)
        };
        let ended = course.run(set).await;
        let mut found = ended.found;
        // What is refused for good may fail a child.
        if fault != Fault::Never && ended.outcome.as_ref() != Some(&self.baseline.outcome) {
            found.push(format!("ended with {:?}, not {}", ended.outcome, self.baseline.outcome));
        }
        let counts = counts(&executions, &self.id);
        if ended.is_undisturbed && counts != self.baseline.executions {
            found.push(format!("did {counts:?}, not {:?}", self.baseline.executions));
        }
        found
    }
}
