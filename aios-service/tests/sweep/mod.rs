//! Every changing request with an `Idempotency-Key`, with a fault at one of its appends: repeated with
//! another process, it is answered as undisturbed, and has been done once.
//!
//! The tests take a sample of all pairs of a fault and an append. `AIOS_SWEEP=all` makes them take every
//! pair, which takes some minutes.

mod scenes;
mod store;
mod trial;

use std::{sync::Arc, time::Duration};

use aios_core::store::Store;
use aios_store::{
    memory::MemoryStore,
    postgres::{PostgresOptions, PostgresStore},
};
use aios_tests::postgres::PostgresServer;
use futures_util::stream::{self, StreamExt};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use self::{
    scenes::{SCENES, Scene},
    store::{FAULTS, Fault},
    trial::{Baseline, Trial, baseline},
};

/// Where the trials have their stores.
enum Place {
    Memory,
    /// Files of SQLite in a folder.
    Folder(TempDir),
    /// Schemas of a database.
    Database(&'static PostgresServer),
}

impl Place {
    async fn new_store(&self, name: &str) -> Arc<dyn Store> {
        match self {
            Self::Memory => Arc::new(MemoryStore::new()),
            Self::Folder(folder) => {
                let file = folder.path().join(name);
                aios_store::connect(&format!("sqlite://{}", file.display())).await.unwrap()
            }
            Self::Database(server) => {
                let options = PostgresOptions::new(&server.url()).with_schema(&server.new_name());
                let options = options.with_max_connections(4);
                Arc::new(PostgresStore::connect_with(options).await.unwrap())
            }
        }
    }

    /// Every how many cases one is tried, and how many are tried at the same time.
    fn sample(&self) -> (usize, usize) {
        match self {
            Self::Memory => (31, 32),
            Self::Folder(_) => (199, 8),
            Self::Database(_) => (331, 4),
        }
    }
}

/// The undisturbed requests, which the tests share.
async fn baselines() -> &'static [(&'static Scene, Arc<Baseline>)] {
    static BASELINES: OnceCell<Vec<(&Scene, Arc<Baseline>)>> = OnceCell::const_new();
    let find = async || {
        let scenes = stream::iter(SCENES).map(async |scene| (scene, baseline_of(scene).await));
        scenes.buffered(32).collect().await
    };
    BASELINES.get_or_init(find).await
}

async fn baseline_of(scene: &Scene) -> Arc<Baseline> {
    Arc::new(baseline(Arc::new(MemoryStore::new()), scene).await)
}

/// Returns what is wrong in a case.
async fn faults(
    store: Arc<dyn Store>,
    scene: &Scene,
    fault: Fault,
    point: usize,
    baseline: &Baseline,
) -> Option<String> {
    let trial = Trial { scene, fault: Some(fault), point };
    let found = tokio::time::timeout(Duration::from_secs(60), trial.run(store, baseline)).await;
    let found = found.unwrap_or_else(|_| vec!["it does not end".to_owned()]);
    let Scene { name, .. } = scene;
    (!found.is_empty()).then(|| format!("{name}, {fault:?} at append {point}: {found:#?}"))
}

/// Tries a sample of the cases, each with a new store.
async fn sweep(place: Place) {
    #[allow(clippy::disallowed_methods, reason = "a person asks for every case")]
    let takes_all = std::env::var("AIOS_SWEEP").is_ok_and(|which| which == "all");
    let (step, at_once) = place.sample();
    let step = if takes_all { 1 } else { step };
    let mut cases = Vec::new();
    for (index, (scene, baseline)) in baselines().await.iter().enumerate() {
        let pairs =
            FAULTS.into_iter().flat_map(|it| (1..=baseline.appends).map(move |at| (it, at)));
        let chosen = pairs.skip((index * 7) % step).step_by(step);
        cases.extend(chosen.map(|(fault, point)| (scene, fault, point, baseline)));
    }
    let place = &place;
    let trials = stream::iter(cases.into_iter().enumerate());
    let trials = trials.map(async |(number, (scene, fault, point, baseline))| {
        let store = place.new_store(&format!("sweep_{number}")).await;
        faults(store, scene, fault, point, baseline).await
    });
    let found = trials.buffer_unordered(at_once).filter_map(async |it| it);
    let found: Vec<_> = found.collect().await;
    assert!(found.is_empty(), "{} cases fail: {}", found.len(), found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_a_request_once_whatever_happens_at_an_append() {
    sweep(Place::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_a_request_once_whatever_happens_at_an_append_of_sqlite() {
    sweep(Place::Folder(tempfile::tempdir().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_a_request_once_whatever_happens_at_an_append_of_postgresql() {
    if let Some(server) = PostgresServer::shared() {
        sweep(Place::Database(server)).await;
    }
}

async fn check(name: &str, fault: Fault, point: usize) {
    let scene = SCENES.iter().find(|it| it.name == name).unwrap();
    let (store, baseline) = (Arc::new(MemoryStore::new()), baseline_of(scene).await);
    assert_eq!(faults(store, scene, fault, point, &baseline).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_hold_a_key_whose_claim_was_cut_off() {
    for fault in [Fault::LoseResponse, Fault::LeaveAfter, Fault::HangAfter] {
        check("start", fault, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_that_the_store_refuses_at_first() {
    for fault in [Fault::Refuse, Fault::LoseResponse, Fault::Hang] {
        check("start", fault, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_a_request_that_was_done_although_it_would_be_refused_now() {
    for name in ["pause before a cancellation", "fork of a chain", "task of an agent"] {
        check(name, Fault::CrashAfter, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_a_call_before_its_effect_if_the_store_refuses_its_audit_event_at_first() {
    for name in ["start", "signal", "create agent"] {
        check(name, Fault::Refuse, 1).await;
    }
}
