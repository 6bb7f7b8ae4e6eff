//! Starts everything, injects faults, and checks the outcome.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::Chain;
use aios_tests::{
    postgres::PostgresServer,
    rabbitmq::{RabbitMqCluster, RabbitMqServer},
};
use clap::ValueEnum;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    check,
    client::{self, Clients},
    effect::now,
    fault::{Fault, FaultKind, schedule},
    folders,
    history::History,
    inject::Targets,
    network::Namespace,
    observer,
    options::Options,
    place::Place,
    plant::Plant,
    process::{Process, Role},
    random::mix,
    sink,
};

/// How long the processes may take to start.
const START: Duration = Duration::from_secs(60);

/// How often the harness checks whether the machine was suspended.
const LOOK: Duration = Duration::from_millis(200);
/// The delay from which on it counts as suspended.
const STALL: Duration = Duration::from_secs(2);

/// Runs the harness.
pub(crate) fn run(options: &Options) -> ExitCode {
    let seed =
        options.seed.unwrap_or_else(|| mix(u64::try_from(now().as_nanos()).unwrap_or(1)) >> 32);
    println!("seed {seed}");
    let (Some(postgres), Some(rabbitmq)) = (PostgresServer::start(), nodes(options.nodes)) else {
        println!("skipped");
        return ExitCode::SUCCESS;
    };
    folders::run(options.out.as_deref(), async |out, sockets| {
        let site = Site::open(options, seed, out, sockets, postgres, rabbitmq).await;
        site.run().await
    })
}

/// Everything that the harness started.
struct Site {
    options: Options,
    seed: u64,
    out: PathBuf,
    schedule: Vec<Fault>,
    targets: Arc<Targets>,
    clients: Arc<Clients>,
    store: Arc<dyn Store>,
}

impl Site {
    async fn open(
        options: &Options,
        seed: u64,
        out: &Path,
        folder: &Path,
        postgres: PostgresServer,
        rabbitmq: Vec<RabbitMqServer>,
    ) -> Self {
        let history = Arc::new(History::new());
        let socket = folder.join("effects");
        sink::open(&socket, Arc::clone(&history)).expect("opening the socket for effects");
        let store = aios_store::connect(&postgres.url()).await.expect("connecting to the store");
        let mut processes: Vec<Arc<Process>> = Vec::new();
        for (role, count) in [(Role::Engine, options.engines), (Role::Agent, options.agents)] {
            for number in 1..=count {
                let namespace = Namespace::new(processes.len());
                let namespace = namespace.map_err(|error| println!("no namespace: {error}")).ok();
                let place = Place {
                    lease: options.lease,
                    patience: options.patience,
                    verbose: false,
                    plant: &options.plant,
                    out,
                    socket: &socket,
                    history: &history,
                };
                let is_last = number == count;
                processes.push(
                    place.process(role, number, is_last, namespace, &postgres, &rabbitmq).await,
                );
            }
        }
        let can = |kind: FaultKind| is_possible(kind, options, &processes);
        let runtime = client::runtime(Arc::clone(&store)).await.expect("a runtime for clients");
        let clients = Clients {
            runtime,
            history: Arc::clone(&history),
            seed,
            next: 1.into(),
            is_closing: false.into(),
        };
        let schedule = schedule_of(options, seed, can);
        let targets = Targets {
            processes,
            postgres: Arc::new(postgres),
            rabbitmq: Arc::new(rabbitmq),
            servers: tokio::sync::Mutex::default(),
            end: OnceLock::new(),
            history,
        };
        Self {
            schedule,
            options: options.clone(),
            seed,
            out: out.to_owned(),
            targets: Arc::new(targets),
            clients: Arc::new(clients),
            store,
        }
    }

    fn history(&self) -> &History {
        &self.targets.history
    }

    async fn run(self) -> bool {
        for process in &self.targets.processes {
            tokio::spawn(Arc::clone(process).supervise());
        }
        let patience = self.options.patience;
        timeout(START.mul_f64(patience), self.ready()).await.expect("the processes start");
        self.history().note("everything is ready");
        self.history().note(check::sizes(&self.targets).await);
        let history = Arc::clone(&self.targets.history);
        tokio::spawn(watch_the_machine(Arc::clone(&history)));
        tokio::spawn(client::read_log(Arc::clone(&self.store), Arc::clone(&history)));
        let url = self.targets.rabbitmq.first().map(RabbitMqServer::url).unwrap_or_default();
        let broker = aios_broker::connect(&url).await.expect("connecting to the broker");
        observer::begin(broker, history, self.options.plant.clone()).await;
        let mut clients = JoinSet::new();
        for _ in 0..self.options.runs {
            clients.spawn(Arc::clone(&self.clients).run());
        }
        self.disturb().await;
        self.clients.is_closing.store(true, Ordering::Release);
        self.history().note("no fault happens any more, and no run is started");
        let settle = Duration::from_secs_f64(self.options.settle * patience);
        let started = Instant::now();
        if timeout(settle, ended(&mut clients)).await.is_err() {
            self.name_unfinished().await;
        } else {
            let time = started.elapsed().as_secs_f64();
            self.history().note(format!("every run has ended after {time:.1} s"));
        }
        check::quiet(&self.targets, &*self.store, self.options.memory, patience).await;
        check::relayed(self.history(), patience).await;
        let is_changed = self.options.plant.contains(&Plant::ChangedRow);
        check::rows(&self.targets, &*self.store, is_changed).await;
        self.history().note(check::sizes(&self.targets).await);
        if self.options.every_kind {
            check::kinds(&self.targets.history, &self.schedule);
        }
        check::logs(&self.targets);
        let slowest = self.history().slowest();
        let text = format!(
            "{}\n\n{}\n",
            self.history().of_run(&slowest),
            check::journals(&*self.store, &slowest).await
        );
        std::fs::write(self.out.join("slowest-run.txt"), text).expect("writing a file");
        self.report().await
    }

