//! Tasks on PostgreSQL in a closed loop of callers: TLS compared with plain text, and plain TCP
//! compared with the server's Unix socket, on a private server with its default settings.
//!
//! All of them take turns, each in its own schema; the medians are compared.
//!
//! `cargo bench -p aios-benches --bench task_postgres -- [CALLERS] [TASKS A CALLER] [ROUNDS]`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, and measures real time"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aios_agents::runtime::Runtime;
use aios_benches::{
    figure, median, per_second,
    postgres::open,
    ratio,
    task::{REVIEWER, Reviewer, Verdict, review},
};
use aios_broker::memory::MemoryBroker;
use aios_tests::postgres::PostgresServer;
use tokio::{runtime::Builder, task::JoinSet};

/// Callers, tasks of each, and rounds.
const DEFAULTS: [usize; 3] = [200, 20, 7];

/// How long a runtime may take to shut down.
const DRAIN: Duration = Duration::from_secs(30);

fn main() {
    let Some(server) = PostgresServer::start_encrypted() else { return };
    let numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let mut settings = DEFAULTS;
    settings.iter_mut().zip(numbers).for_each(|(setting, number)| *setting = number);
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(compare(&server, settings));
}

async fn compare(server: &PostgresServer, [callers, each, rounds]: [usize; 3]) {
    let ways =
        [("tls", server.encrypted_url()), ("tcp", server.url()), ("unix", server.socket_url())];
    let mut runtimes = Vec::new();
    for (name, url) in &ways {
        let runtime = Arc::new(start(url, name).await);
        tasks(&runtime, callers, 1).await;
        runtimes.push(runtime);
    }
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for way in (0..ways.len()).map(|way| (way + round) % ways.len()) {
            rates[way].push(tasks(&runtimes[way], callers, each).await);
        }
    }
    let [tls, tcp, unix] = rates.map(|mut rates| median(&mut rates));
    ratio("tasks/postgres/tls", tls, tcp, "tasks/s");
    ratio("tasks/postgres/tcp", tcp, unix, "tasks/s");
    figure("tasks/postgres/unix", unix, "tasks/s");
    for runtime in runtimes {
        Arc::into_inner(runtime).unwrap().shutdown(DRAIN).await.unwrap();
    }
}

async fn start(url: &str, schema: &str) -> Runtime {
    Runtime::builder()
        .store(open(url, schema).await)
        .broker(Arc::new(MemoryBroker::new()))
        .agent(REVIEWER, Reviewer)
        .start()
        .await
        .unwrap()
}

/// Tasks per second, each caller with one task at a time.
async fn tasks(runtime: &Arc<Runtime>, callers: usize, each: usize) -> f64 {
    let started = Instant::now();
    let mut calling = JoinSet::new();
    for _ in 0..callers {
        let runtime = Arc::clone(runtime);
        calling.spawn(async move {
            for _ in 0..each {
                runtime.task(REVIEWER, &review()).await.unwrap().result::<Verdict>().await.unwrap();
            }
        });
    }
    calling.join_all().await;
    per_second(callers * each, started.elapsed())
}
