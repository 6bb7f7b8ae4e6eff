//! Faults happen.

use std::{sync::Arc, time::Duration};

use aios_tests::{postgres::PostgresServer, rabbitmq::RabbitMqServer};
use tokio::{sync::Mutex, task::spawn_blocking, time::sleep};

use crate::{
    fault::{Fault, FaultKind},
    history::History,
    process::{Process, Role},
    proxy::{Mode, Proxy},
};

/// What can be hit.
#[derive(Debug)]
pub(crate) struct Targets {
    /// The engines and agent services.
    pub(crate) processes: Vec<Arc<Process>>,
    /// The store.
    pub(crate) postgres: Arc<PostgresServer>,
    /// The broker.
    pub(crate) rabbitmq: Arc<RabbitMqServer>,
    /// Held while a server is down: one at a time.
    pub(crate) servers: Mutex<()>,
    /// Where it is noted.
    pub(crate) history: Arc<History>,
}

impl Targets {
    /// Does what a fault says, and completes when it is over.
    pub(crate) async fn hit(&self, fault: Fault) {
        use FaultKind as Kind;
        match fault.kind {
            Kind::RollEngines => self.roll(Role::Engine, &fault).await,
            Kind::RollAgents => self.roll(Role::Agent, &fault).await,
            kind if kind.is_of_store() => self.hit_store(&fault).await,
            kind if kind.is_of_broker() => self.hit_broker(&fault).await,
            _ => self.hit_one(&fault).await,
        }
    }

    async fn roll(&self, role: Role, fault: &Fault) {
        for process in self.processes.iter().filter(|process| process.role == role) {
            let hit = self.history.hit(&process.name, fault);
            process.terminate(Duration::from_millis(200)).await;
            while !process.is_ready().await {
                sleep(Duration::from_millis(100)).await;
            }
            self.history.healed(hit);
        }
    }

    async fn hit_store(&self, fault: &Fault) {
        let _alone = self.servers.lock().await;
        let hit = self.history.hit("postgresql", fault);
        let (postgres, kind) = (Arc::clone(&self.postgres), fault.kind);
        blocking(move || match kind {
            FaultKind::PostgresFast => postgres.stop("fast"),
            FaultKind::PostgresImmediate => postgres.stop("immediate"),
            _ => postgres.kill(),
        })
        .await;
        sleep(fault.time).await;
        let postgres = Arc::clone(&self.postgres);
        blocking(move || postgres.revive()).await;
        self.history.note("postgresql is back");
        self.history.healed(hit);
    }

    async fn hit_broker(&self, fault: &Fault) {
        let _alone = self.servers.lock().await;
        let hit = self.history.hit("rabbitmq", fault);
        let (rabbitmq, kind) = (Arc::clone(&self.rabbitmq), fault.kind);
        blocking(move || {
            match kind {
                FaultKind::RabbitmqRestart => rabbitmq.stop(),
                _ => rabbitmq.kill(),
            }
            if kind == FaultKind::RabbitmqReplace {
                rabbitmq.erase();
            }
        })
        .await;
        sleep(fault.time).await;
        let rabbitmq = Arc::clone(&self.rabbitmq);
        blocking(move || rabbitmq.revive()).await;
        self.history.note("rabbitmq is back");
        self.history.healed(hit);
    }

    async fn hit_one(&self, fault: &Fault) {
        let Some(process) = self.choose(fault) else { return };
        let hit = self.history.hit(&process.name, fault);
        match fault.kind {
            FaultKind::KillEngine | FaultKind::KillAgent => process.kill(fault.time).await,
            FaultKind::FreezeEngine | FaultKind::FreezeAgent => process.freeze(fault.time).await,
            FaultKind::ClockEngine | FaultKind::ClockAgent => {
                process.jump(jump(fault.chance), fault.time).await;
            }
            kind => disturb(proxy(kind, process), fault).await,
        }
        self.history.note(format!("{}: {} is over", process.name, fault.kind));
        self.history.healed(hit);
    }

    /// The process that a fault hits.
    fn choose(&self, fault: &Fault) -> Option<&Arc<Process>> {
        use FaultKind as Kind;
        let candidates: Vec<&Arc<Process>> = self
            .processes
            .iter()
            .filter(|process| match fault.kind {
                Kind::KillEngine | Kind::FreezeEngine => process.role == Role::Engine,
                Kind::CutStore | Kind::PartStore | Kind::DelayStore => process.role == Role::Engine,
                Kind::KillAgent | Kind::FreezeAgent => process.role == Role::Agent,
                Kind::ClockEngine => process.role == Role::Engine && process.clock.is_some(),
                Kind::ClockAgent => process.role == Role::Agent && process.clock.is_some(),
                _ => true,
            })
            .collect();
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        candidates.get(usize::try_from(fault.chance % count).ok()?).copied()
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) {
    spawn_blocking(work).await.expect("a server does what it should");
}

fn proxy(kind: FaultKind, process: &Process) -> &Proxy {
    match kind {
        FaultKind::CutStore | FaultKind::PartStore | FaultKind::DelayStore => &process.store,
        _ => &process.broker,
    }
}

async fn disturb(proxy: &Proxy, fault: &Fault) {
    // Every other bit is used for the choice of the process.
    let chance = fault.chance >> 16;
    match fault.kind {
        FaultKind::CutStore | FaultKind::CutBroker => {
            proxy.cut_one(chance);
        }
        FaultKind::PartStore | FaultKind::PartBroker => {
            proxy.set(Mode::Hold);
            sleep(fault.time).await;
            // Either what was held arrives, or the network has forgotten the connections.
            if chance.is_multiple_of(2) {
                proxy.cut();
            }
            proxy.set(Mode::Pass);
        }
        _ => {
            proxy.set(Mode::Delay(Duration::from_millis(20 + chance % 300)));
            sleep(fault.time * 3).await;
            proxy.set(Mode::Pass);
        }
    }
}

/// Seconds by which a clock jumps: up to an hour, forwards or backwards.
fn jump(chance: u64) -> i64 {
    let far = [5, 60, 3600];
    let index = usize::try_from((chance >> 16) % 3).unwrap_or_default();
    let seconds = far.get(index).copied().unwrap_or(5);
    if (chance >> 24).is_multiple_of(2) { seconds } else { -seconds }
}