    async fn ready(&self) {
        for process in &self.targets.processes {
            process.until_ready().await;
        }
    }

    /// Injects all faults, and completes when all are over.
    async fn disturb(&self) {
        let begun = Instant::now();
        self.targets.end.get_or_init(|| begun + minutes(&self.options));
        let mut faults = JoinSet::new();
        for fault in self.schedule.clone() {
            sleep_until(begun + fault.at).await;
            for process in &self.targets.processes {
                process.memory();
            }
            let targets = Arc::clone(&self.targets);
            faults.spawn(async move { targets.hit(fault).await });
        }
        sleep_until(begun + minutes(&self.options)).await;
        while let Some(ended) = faults.join_next().await {
            ended.expect("a fault happens");
        }
    }

    async fn name_unfinished(&self) {
        for id in self.history().unfinished() {
            let status = match self.clients.runtime.handle(&id).await {
                Ok(run) => match run.status().await {
                    Ok(row) => format!("{} is {}: {:?}", row.id, row.status, row.status_text),
                    Err(error) => Chain(&error).to_string(),
                },
                Err(error) => Chain(&error).to_string(),
            };
            self.history().violation(Some(&id), format!("{id} has not ended: {status}"));
        }
    }

    async fn report(&self) -> bool {
        let counts = self.history().counts();
        println!("seed {}: {counts:#?}", self.seed);
        for process in &self.targets.processes {
            let most = process.most_memory.load(Ordering::Relaxed);
            let first = process.first_memory.load(Ordering::Acquire);
            let now = process.memory();
            println!("{}: {now} MB, {first} MB when it was ready, at most {most} MB", process.name);
        }
        let violations = self.history().violations();
        if violations.is_empty() {
            println!("no violation");
            return counts.completed > 0 && counts.completed == counts.started;
        }
        println!("\n{} violations with seed {}:", violations.len(), self.seed);
        violations.iter().for_each(|violation| println!("  {violation}"));
        println!("\nschedule:");
        self.schedule.iter().for_each(|fault| println!("  {fault}"));
        println!("\nwhat happened:\n{}", self.history().timeline());
        for run in self.history().violating().iter().take(3) {
            println!("\nrun {run}, from outside:\n{}", self.history().of_run(run));
            println!("\nrun {run}, its journals:\n{}", check::journals(&*self.store, run).await);
        }
        false
    }
}

async fn ended(clients: &mut JoinSet<()>) {
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ends");
    }
}

fn minutes(options: &Options) -> Duration {
    Duration::from_secs_f64(options.minutes * 60.0)
}

/// The nodes of RabbitMQ.
fn nodes(count: usize) -> Option<Vec<RabbitMqServer>> {
    match count {
        0 | 1 => Some(vec![RabbitMqServer::start()?]),
        _ => Some(RabbitMqCluster::start(count)?.nodes),
    }
}

/// Records when this machine is suspended: the processes are not to blame for what happens then.
async fn watch_the_machine(history: Arc<History>) {
    loop {
        let before = now();
        sleep(LOOK).await;
        let late = now().saturating_sub(before + LOOK);
        if late > STALL {
            history.stalled(late);
        }
    }
}

/// Whether a fault can happen here.
fn is_possible(kind: FaultKind, options: &Options, processes: &[Arc<Process>]) -> bool {
    match kind {
        FaultKind::ClockEngine | FaultKind::ClockAgent => {
            processes.iter().any(|process| process.clock.is_some())
        }
        kind if kind.is_of_network() => processes.iter().any(|process| process.namespace.is_some()),
        FaultKind::RabbitmqLeader => options.nodes > 1,
        // A node that has lost its data has to be made to join its cluster again.
        FaultKind::RabbitmqReplace => options.nodes <= 1,
        _ => true,
    }
}

fn schedule_of(
    options: &Options,
    seed: u64,
    is_possible: impl Fn(FaultKind) -> bool,
) -> Vec<Fault> {
    let mut kinds = options.faults.clone();
    if kinds.is_empty() {
        kinds.extend(FaultKind::value_variants());
    }
    let (kinds, missing): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|kind| is_possible(*kind));
    missing.iter().for_each(|kind| println!("impossible here: {kind}"));
    let (lease, every) =
        (Duration::from_secs_f64(options.lease), Duration::from_secs_f64(options.every));
    schedule(seed, &kinds, lease, every, minutes(options))
}
