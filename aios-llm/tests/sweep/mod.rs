//! Agents of many shapes, each with a fault at one of the appends of its runs, budgets, `write` calls and
//! output streams: they end as they do undisturbed, and neither call nor charge again what is recorded.
//!
//! Or with a cancellation of their runs at an append: everything ends, and is charged once.
//!
//! The tests take a sample of all pairs of a fault and an append. `AIOS_SWEEP=all` makes them take every
//! pair, which takes some minutes.

#[path = "../../../aios-agents/tests/sweep/course.rs"]
mod course;
#[path = "../../../aios-agents/tests/sweep/executions.rs"]
mod executions;
#[path = "../../../aios-agents/tests/sweep/fault.rs"]
mod fault;
#[path = "../../../aios-agents/tests/sweep/journals.rs"]
mod journals;
mod outputs;
#[path = "../../../aios-agents/tests/sweep/script.rs"]
mod script;
mod scripts;
mod shapes;
mod sums;
mod trial;
#[path = "../../../aios-agents/tests/sweep/workers.rs"]
mod workers;
mod world;

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_store::{
    memory::MemoryStore,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::SqliteStore,
};
use aios_tests::postgres::PostgresServer;

use self::{
    shapes::SHAPES,
    trial::{Baseline, Happening, Trial, happenings},
    workers::{Open, share, takes_all},
};
use crate::{faulty, support::PATIENCE};

/// A trial: the shape, what happens and the append at which it happens.
type Case = (usize, Happening, usize, Arc<Baseline>);

/// Every case, or one in `sample`.
async fn cases(store: &Arc<dyn Store>, sample: usize) -> Vec<Case> {
    let step = if takes_all() { 1 } else { sample };
    let mut cases = Vec::new();
    for shape in 0..SHAPES.len() {
        let baseline = tokio::time::timeout(PATIENCE, trial::baseline(store, shape)).await;
        let baseline = Arc::new(baseline.expect("an undisturbed run ends"));
        for (number, happening) in happenings().enumerate() {
            // Other places for each shape and happening.
            let first = 1 + (shape * 5 + number * 3) % step;
            let points = (first..=baseline.appends).step_by(step);
            cases.extend(points.map(|point| (shape, happening, point, Arc::clone(&baseline))));
        }
    }
    cases
}

async fn sweep(open: &Open, workers: usize, sample: usize) {
    let cases = cases(&open().await, sample).await;
    let find = async |store, id, (shape, happening, point, baseline): &Case| {
        let (shape, happening, point) = (*shape, *happening, *point);
        Trial { store: &store, shape, happening, point, id, baseline }.run().await
    };
    let describe = |(shape, happening, point, _): &Case| {
        format!("{}, {happening:?} at append {point}", SHAPES[*shape].name)
    };
    share(open, workers, cases, find, describe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_in_memory() {
    sweep(&|| Box::pin(async { Arc::new(MemoryStore::new()) as _ }), 16, 36).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_on_sqlite() {
    let open = || async { Arc::new(SqliteStore::connect("sqlite::memory:").await.unwrap()) as _ };
    sweep(&move || Box::pin(open()), 8, 72).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    let open = || async {
        let options = PostgresOptions::new(&server.url()).with_schema(&server.new_name());
        let options = options.with_max_connections(4);
        Arc::new(PostgresStore::connect_with(options).await.unwrap()) as _
    };
    sweep(&move || Box::pin(open()), 4, 144).await;
}
