//! The course of a trial: a script in a process that something happens to, and in the next one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, store::RunStatus};
use serde_json::Value;

use super::{
    PATIENCE,
    executions::{Executions, moment},
    fault::{Fault, Point},
    faulty::FaultyStore,
    journals::Journals,
    script::{Script, insist, nameless, settled},
    workers::begin,
};

/// Leases that no trial outlives.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// Builds the runtime of a process with a lease time.
type Process<'p> =
    dyn Fn(Arc<dyn Store>, Arc<dyn Broker>, Duration) -> RuntimeBuilder + Send + Sync + 'p;

pub(super) struct Course<'t> {
    pub(super) store: &'t Arc<dyn Store>,
    /// The ids of all runs begin with it.
    pub(super) id: &'t str,
    pub(super) script: Script,
    /// `None` if what happens ends no process and refuses nothing for good.
    pub(super) fault: Option<Fault>,
    pub(super) executions: &'t Executions,
    pub(super) process: &'t Process<'t>,
}

/// The end of a trial.
pub(super) struct Ended {
    /// The outcome that the client saw, without the id.
    pub(super) outcome: Option<Value>,
    /// Whether one process did everything.
    pub(super) is_undisturbed: bool,
    /// Faults of the journals, and everything that was done again.
    pub(super) found: Vec<String>,
}

impl Course<'_> {
    /// Performs the script to its end. `set` sets what happens in the first process.
    #[allow(clippy::too_many_lines, reason = "one stage after the other")]
    pub(super) async fn run(&self, set: impl FnOnce(&FaultyStore) -> Point) -> Ended {
        let from = self.store.head().await.unwrap();
        let journals = Journals { store: &**self.store, id: self.id, from };
        let broker = MemoryBroker::new();
        let crashes = self.fault.is_some_and(Fault::crashes);
        let lease_time = if crashes { Duration::from_secs(1) } else { LONG };
        let another = |store| {
            let broker = Arc::new(broker.new_connection());
            (self.process)(store, broker, lease_time).start()
        };
        let faulty = FaultyStore::new(Arc::clone(self.store));
        let mut point = set(&faulty);
        begin("the first process starts");
        let mut runtime = another(faulty.clone()).await.unwrap();
        begin("the script runs in the first process");
        let mut outcome = tokio::select! {
            biased;
            () = point.reached(1), if self.fault.is_some_and(Fault::ends_process) => None,
            outcome = self.perform(&runtime, &journals) => Some(outcome),
        };
        // It died right after the last append.
        outcome.take_if(|_| point.is_dead());
        let is_undisturbed = outcome.is_some() && self.fault != Some(Fault::Never);
        let (mut done, mut before) = (BTreeSet::new(), usize::MAX);
        if !is_undisturbed {
            begin("the first process ends");
            let mut next = None;
            if self.fault == Some(Fault::Relieve) {
                let joined = another(Arc::clone(self.store)).await.unwrap();
                // The client continues there.
                tokio::select! {
                    () = point.reached(4) => {}
                    _ = self.insist(&joined) => {}
                }
                next = Some(joined);
            }
            match crashes {
                true => drop(runtime),
                false => {
                    faulty.heal();
                    runtime.shutdown(PATIENCE).await.unwrap();
                }
            }
            begin("the journals are read");
            done = journals.done().await;
            // Now: what another process does meanwhile is not in the journals that were read.
            before = self.executions.all().len();
            begin("the next process starts");
            runtime = match next {
                Some(next) => next,
                None => another(Arc::clone(self.store)).await.unwrap(),
            };
            begin("the script runs in the next process");
            outcome = Some(self.insist(&runtime).await);
        }
        begin("the other runs end");
        settled(&journals).await;
        begin("the last process shuts down");
        runtime.shutdown(PATIENCE).await.unwrap();

        let mut found = journals.faults().await;
        let again = self.executions.all().into_iter().skip(before).filter(|it| done.contains(it));
        found.extend(again.map(|it| format!("{it:?} was recorded and is done again")));
        let outcome = outcome.map(|outcome| nameless(&outcome, self.id));
        Ended { outcome, is_undisturbed, found }
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
            outcome = blocked, if self.fault == Some(Fault::Never) => outcome,
        }
    }

    async fn insist(&self, runtime: &Runtime) -> Value {
        insist(self.script, self.id, runtime, self.fault == Some(Fault::Never)).await
    }
}
