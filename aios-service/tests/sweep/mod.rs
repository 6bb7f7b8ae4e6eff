//! Every changing request with an `Idempotency-Key`, with a fault at one of its appends: repeated with
//! another process, it is answered as undisturbed, and has been done once.
//!
//! The test takes a sample of all pairs of a fault and an append. `AIOS_SWEEP=all` makes it take every
//! pair, which takes some minutes.

mod scenes;
mod store;
mod trial;

use std::{sync::Arc, time::Duration};

use aios_store::memory::MemoryStore;
use futures_util::stream::{self, StreamExt};

use self::{
    scenes::{SCENES, Scene},
    store::{FAULTS, Fault},
    trial::{Baseline, Trial, baseline},
};

/// The distance between the cases that are tried.
const SAMPLE: usize = 31;
/// Trials at the same time.
const AT_ONCE: usize = 32;

async fn baseline_of(scene: &Scene) -> Arc<Baseline> {
    Arc::new(baseline(Arc::new(MemoryStore::new()), scene).await)
}

/// Returns what is wrong in a case.
async fn faults(scene: &Scene, fault: Fault, point: usize, baseline: &Baseline) -> Option<String> {
    let trial = Trial { scene, fault: Some(fault), point };
    let run = trial.run(Arc::new(MemoryStore::new()), baseline);
    let found = tokio::time::timeout(Duration::from_secs(60), run).await;
    let found = found.unwrap_or_else(|_| vec!["it does not end".to_owned()]);
    let Scene { name, .. } = scene;
    (!found.is_empty()).then(|| format!("{name}, {fault:?} at append {point}: {found:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_do_a_request_once_whatever_happens_at_an_append() {
    #[allow(clippy::disallowed_methods, reason = "a person asks for every case")]
    let takes_all = std::env::var("AIOS_SWEEP").is_ok_and(|which| which == "all");
    let step = if takes_all { 1 } else { SAMPLE };
    let scenes = stream::iter(SCENES).map(async |scene| (scene, baseline_of(scene).await));
    let scenes: Vec<_> = scenes.buffered(AT_ONCE).collect().await;
    let mut cases = Vec::new();
    for (index, (scene, baseline)) in scenes.into_iter().enumerate() {
        let pairs =
            FAULTS.into_iter().flat_map(|it| (1..=baseline.appends).map(move |at| (it, at)));
        let chosen = pairs.skip((index * 7) % step).step_by(step);
        cases.extend(chosen.map(|(fault, point)| (scene, fault, point, Arc::clone(&baseline))));
    }
    let trials = stream::iter(cases)
        .map(async |(scene, fault, point, baseline)| faults(scene, fault, point, &baseline).await);
    let found = trials.buffer_unordered(AT_ONCE).filter_map(async |it| it);
    let found: Vec<_> = found.collect().await;
    assert!(found.is_empty(), "{} cases fail: {}", found.len(), found.join("\n"));
}

async fn check(name: &str, fault: Fault, point: usize) {
    let scene = SCENES.iter().find(|it| it.name == name).unwrap();
    assert_eq!(faults(scene, fault, point, &*baseline_of(scene).await).await, None);
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
