//! One trial: a script, a fault at one append, and what must hold afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::store::RunStatus;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    journals::Journals,
    shapes::{Executions, SHAPES, moment, process},
};
use crate::support::{
    faulty::{self, FaultyStore, store_refuses, store_unavailable},
    workflows::PATIENCE,
};

/// The events that may coincide with an append to a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it, without the response.
    CrashAfter,
    /// The process gets the response, and dies before the next append.
    CrashThen,
    /// The process shuts down.
    Shutdown,
    /// Another process joins, and the first one leaves a little later.
    Relieve,
    /// It is refused once.
    Refuse,
    /// It takes effect, and its response is lost.
    LoseResponse,
    /// It takes effect, and its response is late.
    Late,
    /// It is refused for good.
    Never,
}

pub(super) const FAULTS: [Fault; 9] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::CrashThen,
    Fault::Shutdown,
    Fault::Relieve,
    Fault::Refuse,
    Fault::LoseResponse,
    Fault::Late,
    Fault::Never,
];

impl Fault {
    fn crashes(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::CrashThen)
    }

    /// Whether another process has to take over.
    fn ends_process(self) -> bool {
        self.crashes() || matches!(self, Self::Shutdown | Self::Relieve)
    }
}

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

/// Leases that no trial outlives.
const LONG: Duration = Duration::from_secs(120);

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

