//! Measures a handover: how long runs wait when the engine that advances them ends or freezes.

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_tests::{postgres::PostgresServer, rabbitmq::RabbitMqServer};
use tokio::time::{sleep, timeout};

use crate::{
    check, client,
    effect::now,
    folders,
    history::History,
    options::{Ending, MeasureOptions},
    place::Place,
    plan::CHAIN,
    process::{Process, Role},
    random::Random,
    sink,
};

/// How long runs may take to end, and processes to be ready.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long an engine is gone, in addition to the lease time. It is longer than any handover that is
/// fast enough.
const GONE: Duration = Duration::from_secs(6);
/// How often the leases are read.
const LOOK: Duration = Duration::from_millis(100);
/// Milliseconds that a link of a chain takes without a fault, roughly.
const LINK: u64 = 70;

/// When results of tasks arrived in the log, by run.
type Results = Arc<Mutex<BTreeMap<String, Vec<Duration>>>>;

/// The processes, and what is seen of them.
struct Site<'a> {
    options: &'a MeasureOptions,
    engines: Vec<Arc<Process>>,
    postgres: &'a PostgresServer,
    client: Runtime,
    store: Arc<dyn Store>,
    history: Arc<History>,
    results: Results,
}

/// Measures, and prints the result.
pub(crate) fn run(options: &MeasureOptions) -> ExitCode {
    let (Some(postgres), Some(rabbitmq)) = (PostgresServer::start(), RabbitMqServer::start())
    else {
        println!("skipped");
        return ExitCode::SUCCESS;
    };
    folders::run(options.out.as_deref(), async |out, sockets| {
        let site = Site::open(options, out, sockets, &postgres, &rabbitmq).await;
        site.measure_all().await
    })
}

impl<'a> Site<'a> {
    async fn open(
        options: &'a MeasureOptions,
        out: &Path,
        folder: &Path,
        postgres: &'a PostgresServer,
        rabbitmq: &RabbitMqServer,
    ) -> Self {
        let history = Arc::new(History::new());
        let socket = folder.join("effects");
        sink::open(&socket, Arc::clone(&history)).expect("opening the socket for effects");
        let store = aios_store::connect(&postgres.url()).await.expect("connecting to the store");
        let place = Place {
            lease: options.lease,
            patience: 3.0,
            verbose: options.verbose,
            plant: &[],
            out,
            socket: &socket,
            history: &history,
        };
        let mut processes = Vec::new();
        for (role, number) in
            [(Role::Engine, 1), (Role::Engine, 2), (Role::Agent, 1), (Role::Agent, 2)]
        {
            let nodes = std::slice::from_ref(rabbitmq);
            let process = place.process(role, number, false, None, postgres, nodes).await;
            tokio::spawn(Arc::clone(&process).supervise());
            timeout(PATIENCE, process.until_ready()).await.expect("a process is ready");
            processes.push(process);
        }
        processes.retain(|process| process.role == Role::Engine);
        let client = client::runtime(Arc::clone(&store)).await.expect("a runtime for clients");
        let results = Results::default();
        tokio::spawn(read_log(Arc::clone(&store), Arc::clone(&results)));
        Self { options, engines: processes, postgres, client, store, history, results }
    }

    /// Measures everything; `false` if a run waited for too long.
    async fn measure_all(&self) -> bool {
        let mut is_good = true;
        for ending in &self.options.signals {
            let mut waits = Vec::new();
            for trial in 0..self.options.trials {
                waits.push(self.measure(*ending, trial).await.as_secs_f64());
            }
            waits.sort_by(f64::total_cmp);
            let longest = waits.last().copied().unwrap_or_default();
            let texts: Vec<String> = waits.iter().map(|wait| format!("{wait:.2}")).collect();
            let middle = texts.get(texts.len() / 2).cloned().unwrap_or_default();
            println!(
                "{ending:?}, lease {} s: median {middle} s, longest {longest:.2} s, all {}",
                self.options.lease,
                texts.join(" ")
            );
            let limit = self.options.limit.map(|limit| match ending {
                Ending::Sigterm => limit,
                _ => self.options.lease + limit,
            });
            is_good &= limit.is_none_or(|limit| longest <= limit);
        }
        is_good
    }

    /// How long the runs of an engine waited at most, from its end to the next result.
    async fn measure(&self, ending: Ending, trial: usize) -> Duration {
        self.until_shared().await;
        let mut random = Random::new(self.options.seed, trial.try_into().unwrap_or_default());
        let before = Duration::from_millis(random.between(1_000, 1_000 + millis(self.lease())));
        let gone = self.lease() + GONE;
        let links = millis(before + gone) / LINK;
        let mut runs = Vec::new();
        for number in 0..self.options.runs {
            let id = format!("{ending:?}-{trial}-{number}").to_lowercase();
            let run = self.client.start(CHAIN, &links).id(id).await;
            let run = run.expect("starting a run");
            self.history.started(run.id());
            runs.push(run);
        }
        sleep(before).await;
        let engine = self.engines.get(trial % self.engines.len()).expect("there are two");
        let ended_at = now();
        match ending {
            Ending::Sigterm => engine.terminate(gone).await,
            Ending::Sigkill => engine.kill(gone).await,
            Ending::Sigstop => engine.freeze(gone).await,
        }
        for run in &runs {
            let result = timeout(PATIENCE, run.result::<u64>()).await.expect("a run ends");
            assert_eq!(result.expect("a run succeeds"), links);
            self.history.completed(run.id());
        }
        let (wait, run) = self.longest(&runs, ended_at);
        println!("{ending:?} {trial}: {:.2} s, {run}", wait.as_secs_f64());
        if self.options.verbose {
            println!("{}", check::journals(&*self.store, &run).await);
        }
        wait
    }

    fn longest(&self, runs: &[RunHandle], ended_at: Duration) -> (Duration, String) {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = runs.iter().map(|run| {
            let wait = longest_wait(results.get(run.id()).map_or(&[], Vec::as_slice), ended_at);
            (wait, run.id().to_owned())
        });
        waits.max().expect("there are runs")
    }

    fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.options.lease)
    }

    /// Waits until both engines are ready and own half of the shards each.
    async fn until_shared(&self) {
        let shared = async {
            loop {
                let counts = self.postgres.sql(
                    "SELECT count(*) FROM aios.leases WHERE shard < 64 AND expires_at > now() \
                     GROUP BY owner",
                );
                let shares: Vec<&str> = counts.lines().map(str::trim).collect();
                if shares == ["32", "32"] {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        for engine in &self.engines {
            timeout(PATIENCE, engine.until_ready()).await.expect("an engine is ready");
        }
        timeout(PATIENCE, shared).await.expect("the engines share the shards");
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The longest time between two results of a run, or from the end of the engine to the first one
/// after it.
fn longest_wait(results: &[Duration], ended_at: Duration) -> Duration {
    let pairs = results.windows(2).filter_map(|pair| match pair {
        [before, after] if *after > ended_at => Some(*after - (*before).max(ended_at)),
        _ => None,
    });
    pairs.max().unwrap_or_default()
}

/// Notes when results of tasks arrive in the log.
async fn read_log(store: Arc<dyn Store>, results: Results) {
    let mut position = 0;
    loop {
        store.wait_for(position).await.expect("the store answers");
        let page = store.read_log(position, 1000).await.expect("the store answers");
        let at = now();
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        for recorded in &page {
            position = recorded.position;
            let Some(run_id) = recorded.stream.run_id() else { continue };
            if recorded.event.event_type.action() == "task_completed" {
                results.entry(run_id.to_owned()).or_default().push(at);
            }
        }
    }
}
