//! Recorded waits of runs.

use std::sync::Arc;

use serde_json::json;

use super::{
    Capability,
    harness::{Harness, stream},
};
use crate::{
    event::Timestamp,
    store::{DueRun, Lease, PageRequest, Shard, Unsettled, Wait, Waits},
};

/// The shard of the runs in these cases.
const SHARD: u16 = 3;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn wait(run: &str, lease: &Lease, version: u64, second: Option<i64>) -> Wait {
    Wait { run_id: run.into(), fence: lease.fence(), version, wake_at: second.map(at) }
}

/// Ids of runs in one shard.
fn ids(count: usize) -> Vec<String> {
    let ids = (0..).map(|number| format!("run-{number}"));
    ids.filter(|id| Shard::of(id) == Shard::new(SHARD).unwrap()).take(count).collect()
}

fn notes<'a>(harness: &'a Harness<'_>) -> &'a dyn Waits {
    harness.store.waits().expect("the store takes notes of waiting runs")
}

async fn start(harness: &Harness<'_>, run: &str) {
    harness.append_to_run(run, "workflows.deploy.started", json!({ "version": 1 })).await;
}

async fn end(harness: &Harness<'_>, run: &str) {
    harness.append_to_run(run, "workflows.deploy.completed", json!({ "result": 1 })).await;
}

async fn stir(harness: &Harness<'_>, run: &str) {
    harness.append_to_run(run, "agents.backend.task_progressed", json!({})).await;
}

/// This many runs in one shard, all started, and the lease of the shard.
async fn runs(harness: &Harness<'_>, count: usize) -> (Vec<String>, Lease) {
    let ids = ids(count);
    for id in &ids {
        start(harness, id).await;
    }
    (ids, harness.take(SHARD, "first").await)
}

async fn note(harness: &Harness<'_>, waits: &[Wait]) {
    notes(harness).note_waits(waits).await.unwrap();
}

/// The runs of the shard that a new owner has to read, in order, in pages of two.
async fn unsettled(harness: &Harness<'_>, which: Unsettled) -> Vec<String> {
    let mut page = PageRequest::first(2);
    let mut found = Vec::new();
    loop {
        let read = notes(harness)
            .unsettled_runs(&[Shard::new(SHARD).unwrap()], which, &page)
            .await
            .unwrap();
        assert!(read.rows.len() <= 2);
        found.extend(read.rows);
        match read.next {
            Some(next) => page = next,
            None => break,
        }
    }
    found.sort_unstable();
    found
}

async fn unnoted(harness: &Harness<'_>) -> Vec<String> {
    unsettled(harness, Unsettled::Unnoted).await
}

async fn outdated(harness: &Harness<'_>) -> Vec<String> {
    unsettled(harness, Unsettled::Outdated).await
}

/// The runs of the shard that are due up to a given second, with the seconds, in pages of two.
async fn due(harness: &Harness<'_>, up_to: i64) -> Vec<(i64, String)> {
    let mut found: Vec<DueRun> = Vec::new();
    loop {
        let shards = [Shard::new(SHARD).unwrap()];
        let beyond = found.last();
        let page = notes(harness).due_runs(&shards, beyond, at(up_to), 2).await.unwrap();
        let is_last = page.len() < 2;
        found.extend(page);
        if is_last {
            break;
        }
    }
    found.into_iter().map(|run| (run.wake_at.as_micros() / 1_000_000, run.run_id)).collect()
}

fn sorted<'a>(ids: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.into_iter().cloned().collect();
    ids.sort_unstable();
    ids
}

/// A run with a recorded wait need not be read; one without must be.
pub async fn should_leave_out_runs_with_a_recorded_wait(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 5).await;
    assert_eq!(unnoted(&harness).await, sorted(&ids));
    let waits: Vec<Wait> = ids[..3].iter().map(|id| wait(id, &lease, 1, None)).collect();
    note(&harness, &waits).await;
    assert_eq!(unnoted(&harness).await, sorted(&ids[3..]));
    assert_eq!(outdated(&harness).await, [""; 0]);
    let other = Shard::new(SHARD + 1).unwrap();
    for which in [Unsettled::Unnoted, Unsettled::Outdated] {
        let page = notes(&harness).unsettled_runs(&[other], which, &PageRequest::default()).await;
        assert_eq!(page.unwrap().rows, [""; 0]);
    }
}

/// A page has at least one run if there is one, and any limit is allowed.
pub async fn should_return_pages_of_unsettled_runs_whatever_the_limit(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 3).await;
    let shards = [Shard::new(SHARD).unwrap()];
    for (limit, count) in [(0, 1), (1, 1), (2, 2), (3, 3), (usize::MAX, 3)] {
        let page = PageRequest::first(limit);
        let page = notes(&harness).unsettled_runs(&shards, Unsettled::Unnoted, &page).await;
        let page = page.unwrap();
        assert_eq!((page.rows.len(), page.next.is_some()), (count, count < 3), "{limit}");
    }
    let waits: Vec<Wait> = ids.iter().map(|id| wait(id, &lease, 1, Some(1))).collect();
    note(&harness, &waits).await;
    let due = notes(&harness).due_runs(&shards, None, at(2), usize::MAX).await.unwrap();
    assert_eq!(due.len(), 3);
}

