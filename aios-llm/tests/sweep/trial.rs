//! One trial: a script, what happens at one append, and what must hold afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    BoxFuture,
    store::{Append, StoreError},
};
use aios_llm::budget::Spent;
use serde_json::Value;

use super::{
    PATIENCE,
    course::{Course, Ended, LONG},
    executions::moment,
    fault::{FAULTS, Fault, Point},
    faulty::{self, FaultyStore},
    journals::Journals,
    outputs::{Outputs, outputs},
    script::{nameless, settled},
    shapes::SHAPES,
    sums::Sums,
    world::{USAGE, World, counts},
};

/// An event at an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Fault(Fault),
    /// All runs are cancelled, before it.
    CancelBefore,
    /// All runs are cancelled, after it and before its response.
    CancelAfter,
    /// All runs are cancelled after it, and the process dies.
    CancelAndCrash,
}

pub(super) fn happenings() -> impl Iterator<Item = Happening> {
    let cancels = [Happening::CancelBefore, Happening::CancelAfter, Happening::CancelAndCrash];
    FAULTS.into_iter().map(Happening::Fault).chain(cancels)
}

impl Happening {
    /// The fault of the process, if there is one.
    fn fault(self) -> Option<Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::CancelAndCrash => Some(Fault::CrashAfter),
            Self::CancelBefore | Self::CancelAfter => None,
        }
    }

    /// The behaviour of the store at the append.
    fn of_store(
        self,
        cancel: BoxFuture<'static, ()>,
        reach: BoxFuture<'static, ()>,
    ) -> faulty::Fault<StoreError> {
        match self {
            Self::Fault(fault) => fault.of_store(reach),
            Self::CancelBefore => faulty::Fault::After(cancel),
            Self::CancelAfter => faulty::Fault::Until(cancel),
            Self::CancelAndCrash => faulty::Fault::Detached(Box::pin(async {
                cancel.await;
                reach.await;
                std::future::pending().await
            })),
        }
    }
}

/// An undisturbed run of a script.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The number of appends that count.
    pub(super) appends: usize,
    outcome: Value,
    calls: BTreeMap<(String, String), usize>,
    sums: Spent,
    outputs: Outputs,
}

pub(super) struct Trial<'t> {
    pub(super) store: &'t Arc<dyn Store>,
    pub(super) shape: usize,
    pub(super) happening: Happening,
    /// The number of the append, from 1.
    pub(super) point: usize,
    /// The ids of all runs begin with it.
    pub(super) id: String,
    pub(super) baseline: &'t Baseline,
}

/// Whether an append belongs to a run, a budget, a `write` call or an output stream.
fn matters(append: &Append) -> bool {
    let stream = append.stream.as_str();
    let is_other = ["agents/", "workflows/", "system/", "projections/"];
    !is_other.iter().any(|prefix| stream.starts_with(prefix))
}

pub(super) async fn baseline(store: &Arc<dyn Store>, shape: usize) -> Baseline {
    let (shape, id) = (&SHAPES[shape], format!("baseline{shape}"));
    let from = store.head().await.unwrap();
    let faulty = FaultyStore::new(Arc::clone(store));
    let appends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&appends);
    faulty.on_append(move |append| {
        counted.fetch_add(usize::from(matters(append)), Ordering::SeqCst);
        None
    });
    let (world, broker) = (World::new(store), MemoryBroker::new());
    let broker = Arc::new(broker.new_connection());
    let runtime = world.process(shape, faulty, broker, LONG).start().await.unwrap();
    let outcome = (shape.script)(&runtime, &id).await.unwrap();
    let journals = Journals { store: &**store, id: &id, from };
    settled(&journals).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    let sums = Sums::of(&journals).await;
    assert_eq!(sums.found(), Vec::<String>::new(), "{}", shape.name);
    if !shape.races {
        assert_eq!(sums.estimated, Spent::default(), "{}", shape.name);
        assert_eq!(sums.spent.usage.input_tokens, world.requests() * USAGE.input_tokens);
    }
    Baseline {
        appends: appends.load(Ordering::SeqCst),
        outcome: nameless(&outcome, &id),
        calls: counts(&world.calls, &id),
        sums: sums.spent,
        outputs: outputs(store, &journals).await,
    }
}

