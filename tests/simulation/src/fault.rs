//! The faults of a simulation, and their schedule.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    broker::NodeBroker,
    executor::Node,
    plant::Plant,
    random::Random,
    scenario::{Process, Role, Scenario},
    watcher::Watcher,
    world::{Rates, World},
};

/// An hour in microseconds.
const HOUR: u64 = 3_600_000_000;

/// A fault; times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies, and restarts later.
    Crash { role: Role, back_after: u64 },
    /// A process is asked to stop, and restarts later.
    Stop { role: Role, back_after: u64 },
    /// A process is frozen.
    Pause { role: Role, lasts: u64 },
    /// The clock of a process jumps, by microseconds.
    ClockJump { role: Role, by: i64 },
    /// A process cannot reach the store.
    CutFromStore { role: Role, lasts: u64 },
    /// A process cannot reach the broker.
    CutFromBroker { role: Role, lasts: u64 },
    /// Every connection to the broker is lost.
    BrokerRestart,
    /// The broker is replaced by one without its data.
    BrokerReplacement,
}

/// The longest time for which an engine is frozen that must not outlive its lease.
const NAP: u64 = 700;
/// The delay after which the broker notices that a process is frozen or gone.
const NOTICED: u64 = 20_000;
/// Faults begin within this time.
const SPAN: u64 = 30_000;