/// Without the id, which differs between trials.
pub(super) fn nameless(outcome: &Value, id: &str) -> Value {
    serde_json::from_str(&outcome.to_string().replace(id, "ID")).unwrap()
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
        let from = self.store.head().await.unwrap();
        let journals = Journals { store: &**self.store, id: &self.id, from };
        let (executions, broker) = (Executions::default(), MemoryBroker::new());
        let lease_time = if self.fault.crashes() { Duration::from_secs(1) } else { LONG };
        let another = |store| {
            let broker = Arc::new(broker.new_connection());
            process(store, broker, &executions, lease_time).start()
        };
        let faulty = FaultyStore::new(Arc::clone(self.store));
        let (mut reached, dead) = self.set_rule(&faulty);
        let mut runtime = another(faulty.clone()).await.unwrap();
        let mut outcome = tokio::select! {
            biased;
            () = wait_for(&mut reached, 1), if self.fault.ends_process() => None,
            outcome = self.perform(&runtime, &journals) => Some(outcome),
        };
        // It died right after the last append.
        outcome.take_if(|_| dead.load(Ordering::SeqCst));
        let is_undisturbed = outcome.is_some() && self.fault != Fault::Never;
        let (mut done, mut before) = (BTreeSet::new(), usize::MAX);
        if !is_undisturbed {
            let mut next = None;
            if self.fault == Fault::Relieve {
                let joined = another(Arc::clone(self.store)).await.unwrap();
                // The client continues there.
                tokio::select! {
                    () = wait_for(&mut reached, 4) => {}
                    _ = self.insist(&joined) => {}
                }
                next = Some(joined);
            }
            match self.fault.crashes() {
                true => drop(runtime),
                false => {
                    faulty.heal();
                    runtime.shutdown(PATIENCE).await.unwrap();
                }
            }
            done = journals.done().await;
            // Now: what another process does meanwhile is not in the journals that were read.
            before = executions.all().len();
            runtime = match next {
                Some(next) => next,
                None => another(Arc::clone(self.store)).await.unwrap(),
            };
            outcome = Some(self.insist(&runtime).await);
        }
        settled(&journals).await;
        runtime.shutdown(PATIENCE).await.unwrap();

        let mut found = journals.faults().await;
        let outcome = outcome.map(|outcome| nameless(&outcome, &self.id));
        // What is refused for good may fail a child.
        if self.fault != Fault::Never && outcome.as_ref() != Some(&self.baseline.outcome) {
            found.push(format!("ended with {outcome:?}, not {}", self.baseline.outcome));
        }
        let again = executions.all().into_iter().skip(before).filter(|it| done.contains(it));
        found.extend(again.map(|it| format!("{it:?} was recorded and is done again")));
        let counts = counts(&executions, &self.id);
        if is_undisturbed && counts != self.baseline.executions {
            found.push(format!("did {counts:?}, not {:?}", self.baseline.executions));
        }
        found
    }

    /// Performs the script. Ends early if a run is blocked, which only a new process changes.
    async fn perform(&self, runtime: &Runtime, journals: &Journals<'_>) -> Value {
        let blocked = async {
            let is_blocked = |(_, status): &(String, RunStatus)| *status == RunStatus::Blocked;
            while !journals.open().await.iter().any(is_blocked) {
                moment().await;
            }
            Value::Null
        };
        let script = async {
            let outcome = self.insist(runtime).await;
            // Runs that the script does not wait for may meet the fault.
            settled(journals).await;
            outcome
        };
        tokio::select! {
            outcome = script => outcome,
            outcome = blocked, if self.fault == Fault::Never => outcome,
        }
    }

    async fn insist(&self, runtime: &Runtime) -> Value {
        insist(self.shape, &self.id, runtime, self.fault == Fault::Never).await
    }

    /// Sets the fault. Returns how many appends there were from that one on, and whether the process is
    /// dead.
    fn set_rule(&self, faulty: &FaultyStore) -> (watch::Receiver<usize>, Arc<AtomicBool>) {
        let (fault, point) = (self.fault, self.point);
        let (sender, receiver) = watch::channel(0);
        let (appends, dead) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let (is_dead, kills) = (Arc::clone(&dead), Arc::clone(&dead));
        faulty.on_call(move |_| is_dead.load(Ordering::SeqCst).then_some(faulty::Fault::Hang));
        faulty.on_append(move |append| {
            if kills.load(Ordering::SeqCst) {
                return Some(faulty::Fault::Hang);
            }
            append.stream.run_id()?;
            let number = appends.fetch_add(1, Ordering::SeqCst) + 1;
            if number != point {
                sender.send_replace((number + 1).saturating_sub(point));
                return None;
            }
            kills.store(fault.crashes(), Ordering::SeqCst);
            let sender = sender.clone();
            let reach = async move {
                sender.send_replace(1);
            };
            Some(match fault {
                Fault::CrashBefore => faulty::Fault::After(Box::pin(async {
                    reach.await;
                    std::future::pending().await
                })),
                Fault::CrashAfter => faulty::Fault::Until(Box::pin(async {
                    reach.await;
                    std::future::pending().await
                })),
                Fault::CrashThen => faulty::Fault::Until(Box::pin(reach)),
                Fault::Shutdown | Fault::Relieve => faulty::Fault::After(Box::pin(reach)),
                Fault::Refuse => faulty::Fault::Refuse(store_unavailable()),
                Fault::LoseResponse => faulty::Fault::LoseResponse(store_unavailable()),
                Fault::Late => faulty::Fault::Until(Box::pin(async {
                    for _ in 0..50 {
                        moment().await;
                    }
                })),
                Fault::Never => faulty::Fault::Refuse(store_refuses()),
            })
        });
        (receiver, dead)
    }
}

/// Repeats the script as a client does whose calls fail, also for good if `refuses`.
pub(super) async fn insist(shape: usize, id: &str, runtime: &Runtime, refuses: bool) -> Value {
    loop {
        match SHAPES[shape].1(runtime, id).await {
            // A run that was blocked is being loaded.
            Ok(outcome) if outcome.to_string().contains("RUN_BLOCKED") => {}
            Ok(outcome) => return outcome,
            // The engine has failed because it could not record something.
            Err(_) if runtime.failure().is_some() => return Value::Null,
            Err(error) if error.is_retryable() || refuses => {}
            Err(error) => return error.code().into(),
        }
        moment().await;
    }
}

async fn wait_for(reached: &mut watch::Receiver<usize>, count: usize) {
    drop(reached.wait_for(|reached| *reached >= count).await);
}

pub(super) async fn settled(journals: &Journals<'_>) {
    while !journals.open().await.is_empty() {
        moment().await;
    }
}