/// If anything is appended after the recorded wait of a run, the run must be read.
pub async fn should_find_runs_whose_recorded_wait_is_outdated(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 5).await;
    let waits: Vec<Wait> = ids.iter().map(|id| wait(id, &lease, 1, None)).collect();
    note(&harness, &waits).await;
    for id in &ids[1..4] {
        stir(&harness, id).await;
    }
    assert_eq!(outdated(&harness).await, sorted(&ids[1..4]));
    assert_eq!(unnoted(&harness).await, [""; 0]);
    note(&harness, &[wait(&ids[1], &lease, 2, None)]).await;
    assert_eq!(outdated(&harness).await, sorted(&ids[2..4]));
}

/// Runs that have ended are left out, whatever is recorded about them.
pub async fn should_leave_out_runs_that_have_ended(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 2).await;
    note(&harness, &[wait(&ids[0], &lease, 1, Some(1))]).await;
    assert_eq!(due(&harness, 9).await.len(), 1);
    for id in &ids {
        end(&harness, id).await;
    }
    assert_eq!((unnoted(&harness).await, outdated(&harness).await), (Vec::new(), Vec::new()));
    assert_eq!(due(&harness, 9).await, []);
}

/// Runs are returned when they are due, the earliest first, even if many are due at the same time.
pub async fn should_find_due_runs_in_order(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 9).await;
    let seconds = [Some(5), Some(1), None, Some(3), Some(3), Some(3), Some(3), Some(7), Some(-4)];
    let noted = ids.iter().zip(seconds);
    let waits: Vec<Wait> = noted.map(|(id, second)| wait(id, &lease, 1, second)).collect();
    note(&harness, &waits).await;
    let found = due(&harness, 5).await;
    let times: Vec<i64> = found.iter().map(|(second, _)| *second).collect();
    assert_eq!(times, [-4, 1, 3, 3, 3, 3, 5]);
    assert_eq!(sorted(found[2..6].iter().map(|(_, id)| id)), sorted(&ids[3..7]));
    assert_eq!((&found[0].1, &found[6].1), (&ids[8], &ids[0]));
    let elsewhere =
        notes(&harness).due_runs(&[Shard::new(SHARD + 1).unwrap()], None, at(9), 10).await.unwrap();
    assert_eq!(elsewhere, []);
}

/// The latest record counts, unless it is of an earlier version.
pub async fn should_replace_a_recorded_wait_by_one_that_is_not_older(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 1).await;
    stir(&harness, &ids[0]).await;
    for (version, second, noted) in [(2, 5, 5), (2, 6, 6), (1, 7, 6)] {
        note(&harness, &[wait(&ids[0], &lease, version, Some(second))]).await;
        assert_eq!(due(&harness, 9).await, [(noted, ids[0].clone())]);
    }
    note(&harness, &[wait(&ids[0], &lease, 2, Some(1)), wait(&ids[0], &lease, 1, None)]).await;
    assert_eq!(due(&harness, 9).await, [(1, ids[0].clone())]);
    note(&harness, &[wait(&ids[0], &lease, 2, None)]).await;
    assert_eq!(due(&harness, 9).await, []);
    assert_eq!(outdated(&harness).await, [""; 0]);
}

/// An engine that lost its shard neither records nor removes anything.
pub async fn should_not_change_recorded_waits_of_a_later_owner(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lost) = runs(&harness, 2).await;
    harness.let_leases_expire().await;
    let lease = harness.take(SHARD, "second").await;
    note(&harness, &[wait(&ids[0], &lease, 1, Some(1))]).await;
    let late = [wait(&ids[0], &lost, 9, Some(2)), wait(&ids[1], &lost, 1, None)];
    note(&harness, &late).await;
    let forgotten: Vec<_> = ids.iter().map(|id| (Arc::from(&**id), lost.fence())).collect();
    notes(&harness).forget_waits(&forgotten).await.unwrap();
    assert_eq!(due(&harness, 9).await, [(1, ids[0].clone())]);
    assert_eq!(unnoted(&harness).await, [ids[1].clone()]);
}

/// A run whose record was removed must be read again.
pub async fn should_remove_recorded_waits(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 3).await;
    let waits: Vec<Wait> = ids.iter().map(|id| wait(id, &lease, 1, Some(1))).collect();
    note(&harness, &waits).await;
    let gone = [(Arc::from("unknown"), lease.fence()), (Arc::from(&*ids[0]), lease.fence())];
    notes(&harness).forget_waits(&gone).await.unwrap();
    assert_eq!(unnoted(&harness).await, [ids[0].clone()]);
    assert_eq!(due(&harness, 9).await.len(), 2);
    notes(&harness).forget_waits(&[]).await.unwrap();
}

