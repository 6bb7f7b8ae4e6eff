//! Workflows of many shapes, each with a fault at one of its appends: they end as they do undisturbed,
//! and do nothing again that is recorded.
//!
//! The tests take a sample of all pairs of a fault and an append. `AIOS_SWEEP=all` makes them take every
//! pair, which takes some minutes.

mod journals;
mod shapes;
mod trial;

use std::sync::{Arc, Mutex};

use aios_agents::prelude::*;
use aios_core::BoxFuture;
use aios_store::{memory::MemoryStore, sqlite::SqliteStore};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;

use self::{
    shapes::SHAPES,
    trial::{Calm, FAULTS, Fault, Trial},
};
use crate::support::workflows::{PATIENCE, postgres};

/// Opens a store for one of the workers, which have trials at the same time.
type Open = dyn Fn() -> BoxFuture<'static, Arc<dyn Store>>;

/// A trial: the shape, the fault and the append that it concerns.
type Case = (usize, Fault, usize, Arc<Calm>);

/// Every case, or one in `sample`.
async fn cases(store: &Arc<dyn Store>, sample: usize) -> Vec<Case> {
    #[allow(clippy::disallowed_methods, reason = "a person asks for every case")]
    let takes_all = std::env::var("AIOS_SWEEP").is_ok_and(|which| which == "all");
    let step = if takes_all { 1 } else { sample };
    let mut cases = Vec::new();
    for shape in 0..SHAPES.len() {
        let calm = tokio::time::timeout(PATIENCE, trial::calm(store, shape)).await;
        let calm = Arc::new(calm.expect("an undisturbed run ends"));
        for (number, fault) in FAULTS.into_iter().enumerate() {
            // Other places for each shape and fault.
            let first = 1 + (shape * 5 + number * 3) % step;
            let points = (first..=calm.appends).step_by(step);
            cases.extend(points.map(|point| (shape, fault, point, Arc::clone(&calm))));
        }
    }
    cases
}

async fn sweep(open: &Open, workers: usize, sample: usize) {
    let cases = cases(&open().await, sample).await;
    let left = Mutex::new(cases.into_iter().enumerate());
    let next = || left.lock().unwrap().next();
    let work = (0..workers).map(|_| async {
        let store = open().await;
        while let Some((number, (shape, fault, point, calm))) = next() {
            let id = format!("t{number}");
            let trial = Trial { store: &store, shape, fault, point, id, calm: &calm };
            let name = SHAPES[shape].0;
            // A process that waits for a dead engine gives a task back after a minute.
            let found = tokio::time::timeout(PATIENCE * 4, trial.run()).await;
            let found = found.unwrap_or_else(|_| vec!["it does not end".to_owned()]);
            assert!(found.is_empty(), "{name}, {fault:?} at append {point}: {found:#?}");
        }
    });
    join_all(work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_in_memory() {
    sweep(&|| Box::pin(async { Arc::new(MemoryStore::new()) as _ }), 16, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_on_sqlite() {
    let open = || async { Arc::new(SqliteStore::connect("sqlite::memory:").await.unwrap()) as _ };
    sweep(&move || Box::pin(open()), 8, 24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_whatever_happens_at_an_append_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.url();
    let open = move || {
        let url = url.clone();
        async move { Arc::new(postgres(&url).await) as _ }
    };
    sweep(&move || Box::pin(open()), 4, 36).await;
}
