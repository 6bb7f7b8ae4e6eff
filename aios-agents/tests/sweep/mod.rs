//! Workflows of many shapes, each with a fault at one of its appends: they end as they do undisturbed,
//! and do nothing again that is recorded.
//!
//! Or with random faults of the store and the broker, in one process after the other (`random`).
//!
//! The tests take a sample of all pairs of a fault and an append, and few seeds. `AIOS_SWEEP=all` makes
//! them take every pair and many seeds, which takes some minutes.

mod course;
mod executions;
mod fault;
mod journals;
mod random;
mod script;
mod shapes;
mod trial;
mod workers;

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_store::{memory::MemoryStore, sqlite::SqliteStore};
use aios_tests::postgres::PostgresServer;

use self::{
    fault::{FAULTS, Fault},
    random::RandomTrial,
    shapes::SHAPES,
    trial::{Baseline, Trial},
    workers::{Open, share, takes_all},
};
use crate::support::{
    faulty,
    workflows::{PATIENCE, postgres},
};

/// A trial: the shape, the fault and the append that it concerns.
type Case = (usize, Fault, usize, Arc<Baseline>);

async fn baseline(store: &Arc<dyn Store>, shape: usize) -> Arc<Baseline> {
    let baseline = tokio::time::timeout(PATIENCE, trial::baseline(store, shape)).await;
    Arc::new(baseline.expect("an undisturbed run ends"))
}

/// Every case, or one in `sample`.
async fn cases(store: &Arc<dyn Store>, sample: usize) -> Vec<Case> {
    let step = if takes_all() { 1 } else { sample };
    let mut cases = Vec::new();
    for shape in 0..SHAPES.len() {
        let baseline = baseline(store, shape).await;
        for (number, fault) in FAULTS.into_iter().enumerate() {
            // Other places for each shape and fault.
            let first = 1 + (shape * 5 + number * 3) % step;
            let points = (first..=baseline.appends).step_by(step);
            cases.extend(points.map(|point| (shape, fault, point, Arc::clone(&baseline))));
        }
    }
    cases
}

async fn sweep(open: &Open, workers: usize, sample: usize) {
    let cases = cases(&open().await, sample).await;
    let find = async |store, id, (shape, fault, point, baseline): &Case| {
        let (shape, fault, point) = (*shape, *fault, *point);
        Trial { store: &store, shape, fault, point, id, baseline }.run().await
    };
    let describe = |(shape, fault, point, _): &Case| {
        format!("{}, {fault:?} at append {point}", SHAPES[*shape].0)
    };
    share(open, workers, cases, find, describe).await;
}

/// Random trials of each shape: as many seeds as `sample` says, or many.
async fn random_trials(open: &Open, workers: usize, sample: u64) {
    let seeds = if takes_all() { 60 } else { sample };
    let store = open().await;
    let mut cases = Vec::new();
    for shape in 0..SHAPES.len() {
        let baseline = baseline(&store, shape).await;
        cases.extend((0..seeds).map(|seed| (shape, seed, Arc::clone(&baseline))));
    }
    let find = async |store, id, (shape, seed, baseline): &(usize, u64, Arc<Baseline>)| {
        RandomTrial { store: &store, shape: *shape, seed: *seed, id, baseline }.run().await
    };
    let describe =
        |(shape, seed, _): &(usize, u64, _)| format!("{}, seed {seed}", SHAPES[*shape].0);
    share(open, workers, cases, find, describe).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_after_random_faults_in_memory() {
    random_trials(&|| Box::pin(async { Arc::new(MemoryStore::new()) as _ }), 16, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_alike_after_random_faults_on_sqlite() {
    let open = || async { Arc::new(SqliteStore::connect("sqlite::memory:").await.unwrap()) as _ };
    random_trials(&move || Box::pin(open()), 8, 1).await;
}