/// A run without a journal can't wait.
pub async fn should_record_no_wait_of_runs_without_a_journal(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 1).await;
    note(&harness, &[wait("unknown", &lease, 0, Some(1)), wait(&ids[0], &lease, 1, None)]).await;
    assert_eq!(due(&harness, 9).await, []);
    start(&harness, "unknown").await;
    assert_eq!(unnoted(&harness).await, [""; 0]);
    assert_eq!(outdated(&harness).await, [""; 0]);
    note(&harness, &[]).await;
}

/// After the tables were rebuilt, no run that must be read is left out.
pub async fn should_find_runs_to_read_after_a_rebuild(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, lease) = runs(&harness, 3).await;
    note(&harness, &[wait(&ids[0], &lease, 1, Some(4)), wait(&ids[1], &lease, 1, None)]).await;
    stir(&harness, &ids[1]).await;
    harness.store.rebuild().await.unwrap();
    assert_eq!(due(&harness, 9).await, [(4, ids[0].clone())]);
    assert_eq!(unnoted(&harness).await, [ids[2].clone()]);
    assert_eq!(outdated(&harness).await, [ids[1].clone()]);
}

/// Runs are distinguished by UUIDs and by foreign ids alike.
pub async fn should_record_waits_of_runs_with_every_kind_of_id(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let uuid = (0_u32..)
        .map(|number| format!("0195e7a0-0000-7000-8000-{number:012x}"))
        .find(|id| Shard::of(id) == Shard::new(SHARD).unwrap())
        .unwrap();
    let foreign = (0_u32..)
        .map(|number| format!("bestellung-ä✓-{number}"))
        .find(|id| Shard::of(id) == Shard::new(SHARD).unwrap())
        .unwrap();
    let lease = harness.take(SHARD, "first").await;
    for id in [&uuid, &foreign] {
        start(&harness, id).await;
    }
    assert_eq!(unnoted(&harness).await, sorted([&uuid, &foreign]));
    note(&harness, &[wait(&uuid, &lease, 1, Some(1)), wait(&foreign, &lease, 1, Some(2))]).await;
    assert_eq!(due(&harness, 9).await, [(1, uuid.clone()), (2, foreign.clone())]);
    for id in [&uuid, &foreign] {
        stir(&harness, id).await;
    }
    assert_eq!(outdated(&harness).await, sorted([&uuid, &foreign]));
}

/// Several streams are read at once, each from its start, in the requested order.
pub async fn should_read_several_streams_at_once(harness: Harness<'_>) {
    for (name, events) in [("a", 3), ("b", 1), ("c", 5)] {
        harness.append(name, super::harness::events(0..events)).await;
    }
    let names = ["c", "unknown", "a", "b", "a"].map(stream);
    let read = harness.store.read_streams(&names, 3).await.unwrap();
    let lengths: Vec<usize> = read.iter().map(Vec::len).collect();
    assert_eq!(lengths, [3, 0, 3, 1, 3]);
    for (name, events) in names.iter().zip(read) {
        assert_eq!(events, harness.store.read_stream(name, 0, 3).await.unwrap());
    }
    assert_eq!(harness.store.read_streams(&[], 3).await.unwrap(), Vec::<Vec<_>>::new());
}

/// A wait belongs to the shard under whose fence it was noted. A run may have one under each of two shards.
pub async fn should_keep_the_waits_of_different_shards_apart(harness: Harness<'_>) {
    if harness.lacks(Capability::Waits) {
        return;
    }
    let (ids, own) = runs(&harness, 1).await;
    let id = &ids[0];
    let guest = harness.take(SHARD + 1, "second").await;
    note(&harness, &[wait(id, &own, 1, Some(10))]).await;
    note(&harness, &[wait(id, &guest, 1, Some(20))]).await;
    let due = async |lease: &Lease, up_to| {
        let due = notes(&harness).due_runs(&[lease.shard], None, at(up_to), 9).await.unwrap();
        due.into_iter().map(|run| (run.wake_at, run.run_id)).collect::<Vec<_>>()
    };
    let outdated = async |lease: &Lease| {
        let (shards, page) = ([lease.shard], PageRequest::first(9));
        notes(&harness).unsettled_runs(&shards, Unsettled::Outdated, &page).await.unwrap().rows
    };
    assert_eq!(due(&own, 30).await, [(at(10), id.clone())]);
    assert_eq!(due(&guest, 15).await, []);
    assert_eq!(due(&guest, 30).await, [(at(20), id.clone())]);
    assert_eq!(unnoted(&harness).await, [""; 0]);
    stir(&harness, id).await;
    note(&harness, &[wait(id, &guest, 2, None)]).await;
    assert_eq!((outdated(&own).await, outdated(&guest).await), (vec![id.clone()], vec![]));
    stir(&harness, id).await;
    assert_eq!(outdated(&guest).await, ids);
    notes(&harness).forget_waits(&[(id.as_str().into(), guest.fence())]).await.unwrap();
    assert_eq!((outdated(&guest).await, outdated(&own).await), (vec![], vec![id.clone()]));
    assert_eq!(due(&own, 30).await, [(at(10), id.clone())]);
    notes(&harness).forget_waits(&[(id.as_str().into(), own.fence())]).await.unwrap();
    assert_eq!((due(&own, 30).await, unnoted(&harness).await), (vec![], vec![id.clone()]));
}
