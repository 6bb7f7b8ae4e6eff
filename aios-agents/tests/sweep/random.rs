//! Random faults of the store and the broker, in processes that follow each other.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    BoxFuture,
    broker::{Broker, BrokerError},
};
use tokio::sync::Notify;

use super::{
    PATIENCE,
    executions::{Executions, moment},
    faulty::{Fault, FaultyBroker, FaultyStore, store_unavailable},
    journals::Journals,
    script::{insist, nameless, settled},
    shapes::{SHAPES, process},
    trial::Baseline,
};

/// Processes with faults; one without follows.
const PROCESSES: u64 = 3;
const LEASE: Duration = Duration::from_secs(1);
/// How long a process may take to reach its end, before it is killed.
const LIFE: Duration = Duration::from_secs(20);

pub(super) struct RandomTrial<'t> {
    pub(super) store: &'t Arc<dyn Store>,
    pub(super) shape: usize,
    pub(super) seed: u64,
    /// The ids of all runs begin with it.
    pub(super) id: String,
    pub(super) baseline: &'t Baseline,
}

/// The faults that one process meets.
struct FaultSource {
    random: Mutex<u64>,
    dead: AtomicBool,
    died: Notify,
}

impl FaultSource {
    fn new(seed: u64) -> Arc<Self> {
        let (dead, died) = (AtomicBool::new(false), Notify::new());
        Arc::new(Self { random: Mutex::new(seed), dead, died })
    }

    /// A random number below a limit.
    fn below(&self, limit: u64) -> u64 {
        // SplitMix64.
        let mut state = self.random.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Ends the process, when the returned future is polled.
    fn death(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let source = Arc::clone(self);
        Box::pin(async move {
            source.dead.store(true, Ordering::SeqCst);
            source.died.notify_one();
            std::future::pending().await
        })
    }

    /// The fault of a call: one call in `odds` has one, and one fault in `deaths` ends the process.
    fn fault<E>(self: &Arc<Self>, odds: u64, deaths: u64, error: E) -> Option<Fault<E>> {
        if self.is_dead() {
            return Some(Fault::Hang);
        }
        if self.below(odds) > 0 {
            return None;
        }
        if self.below(deaths) == 0 {
            return Some(match self.below(2) {
                0 => Fault::After(self.death()),
                _ => Fault::Until(self.death()),
            });
        }
        Some(match self.below(4) {
            0 => Fault::After(Box::pin(late())),
            1 => Fault::Until(Box::pin(late())),
            2 => Fault::LoseResponse(error),
            _ => Fault::Refuse(error),
        })
    }
}

async fn late() {
    for _ in 0..20 {
        moment().await;
    }
}

impl RandomTrial<'_> {
    /// Returns what is wrong.
    pub(super) async fn run(&self) -> Vec<String> {
        let from = self.store.head().await.unwrap();
        let journals = Journals { store: &**self.store, id: &self.id, from };
        let (executions, broker) = (Executions::default(), MemoryBroker::new());
        let (mut found, mut checked) = (Vec::new(), 0);
        let mut done = BTreeSet::new();
        let mut check = |found: &mut Vec<String>, done: &BTreeSet<(String, String)>| {
            let all = executions.all();
            let again = all[checked..].iter().filter(|it| done.contains(it));
            found.extend(again.map(|it| format!("{it:?} was recorded and is done again")));
            checked = all.len();
        };
        for number in 0..PROCESSES {
            let seed = self.seed.wrapping_mul(31).wrapping_add(number);
            self.disturbed(&executions, &broker, &FaultSource::new(seed)).await;
            // What this process did is compared with what was recorded before it began.
            check(&mut found, &done);
            done = journals.done().await;
        }
        let last = Arc::new(broker.new_connection());
        let last = process(Arc::clone(self.store), last, &executions, LEASE).start().await.unwrap();
        let outcome = insist(SHAPES[self.shape].1, &self.id, &last, false).await;
        settled(&journals).await;
        last.shutdown(PATIENCE).await.unwrap();
        check(&mut found, &done);
        let outcome = nameless(&outcome, &self.id);
        if outcome != self.baseline.outcome {
            found.push(format!("ended with {outcome}, not {}", self.baseline.outcome));
        }
        found.extend(journals.faults().await);
        found
    }

    /// A process that performs the script, until it dies or the script ends.
    #[allow(clippy::disallowed_methods, reason = "a process has a limited life")]
    async fn disturbed(
        &self,
        executions: &Executions,
        broker: &MemoryBroker,
        source: &Arc<FaultSource>,
    ) {
        let store = FaultyStore::new(Arc::clone(self.store));
        let (appends, calls) = (Arc::clone(source), Arc::clone(source));
        store.on_append(move |_| appends.fault(12, 4, store_unavailable()));
        store.on_call(move |_| calls.fault(30, 20, store_unavailable()));
        let faulty = FaultyBroker::new(Arc::new(broker.new_connection()));
        let publishes = Arc::clone(source);
        faulty.on_publish(move |_| publishes.fault(12, 8, BrokerError::Uncertain));
        let life = async {
            let runtime = loop {
                let broker: Arc<dyn Broker> = Arc::<FaultyBroker>::clone(&faulty);
                match process(store.clone(), broker, executions, LEASE).start().await {
                    Ok(runtime) => break runtime,
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            };
            insist(SHAPES[self.shape].1, &self.id, &runtime, false).await;
        };
        tokio::select! {
            () = life => {}
            () = source.died.notified() => {}
            () = tokio::time::sleep(LIFE) => {}
        }
    }
}