impl Trial<'_> {
    /// Returns what is wrong.
    pub(super) async fn run(&self) -> Vec<String> {
        let from = self.store.head().await.unwrap();
        let journals = Journals { store: &**self.store, id: &self.id, from };
        let (shape, world) = (&SHAPES[self.shape], World::new(self.store));
        let fault = self.happening.fault();
        let course = Course {
            store: self.store,
            id: &self.id,
            script: shape.script,
            fault,
            executions: &world.attempts,
            process: &|store, broker, lease| world.process(shape, store, broker, lease),
        };
        let ended = course.run(|faulty| self.set(faulty)).await;
        let sums = Sums::of(&journals).await;
        let mut found = ended.found.clone();
        let mut keys = BTreeSet::new();
        let again = world.writes.all().into_iter().filter(|(key, _)| !keys.insert(key.clone()));
        found.extend(again.map(|(_, words)| format!("the write {words:?} was repeated")));
        let outputs = outputs(self.store, &journals).await;
        found.extend(outputs.found().map(ToOwned::to_owned));
        match self.happening {
            // What is refused for good may fail anything, and is charged as far as it is known.
            Happening::Fault(Fault::Never) => return found,
            Happening::Fault(_) => {
                found.extend(self.check_alike(&world, &ended, &sums, &outputs));
            }
            _ => found.extend(self.check_cancelled(&world, &sums)),
        }
        found.extend(sums.found());
        found
    }

    /// Sets what happens in the first process.
    fn set(&self, faulty: &FaultyStore) -> Point {
        let happening = self.happening;
        let kills = happening.fault().is_some_and(Fault::crashes);
        let (store, id) = (Arc::clone(self.store), self.id.clone());
        let happens = move |reach| {
            let cancel = cancel(Arc::clone(&store), id.clone());
            happening.of_store(Box::pin(cancel), reach)
        };
        Point::set(faulty, self.point, kills, matters, happens)
    }

    /// Compares a trial with the baseline.
    fn check_alike(
        &self,
        world: &World,
        ended: &Ended,
        sums: &Sums,
        outputs: &Outputs,
    ) -> Vec<String> {
        let (mut found, baseline) = (Vec::new(), self.baseline);
        if ended.outcome.as_ref() != Some(&baseline.outcome) {
            found.push(format!("ended with {:?}, not {}", ended.outcome, baseline.outcome));
        }
        if SHAPES[self.shape].races {
            found.extend(self.check_cancelled(world, sums));
            return found;
        }
        if (sums.spent, sums.estimated) != (baseline.sums, Spent::default()) {
            found.push(format!("spent {sums:?}, not {:?}", baseline.sums));
        }
        if outputs.texts != baseline.outputs.texts {
            found.push(format!("wrote {:?}, not {:?}", outputs.texts, baseline.outputs.texts));
        }
        let calls = counts(&world.calls, &self.id);
        if ended.is_undisturbed && calls != baseline.calls {
            found.push(format!("called {calls:?}, not {:?}", baseline.calls));
        }
        let most = sums.spent.usage.input_tokens / USAGE.input_tokens + SHAPES[self.shape].parallel;
        if world.requests() > most {
            found.push(format!("called models {} times, not {most}", world.requests()));
        }
        found
    }

    /// Compares what was charged with what was called, but for the calls in progress at the cancellation.
    fn check_cancelled(&self, world: &World, sums: &Sums) -> Vec<String> {
        let mut found = Vec::new();
        let parallel = SHAPES[self.shape].parallel;
        let certain = sums.spent.usage.input_tokens - sums.estimated.usage.input_tokens;
        let (certain, called) = (certain / USAGE.input_tokens, world.requests());
        if certain > called || called > certain + parallel {
            found.push(format!("called models {called} times, and was charged for {certain}"));
        }
        if sums.estimated.requests > parallel {
            found.push(format!("{:?} are estimated", sums.estimated));
        }
        found
    }
}

/// Cancels all runs of a trial that no other run has started.
async fn cancel(store: Arc<dyn Store>, id: String) {
    let broker = Arc::new(MemoryBroker::new());
    let builder = Runtime::builder().store(Arc::clone(&store)).broker(broker);
    let client = builder.client_only().start().await.unwrap();
    let open = Journals { store: &*store, id: &id, from: 0 }.open().await;
    for (run_id, _) in open.into_iter().filter(|(run_id, _)| !run_id.contains('~')) {
        let run = client.handle(&run_id).await.unwrap();
        match run.cancel("enough").await {
            Err(error) if error.code() != "RUN_ENDED" => panic!("{error}"),
            _ => {}
        }
    }
    moment().await;
}
