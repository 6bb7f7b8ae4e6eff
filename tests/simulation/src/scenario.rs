//! One simulation: its participants, its faults and their times, and the state required at the end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_agents::{Runtime, agent::HostOptions, runtime::EngineOptions, workflow::FnWorkflow};
use aios_core::simulation;

use crate::{
    broker::NodeBroker,
    check,
    client::Clients,
    executor::{Node, Stop},
    fault::{Director, Fault},
    invariant::{Invariant, Violation},
    perform::{AGENT, Performer, WORKFLOW, Worker},
    plant::Plant,
    program::{Generator, Program},
    random::Random,
    store::NodeStore,
    watcher::Watcher,
    world::{Rates, World},
};

/// The time after the last fault by which every run must have ended.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The longest step in a scenario whose shards are counted, in milliseconds.
const SHORT: u64 = 1_000;
/// The largest number of polls in a simulation.
const POLLS: u64 = 3_000_000;

/// The parameters of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub seed: u64,
    pub engines: u32,
    pub hosts: u32,
    pub programs: Vec<Program>,
    /// Runs that are cancelled, and after how many milliseconds.
    pub cancelled: Vec<(usize, u64)>,
    pub rates: Rates,
    /// The faults and their times, in milliseconds.
    pub faults: Vec<(u64, Fault)>,
    pub lease_time: Duration,
    /// Whether the workflow may look ahead.
    pub looks_ahead: bool,
}

/// The outcome of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub violations: Vec<Violation>,
    pub trace: Vec<String>,
    /// Depends on every line of the trace and on every choice of a task.
    pub digest: u64,
    pub polls: u64,
}

impl Scenario {
    /// The scenario of a seed. With odd seeds, engines may outlive their leases.
    pub fn new(seed: u64) -> Self {
        Self::with_zombies(seed, seed % 2 == 1)
    }

    /// The scenario of a seed, in which engines may outlive their leases or not: frozen, or cut off from
    /// the store alone.
    pub fn with_zombies(seed: u64, zombies: bool) -> Self {
        let mut random = Random::new(seed, "scenario");
        let engines = u32::try_from(random.between(1, 3)).unwrap_or(1);
        let hosts = u32::try_from(random.between(1, 2)).unwrap_or(1);
        let runs = random.between(1, 4);
        let programs = (0..runs).map(|_| Generator::new(&mut random).program()).collect();
        let mut cancelled = Vec::new();
        for run in 0..usize::try_from(runs).unwrap_or_default() {
            if random.per_mille(100) {
                cancelled.push((run, random.below(15_000)));
            }
        }
        let rates = match random.below(4) {
            0 => Rates::default(),
            1 => Rates { slow: 30, refused: 10, lost: 10, late: 5, doubled: 20, vanished: 0 },
            2 => Rates { slow: 100, refused: 30, lost: 30, late: 20, doubled: 100, vanished: 50 },
            _ => Rates { slow: 10, refused: 3, lost: 3, late: 3, doubled: 5, vanished: 5 },
        };
        // A zombie's late effects are mostly requests that it sent in time.
        let late = if zombies { 150 } else { rates.late };
        let rates = Rates { late, ..rates };
        let faults = Fault::plan(&mut random, engines, hosts, zombies);
        // Long enough that an engine learns in time that a renewal failed.
        let shortest = if zombies { 3 } else { 10 };
        let lease_time = Duration::from_secs(random.between(shortest, 15));
        let looks_ahead = Random::new(seed, "lookahead").per_mille(500);
        Self { seed, engines, hosts, programs, cancelled, rates, faults, lease_time, looks_ahead }
    }

    /// A scenario in which nothing fails: engines stop and start, so that runs move between them.
    pub fn calm(seed: u64) -> Self {
        let mut scenario = Self::with_zombies(seed, false);
        let mut random = Random::new(seed, "calm");
        scenario.engines = u32::try_from(random.between(2, 3)).unwrap_or(2);
        scenario.rates = Rates::default();
        scenario.faults = Fault::stops(&mut random, scenario.engines);
        scenario
    }

    /// A scenario in which nothing fails, and engines come and go: shards move to make the shares
    /// equal. Steps are shorter than the time that a shard waits for them.
    pub fn fleet(seed: u64) -> Self {
        let mut scenario = Self::calm(seed);
        let mut random = Random::new(seed, "fleet");
        scenario.engines = u32::try_from(random.between(2, 5)).unwrap_or(2);
        scenario.faults = Fault::changes(&mut random, scenario.engines);
        scenario.programs.iter_mut().for_each(|program| program.shorten(SHORT));
        scenario
    }

    /// A scenario in which the broker is replaced by one without its data.
    pub fn replaced(seed: u64) -> Self {
        let mut scenario = Self::with_zombies(seed, false);
        let mut random = Random::new(seed, "replaced");
        scenario.rates = Rates::default();
        scenario.faults = Fault::replacements(&mut random, scenario.engines, scenario.hosts);
        scenario
    }

