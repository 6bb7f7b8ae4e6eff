//! The append rate of `PostgresStore` on a log of millions of events, compared with a nearly empty
//! one.
//!
//! Both take turns on one private server with its default settings; the medians are compared. The
//! short log is a new one each time, so that it stays short.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, and counts what it prints"
)]

use aios_benches::{
    median,
    postgres::{appends, callers, open},
    ratio,
};
use aios_core::store::EventStore as _;
use aios_tests::postgres::PostgresServer;
use tokio::runtime::Runtime;

/// Events in the long log and in the short one.
const LONG: usize = 5_000_000;
const SHORT: usize = 10_000;
/// Concurrent callers, and events of each.
const CALLERS: usize = 1000;
const EVENTS: usize = 60;
const ROUNDS: usize = 5;

/// Creates a log of streams with 20 events each, in the state that the server's own maintenance
/// would leave. Ids grow with time, as generated ones do.
const FILL: [&str; 7] = [
    "INSERT INTO {schema}.streams (name) SELECT 'runs/' || generate_series(1, {events} / 20)",
    "INSERT INTO {schema}.event_types (name) VALUES ('workflows.bench.step_completed')",
    "INSERT INTO {schema}.event_sources (name) VALUES ('bench')",
    "INSERT INTO {schema}.events
        (id, position, stream_id, created_at, version, type_id, source_id, payload)
    SELECT
        (lpad(to_hex(i), 12, '0') || '7' || substr(md5(i::text), 1, 19))::uuid, i,
        (i - 1) / 20 + 1, i, (i - 1) % 20 + 1, 1, 1,
        '{\"operation\":1,\"result\":\"' || repeat('x', 170) || '\"}'
    FROM generate_series(1, {events}) i",
    "VACUUM ANALYZE {schema}.events",
    "VACUUM ANALYZE {schema}.streams",
    "CHECKPOINT",
];

fn main() {
    let Some(server) = PostgresServer::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let long = filled(&runtime, &server, LONG);
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let short = filled(&runtime, &server, SHORT);
        ceiling.push(rate(&runtime, &server, &short));
        server.sql("CHECKPOINT");
        ours.push(rate(&runtime, &server, &long));
    }
    ratio("store_append_large_log/postgres", median(&mut ours), median(&mut ceiling), "events/s");
}

/// The schema of a log with this many events.
fn filled(runtime: &Runtime, server: &PostgresServer, events: usize) -> String {
    let schema = server.new_name();
    runtime.block_on(async { open(&server.url(), &schema).await.close().await.unwrap() });
    for sql in FILL {
        server.sql(&sql.replace("{schema}", &schema).replace("{events}", &events.to_string()));
    }
    schema
}

fn rate(runtime: &Runtime, server: &PostgresServer, schema: &str) -> f64 {
    let elapsed = runtime.block_on(async {
        let store = open(&server.url(), schema).await;
        let elapsed = callers(&store, appends(CALLERS, EVENTS)).await;
        store.close().await.unwrap();
        elapsed
    });
    (CALLERS * EVENTS) as f64 / elapsed.as_secs_f64()
}
