//! Lists of 50 out of 1,000,000 runs with one or two filters, on SQLite and PostgreSQL: the slowest of some
//! pages, in milliseconds. The same for the whole command `aios runs`, from the start of its process to its
//! end. All rows are inserted by SQL.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use aios_benches::{figure, postgres, sqlite};
use aios_core::{
    event::Timestamp,
    store::{PageRequest, RunFilter, RunStatus, Store},
};
use aios_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection};

const RUNS: u64 = 1_000_000;
const PAGES: usize = 20;
/// The schema that the program uses.
const SCHEMA: &str = "aios";
/// The first run is of this second, and each other one of the next.
const FIRST: i64 = 1_700_000_000;

/// The first argument of a process of this file that is the program `aios`.
const PROGRAM: &str = "aios";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == PROGRAM) {
        return ExitCode::from(aios_cli::main(std::env::args_os().skip(1)));
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let place = filled_file();
    tokio.block_on(async { measure("sqlite", &sqlite::open(&place.path).await).await });
    list("sqlite", &format!("sqlite:{}", place.path.display()));
    if let Some(server) = PostgresServer::start() {
        tokio.block_on(on_postgres(&server));
        list("postgres", &server.url());
    }
    ExitCode::SUCCESS
}

/// The slowest of some runs of the command `aios runs`, of all runs and with filters.
fn list(name: &str, url: &str) {
    for (filters, arguments) in
        [("all", &[][..]), ("status", &["--status", "failed"]), ("workflow", &["--workflow", "w7"])]
    {
        let mut slowest = 0.0_f64;
        for _ in 0..PAGES {
            let begin = Instant::now();
            let mut command = Command::new(std::env::current_exe().unwrap());
            let command = command.args([PROGRAM, "--store", url, "runs"]).args(arguments);
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
            assert!(status.success(), "{filters}");
        }
        figure(&format!("aios_runs_of_1000000/{name}/{filters}"), slowest, "ms");
    }
}

/// One of 1,000 runs has failed, and there are 10 workflows. Ids are in no order of time.
fn insert(number: &str, hash: &str, at: &str, source: &str, schema: &str) -> String {
    format!(
        "INSERT INTO {schema}workflow_runs (id, external_id, workflow, workflow_version, shard, status,
            position, created_at, updated_at)
         SELECT {hash}, 'run-' || {number}, 'w' || ({number} % 10), 1, {number} % 64,
            CASE WHEN {number} % 1000 = 7 THEN 'failed' ELSE 'completed' END, {number}, {at}, {at}
         FROM {source}"
    )
}

/// A file with the runs.
fn filled_file() -> sqlite::Place {
    let place = sqlite::Place::new();
    let connection = sqlite::connect(&place.path);
    let source = format!(
        "(WITH RECURSIVE numbers (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < {RUNS})
          SELECT n FROM numbers)"
    );
    let at = format!("({FIRST} + n) * 1000000");
    let sql = insert("n", "randomblob(16)", &at, &source, "");
    connection.execute_batch(&format!("BEGIN; {sql}; COMMIT;")).unwrap();
    place
}

async fn on_postgres(server: &PostgresServer) {
    let store = postgres::open(&server.url(), SCHEMA).await;
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let source = format!("generate_series(1, {RUNS}) AS n");
    let at = format!("to_timestamp({FIRST} + n)");
    let sql = insert("n", "gen_random_uuid()", &at, &source, &format!("{SCHEMA}."));
    for sql in [sql, format!("ANALYZE {SCHEMA}.workflow_runs")] {
        sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
    }
    measure("postgres", &*store).await;
}

async fn measure(name: &str, store: &dyn Store) {
    let second = |number: i64| Some(Timestamp::from_micros((FIRST + number) * 1_000_000));
    let workflow = Some("w7".to_owned());
    let failed = vec![RunStatus::Failed];
    for (filters, filter) in [
        ("status", RunFilter { statuses: failed.clone(), ..RunFilter::default() }),
        (
            "workflow_status",
            RunFilter {
                workflow: workflow.clone(),
                statuses: failed.clone(),
                ..RunFilter::default()
            },
        ),
        (
            "workflow_time",
            RunFilter { workflow, created_after: second(900_000), ..RunFilter::default() },
        ),
        (
            "status_time",
            RunFilter {
                statuses: failed,
                created_after: second(100_000),
                created_before: second(900_000),
                ..RunFilter::default()
            },
        ),
    ] {
        let (mut request, mut slowest) = (PageRequest::first(50), 0.0_f64);
        for _ in 0..PAGES {
            let begin = Instant::now();
            let page = store.runs(&filter, &request).await.unwrap();
            slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
            assert!(!page.rows.is_empty(), "{filters}");
            request = page.next.unwrap_or_else(|| PageRequest::first(50));
        }
        figure(&format!("list_50_of_1000000/{name}/{filters}"), slowest, "ms");
    }
}