    /// The invariant that a run without an end violates.
    fn liveness(&self) -> Invariant {
        let is_replaced = |(_, fault): &(u64, Fault)| *fault == Fault::BrokerReplacement;
        match self.faults.iter().any(is_replaced) {
            true => Invariant::BrokerReplaced,
            false => Invariant::EveryRunEnds,
        }
    }

    /// How long the steps of an engine that stops have to end. If nothing fails, all of them do.
    fn grace(&self) -> Duration {
        Duration::from_secs(if self.is_calm() { 6 } else { 3 })
    }

    /// Whether nothing fails.
    fn is_calm(&self) -> bool {
        let stops =
            |(_, fault): &(u64, Fault)| matches!(fault, Fault::Stop { role: Role::Engine(_), .. });
        self.rates == Rates::default() && self.faults.iter().all(stops)
    }

    /// Runs the simulation.
    pub fn run(&self, plant: Option<Plant>) -> Outcome {
        let world = World::new(self.seed, plant);
        let plants: BTreeSet<_> = plant.iter().map(|plant| plant.name()).collect();
        let _entered = simulation::enter(world.executor.simulation(plants));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime without drivers can be made");
        runtime.block_on(self.simulate(&world));
        let (trace, digest) = world.trace();
        let violations = std::mem::take(&mut world.state().violations);
        Outcome { violations, trace, digest, polls: world.executor.polls() }
    }

    async fn simulate(&self, world: &Arc<World>) {
        world.state().rates = self.rates;
        world.begins(self.is_calm(), self.lease_time);
        let watcher = Watcher::start(world);
        let director = Director::start(self, world, &watcher);
        let clients = Clients::start(self, world);
        let last = self.faults.iter().map(|(at, fault)| at + fault.lasts()).max().unwrap_or(0);
        let limit = Duration::from_millis(last) + PATIENCE;
        let is_over = || {
            let is_violated = !world.state().violations.is_empty();
            is_violated || (clients.are_done() && director.is_done() && watcher.is_done(world))
        };
        let stop = world.executor.run(is_over, limit, POLLS).await;
        if !world.state().violations.is_empty() {
            return;
        }
        match stop {
            Stop::Done => check::at_the_end(self, world, &clients, &watcher).await,
            Stop::Busy => world.violated(Invariant::NothingSpins, "polls without end"),
            Stop::Stalled | Stop::Late if !clients.are_done() => {
                world.violated(self.liveness(), clients.waiting(world));
            }
            Stop::Stalled | Stop::Late => {
                world.violated(Invariant::RelayLosesNothing, watcher.missing(world));
            }
        }
    }
}

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Engine(u32),
    Host(u32),
}

/// A running process.
pub struct Process {
    pub node: Node,
    pub broker: NodeBroker,
    /// Tells it to stop.
    pub stop: tokio::sync::watch::Sender<bool>,
}

impl Process {
    /// Starts a process, which retries while the store or the broker fails.
    pub fn start(scenario: &Scenario, world: &Arc<World>, role: Role) -> Self {
        let node = world.executor.begin();
        world.note(format_args!("node {} starts: {role:?}", node.0));
        let broker = NodeBroker::new(world, node);
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let engine = EngineOptions::new()
            .with_lease_time(scenario.lease_time)
            .with_heartbeat_timeout(Duration::from_secs(20));
        let main =
            main(Arc::clone(world), node, broker.clone(), role, engine, scenario.clone(), stopping);
        world.executor.spawn(node, main);
        Self { node, broker, stop }
    }
}

async fn main(
    world: Arc<World>,
    node: Node,
    broker: NodeBroker,
    role: Role,
    engine: EngineOptions,
    scenario: Scenario,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) {
    let clock = world.executor.clock(node);
    let runtime = loop {
        let builder = Runtime::builder()
            .store(Arc::new(NodeStore::new(&world, node)))
            .broker(Arc::new(broker.clone()))
            .clock(Arc::clone(&clock))
            .source(format!("node-{}", node.0))
            .host_options(HostOptions::new().with_confirm_redelivered(true));
        let performer = Performer { world: Some(Arc::clone(&world)), clock: Arc::clone(&clock) };
        let workflow = move |context, program| performer.clone().run(context, program);
        let workflow = FnWorkflow::new(WORKFLOW, workflow).expect("the name is valid");
        let workflow = if scenario.looks_ahead { workflow.with_lookahead() } else { workflow };
        let builder = builder.workflow_dyn(Arc::new(workflow));
        let builder = match role {
            Role::Engine(_) => builder.engine_options(engine.clone()),
            Role::Host(_) => {
                let worker = Worker { world: Arc::clone(&world), clock: Arc::clone(&clock) };
                builder.agent(AGENT, worker).client_only()
            }
        };
        match builder.start().await {
            Ok(runtime) => break runtime,
            Err(error) => {
                world.note(format_args!("could not start: {error}"));
                clock.sleep(Duration::from_secs(1)).await;
            }
        }
    };
    world.note("runs");
    let _ = stopping.wait_for(|stopping| *stopping).await;
    world.note("stops");
    let stopped = runtime.shutdown(scenario.grace()).await;
    world.note(format_args!("has stopped: {}", stopped.is_ok()));
}
