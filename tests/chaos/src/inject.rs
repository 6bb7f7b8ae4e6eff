//! Injection of faults.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aios_tests::{postgres::PostgresServer, rabbitmq::RabbitMqServer};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    fault::{Fault, FaultKind},
    history::History,
    plan::AGENT,
    process::{Process, Role},
    proxy::{Mode, Proxy},
};

/// The targets of faults.
#[derive(Debug)]
pub(crate) struct Targets {
    /// The engines and agent services.
    pub(crate) processes: Vec<Arc<Process>>,
    /// The store.
    pub(crate) postgres: Arc<PostgresServer>,
    /// The nodes of the broker.
    pub(crate) rabbitmq: Arc<Vec<RabbitMqServer>>,
    /// Held while a server is down: one at a time.
    pub(crate) servers: Mutex<()>,
    /// The time after which no fault begins, unless it is the first of its kind.
    pub(crate) end: OnceLock<Instant>,
    /// Where faults are recorded.
    pub(crate) history: Arc<History>,
}

impl Targets {
    /// Injects a fault, and completes when it is over.
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
            self.history.healed(hit);
            // The supervisor detects a process that does not become ready.
            timeout(process.starting() * 3, process.until_ready()).await.ok();
        }
    }

    /// Whether it is too late for a fault: earlier ones took longer than planned.
    fn is_late(&self, kind: FaultKind) -> bool {
        let is_over = self.end.get().is_some_and(|end| Instant::now() > *end);
        is_over && self.history.counts().faults.contains_key(&kind)
    }

    async fn hit_store(&self, fault: &Fault) {
        let _alone = self.servers.lock().await;
        if self.is_late(fault.kind) {
            return;
        }
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
        if self.is_late(fault.kind) {
            return;
        }
        let hit = self.history.hit("rabbitmq", fault);
        let (nodes, kind, chance) = (Arc::clone(&self.rabbitmq), fault.kind, fault.chance);
        let number = blocking(move || {
            let number = match kind {
                FaultKind::RabbitmqLeader => leader(&nodes),
                _ => usize::try_from(chance).unwrap_or_default() % nodes.len(),
            };
            let Some(node) = nodes.get(number) else { return number };
            match kind {
                FaultKind::RabbitmqRestart => node.stop(),
                _ => node.kill(),
            }
            if kind == FaultKind::RabbitmqReplace {
                node.erase();
            }
            number
        })
        .await;
        if self.rabbitmq.len() > 1 {
            self.history.note(format!("rabbitmq: node {} of the cluster is down", number + 1));
        }
        sleep(fault.time).await;
        let nodes = Arc::clone(&self.rabbitmq);
        blocking(move || nodes.get(number).map(RabbitMqServer::revive)).await;
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
            kind if kind.is_of_network() => lose(process, fault).await,
            kind => disturb(proxy(kind, process), fault).await,
        }
        self.history.note(format!("{}: {} is over", process.name, fault.kind));
        self.history.healed(hit);
    }

    /// The process that a fault affects.
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
                Kind::PartNetwork | Kind::MuteNetwork => process.namespace.is_some(),
                _ => true,
            })
            .collect();
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        candidates.get(usize::try_from(fault.chance % count).ok()?).copied()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("a server does what it should")
}

/// The node that leads the queue of the tasks.
fn leader(nodes: &[RabbitMqServer]) -> usize {
    let columns = ["list_queues", "--quiet", "--no-table-headers", "name", "leader"];
    let listed = nodes.first().map(|node| node.ctl(&columns)).unwrap_or_default();
    let of_tasks = listed.lines().find(|line| line.contains(AGENT)).unwrap_or_default();
    let leads = |node: &RabbitMqServer| of_tasks.trim_end().ends_with(node.node());
    nodes.iter().position(leads).unwrap_or_default()
}

/// Drops packets for some time.
async fn lose(process: &Process, fault: &Fault) {
    let Some(namespace) = &process.namespace else { return };
    let lose = |is_lost: bool| match fault.kind {
        FaultKind::PartNetwork => namespace.cut(is_lost),
        _ => namespace.mute(is_lost),
    };
    lose(true);
    sleep(fault.time).await;
    lose(false);
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
            // Either the delayed data arrives, or the network has forgotten the connections.
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