impl Fault {
    /// Faults for a simulation.
    pub fn plan(random: &mut Random, engines: u32, hosts: u32, zombies: bool) -> Vec<(u64, Self)> {
        let count = random.below(6);
        let mut faults: Vec<(u64, Self)> = (0..count)
            .map(|_| {
                let role = match random.per_mille(700) {
                    true => Role::Engine(u32::try_from(random.below(engines.into())).unwrap_or(0)),
                    false => Role::Host(u32::try_from(random.below(hosts.into())).unwrap_or(0)),
                };
                let lasts = random.between(200, 25_000);
                let may_outlive = zombies || matches!(role, Role::Host(_));
                let fault = match random.below(10) {
                    0..=2 => Self::Crash { role, back_after: lasts },
                    3 => Self::Stop { role, back_after: lasts },
                    4 | 5 if may_outlive => Self::Pause { role, lasts },
                    4 | 5 => Self::Pause { role, lasts: lasts.min(NAP) },
                    6 if may_outlive => Self::CutFromStore { role, lasts },
                    6 => Self::CutFromStore { role, lasts: lasts.min(NAP) },
                    7 => Self::CutFromBroker { role, lasts },
                    8 => {
                        let by = i64::try_from(random.below(2 * HOUR)).unwrap_or_default();
                        Self::ClockJump { role, by: by - HOUR.cast_signed() }
                    }
                    _ if random.per_mille(300) => Self::BrokerReplacement,
                    _ => Self::BrokerRestart,
                };
                (random.below(SPAN), fault)
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// Engines that stop and start again.
    pub fn stops(random: &mut Random, engines: u32) -> Vec<(u64, Self)> {
        let count = random.between(1, 5);
        let mut stops: Vec<(u64, Self)> = (0..count)
            .map(|_| {
                let engine = u32::try_from(random.below(engines.into())).unwrap_or(0);
                let (role, back_after) = (Role::Engine(engine), random.between(200, 10_000));
                (random.below(SPAN), Self::Stop { role, back_after })
            })
            .collect();
        stops.sort_by_key(|(at, _)| *at);
        stops
    }

    /// The broker is replaced once or twice, while processes are frozen or cut off from it.
    pub fn replacements(random: &mut Random, engines: u32, hosts: u32) -> Vec<(u64, Self)> {
        let count = random.between(1, 2);
        let mut faults: Vec<(u64, Self)> =
            (0..count).map(|_| (random.below(SPAN), Self::BrokerReplacement)).collect();
        for _ in 0..random.below(3) {
            let role = match random.per_mille(500) {
                true => Role::Engine(u32::try_from(random.below(engines.into())).unwrap_or(0)),
                false => Role::Host(u32::try_from(random.below(hosts.into())).unwrap_or(0)),
            };
            let lasts = random.between(200, NAP);
            let fault = match random.per_mille(500) {
                true => Self::Pause { role, lasts },
                false => Self::CutFromBroker { role, lasts: lasts * 10 },
            };
            faults.push((random.below(SPAN), fault));
        }
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// Engines that join late, come and go, or are replaced one after the other.
    pub fn changes(random: &mut Random, engines: u32) -> Vec<(u64, Self)> {
        let mut faults = Vec::new();
        let mut at = 0;
        for number in 0..engines {
            if number > 0 && random.per_mille(500) {
                let stop = Self::Stop {
                    role: Role::Engine(number),
                    back_after: random.between(1000, 20_000),
                };
                faults.push((random.below(500), stop));
            }
        }
        for _ in 0..random.between(1, 3) {
            at += random.between(5_000, 50_000);
            match random.below(3) {
                // A rolling deployment.
                0 => {
                    for number in 0..engines {
                        let back_after = random.between(200, 5_000);
                        faults.push((at, Self::Stop { role: Role::Engine(number), back_after }));
                        at += back_after + random.between(0, 15_000);
                    }
                }
                // An engine that ends again and again.
                1 => {
                    let number = u32::try_from(random.below(engines.into())).unwrap_or(0);
                    for _ in 0..random.between(3, 12) {
                        let back_after = random.between(200, 1_000);
                        faults.push((at, Self::Stop { role: Role::Engine(number), back_after }));
                        at += back_after + random.between(500, 20_000);
                    }
                }
                _ => {
                    let number = u32::try_from(random.below(engines.into())).unwrap_or(0);
                    let back_after = random.between(200, 30_000);
                    faults.push((at, Self::Stop { role: Role::Engine(number), back_after }));
                    at += back_after;
                }
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// Its duration.
    pub fn lasts(self) -> u64 {
        match self {
            Self::Crash { back_after, .. } | Self::Stop { back_after, .. } => back_after,
            Self::Pause { lasts, .. }
            | Self::CutFromStore { lasts, .. }
            | Self::CutFromBroker { lasts, .. } => lasts,
            Self::ClockJump { .. } | Self::BrokerRestart | Self::BrokerReplacement => 0,
        }
    }
}

/// Starts the processes, and injects the faults.
pub struct Director(Arc<Inner>);

struct Inner {
    world: Arc<World>,
    scenario: Scenario,
    watcher: Watcher,
    processes: Mutex<BTreeMap<Role, Process>>,
    /// The connections of all processes, also of those that are ending.
    brokers: Mutex<Vec<NodeBroker>>,
    is_done: AtomicBool,
}

impl Director {
    pub fn start(scenario: &Scenario, world: &Arc<World>, watcher: &Watcher) -> Self {
        let inner = Arc::new(Inner {
            world: Arc::clone(world),
            scenario: scenario.clone(),
            watcher: watcher.clone(),
            processes: Mutex::default(),
            brokers: Mutex::default(),
            is_done: AtomicBool::new(false),
        });
        let engines = (0..scenario.engines).map(Role::Engine);
        for role in engines.chain((0..scenario.hosts).map(Role::Host)) {
            inner.start(role);
        }
        if world.plants(Plant::LocalClock) {
            let wrong = inner.node(Role::Engine(0));
            world.executor.shift(wrong, 60_000_000);
        }
        world.executor.spawn(Node::WORLD, Arc::clone(&inner).direct());
        Self(inner)
    }

    /// Whether all faults are over.
    pub fn is_done(&self) -> bool {
        self.0.is_done.load(Ordering::Acquire)
    }
}

impl Inner {
    fn start(&self, role: Role) {
        let process = Process::start(&self.scenario, &self.world, role);
        self.brokers().push(process.broker.clone());
        self.processes().insert(role, process);
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, BTreeMap<Role, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn brokers(&self) -> std::sync::MutexGuard<'_, Vec<NodeBroker>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disconnect_all(&self) {
        let brokers = self.brokers().clone();
        brokers.iter().for_each(NodeBroker::disconnect);
    }

    fn node(&self, role: Role) -> Node {
        self.processes().get(&role).map_or(Node::WORLD, |process| process.node)
    }

    async fn direct(self: Arc<Self>) {
        let clock = self.world.executor.clock(Node::WORLD);
        let mut last = 0;
        for (at, fault) in &self.scenario.faults {
            let now = self.world.executor.now() / 1000;
            clock.sleep(Duration::from_millis(at.saturating_sub(now))).await;
            self.world.note(format_args!("FAULT {fault:?}"));
            self.happen(*fault);
            last = last.max(at + fault.lasts());
        }
        let now = self.world.executor.now() / 1000;
        clock.sleep(Duration::from_millis(last.max(SPAN).saturating_sub(now))).await;
        self.world.note("the faults have ended");
        self.world.state().rates = Rates::default();
        self.is_done.store(true, Ordering::Release);
    }

    fn happen(self: &Arc<Self>, fault: Fault) {
        match fault {
            Fault::Crash { role, back_after } => {
                let Some(process) = self.processes().remove(&role) else { return };
                self.world.executor.kill(process.node);
                self.world.leaves(process.node);
                let this = Arc::clone(self);
                let noticed = self.world.state().random.below(NOTICED);
                self.after(noticed.min(back_after * 2), move || process.broker.disconnect());
                self.after(back_after, move || this.start(role));
            }
            Fault::Stop { role, back_after } => {
                let Some(process) = self.processes().remove(&role) else { return };
                process.stop.send_replace(true);
                self.world.leaves(process.node);
                let this = Arc::clone(self);
                self.after(back_after, move || this.start(role));
                // Then it is killed.
                let this = Arc::clone(self);
                self.after(10_000, move || {
                    this.world.executor.kill(process.node);
                    process.broker.disconnect();
                });
            }
            Fault::Pause { role, lasts } => self.pause(role, lasts),
            // A dead process has no clock. The node of the world, whose clock is that of the store,
            // must not jump instead.
            Fault::ClockJump { role, by } => match self.node(role) {
                Node::WORLD => {}
                node => self.world.executor.shift(node, by),
            },
            Fault::CutFromStore { role, lasts } => {
                let (node, this) = (self.node(role), Arc::clone(self));
                self.world.state().without_store.insert(node);
                self.after(lasts, move || {
                    this.world.state().without_store.remove(&node);
                });
            }
            Fault::CutFromBroker { role, lasts } => {
                let (node, this) = (self.node(role), Arc::clone(self));
                self.world.state().without_broker.insert(node);
                let broker = self.processes().get(&role).map(|process| process.broker.clone());
                if lasts > NOTICED
                    && let Some(broker) = broker
                {
                    self.after(NOTICED, move || broker.disconnect());
                }
                self.after(lasts, move || {
                    this.world.state().without_broker.remove(&node);
                });
            }
            Fault::BrokerRestart => self.disconnect_all(),
            Fault::BrokerReplacement => {
                self.watcher.replace_broker(&self.world);
                self.disconnect_all();
            }
        }
    }

    fn pause(self: &Arc<Self>, role: Role, lasts: u64) {
        let Some((node, broker)) =
            self.processes().get(&role).map(|process| (process.node, process.broker.clone()))
        else {
            return;
        };
        self.world.executor.pause(node);
        if lasts > NOTICED {
            self.after(NOTICED, move || broker.disconnect());
        }
        let this = Arc::clone(self);
        self.after(lasts, move || {
            this.world.note(format_args!("node {} continues", node.0));
            this.world.executor.resume(node);
        });
    }

    fn after(self: &Arc<Self>, millis: u64, what: impl FnOnce() + Send + 'static) {
        let clock = self.world.executor.clock(Node::WORLD);
        self.world.executor.spawn(Node::WORLD, async move {
            clock.sleep(Duration::from_millis(millis)).await;
            what();
        });
    }
}
