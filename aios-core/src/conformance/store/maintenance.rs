//! Streams that are needed for a time only are removed, and nothing else.

use std::time::Duration;

use serde_json::json;

use super::{
    Capability,
    harness::{Harness, event, stream, typed},
};
use crate::{
    event::Timestamp,
    store::{Append, Expirable, ExpirePage},
};

/// A time before that of every clock.
const OLD: Timestamp = Timestamp::MIN;
/// A time that no clock has reached.
const RECENT: Timestamp = Timestamp::MAX;

async fn append(harness: &Harness<'_>, name: &str, at: Timestamp) {
    harness.append(name, vec![event(1).with_timestamp(at)]).await;
}

/// Appends an event that becomes the last one of the log, so that all others can be removed.
async fn filler(harness: &Harness<'_>) {
    append(harness, "filler", RECENT).await;
}

/// Removes all expired streams of a kind, two at a time, and returns their number.
async fn expire(harness: &Harness<'_>, what: Expirable) -> u64 {
    let maintenance = harness.store.maintenance().expect("the store removes old streams");
    let mut page = ExpirePage { what, older_than: Duration::ZERO, after: None, limit: 2 };
    let mut total = 0;
    loop {
        let expired = maintenance.expire(&page).await.unwrap();
        assert!(expired.removed <= 2, "{expired:?}");
        total += expired.removed;
        match expired.next {
            Some(next) => page.after = Some(next),
            None => return total,
        }
    }
}

async fn has(harness: &Harness<'_>, name: &str) -> bool {
    !harness.stream(name).await.is_empty()
}

/// Answers to requests are removed if their last event is old, and every checkpoint has passed it.
pub async fn should_remove_old_answers_and_nothing_else(harness: Harness<'_>) {
    if harness.lacks(Capability::Maintenance) {
        return;
    }
    for key in 0..5 {
        append(&harness, &format!("system/requests/{key}"), OLD).await;
    }
    append(&harness, "system/requests/0", RECENT).await;
    for other in ["system/requests", "system/requests0", "outputs/r1/a", "orders"] {
        append(&harness, other, OLD).await;
    }
    filler(&harness).await;
    harness.store.save_checkpoint("reader", 4).await.unwrap();
    assert_eq!(expire(&harness, Expirable::Requests).await, 3, "the reader is at 4");
    harness.store.save_checkpoint("reader", 11).await.unwrap();
    assert_eq!(expire(&harness, Expirable::Requests).await, 1);
    assert_eq!(expire(&harness, Expirable::Requests).await, 0);
    for (name, is_kept) in [
        ("system/requests/0", true),
        ("system/requests/4", false),
        ("system/requests", true),
        ("system/requests0", true),
        ("outputs/r1/a", true),
        ("orders", true),
    ] {
        assert_eq!(has(&harness, name).await, is_kept, "{name}");
    }
    let positions: Vec<_> = harness.log().await.iter().map(|it| it.position).collect();
    assert_eq!(positions, [1, 6, 7, 8, 9, 10, 11]);
}

/// Output stays while its run is open, and is removed when it is old; even if the store has removed the
/// run.
pub async fn should_remove_old_output_of_ended_runs(harness: Harness<'_>) {
    if harness.lacks(Capability::Maintenance) {
        return;
    }
    for run in ["open", "a/b", "recent"] {
        let started = typed("workflows.deploy.started", &json!({ "version": 1 }));
        harness.append(&format!("runs/{run}"), vec![started]).await;
    }
    for (name, at) in [
        ("outputs/open/tokens", OLD),
        ("outputs/a/b/tokens", OLD),
        ("outputs/a/b/progress", OLD),
        ("outputs/gone/tokens", OLD),
        ("outputs/recent/tokens", RECENT),
        ("outputs0", OLD),
    ] {
        append(&harness, name, at).await;
    }
    filler(&harness).await;
    assert_eq!(expire(&harness, Expirable::Outputs).await, 1, "only the run `gone` is not open");
    for run in ["a/b", "recent"] {
        let data = json!({ "result": 1 });
        harness.append_to_run(run, "workflows.deploy.completed", data).await;
    }
    filler(&harness).await;
    assert_eq!(expire(&harness, Expirable::Outputs).await, 2);
    for (name, is_kept) in [
        ("outputs/open/tokens", true),
        ("outputs/a/b/tokens", false),
        ("outputs/a/b/progress", false),
        ("outputs/recent/tokens", true),
        ("outputs0", true),
        ("runs/a/b", true),
    ] {
        assert_eq!(has(&harness, name).await, is_kept, "{name}");
    }
}

/// A page may begin after the name of a stream of another kind.
pub async fn should_remove_only_streams_of_the_kind_of_a_page(harness: Harness<'_>) {
    let Some(maintenance) = harness.store.maintenance() else {
        return assert!(harness.lacks(Capability::Maintenance));
    };
    for name in ["orders", "projections/a", "outputs/r1/a", "system/requests/1"] {
        append(&harness, name, OLD).await;
    }
    filler(&harness).await;
    let after = Some("a".to_owned());
    for (what, removed) in [(Expirable::Outputs, 1), (Expirable::Requests, 1)] {
        let page = ExpirePage { what, older_than: Duration::ZERO, after: after.clone(), limit: 10 };
        assert_eq!(maintenance.expire(&page).await.unwrap().removed, removed, "{what:?}");
    }
    assert!(has(&harness, "orders").await && has(&harness, "projections/a").await);
}

/// The last event of the log stays, and a removed stream can be used again, with the same events.
pub async fn should_use_a_removed_stream_again(harness: Harness<'_>) {
    if harness.lacks(Capability::Maintenance) {
        return;
    }
    let name = "system/requests/key";
    let first = event(1).with_timestamp(OLD);
    for round in 1..=3 {
        let append = Append::new(stream(name), vec![first.clone()]);
        let appended = harness.try_append(append).await.unwrap();
        assert_eq!((appended.version, appended.repeated), (1, false), "round {round}");
        let head = harness.store.head().await.unwrap();
        assert_eq!(expire(&harness, Expirable::Requests).await, 0, "it is the last event");
        filler(&harness).await;
        assert_eq!(expire(&harness, Expirable::Requests).await, 1);
        assert_eq!(harness.store.head().await.unwrap(), head + 1);
    }
}

/// A stream whose name is the prefix alone is not one of the streams of that kind.
pub async fn should_keep_streams_that_are_named_like_a_prefix(harness: Harness<'_>) {
    if harness.lacks(Capability::Maintenance) {
        return;
    }
    for what in Expirable::ALL {
        append(&harness, what.prefix(), OLD).await;
        append(&harness, what.prefix().trim_end_matches('/'), OLD).await;
        append(&harness, &format!("{}/", what.prefix()), OLD).await;
    }
    filler(&harness).await;
    for what in Expirable::ALL {
        assert_eq!(expire(&harness, *what).await, 1, "{what:?}");
        assert!(has(&harness, what.prefix()).await, "{what:?}");
        assert!(has(&harness, what.prefix().trim_end_matches('/')).await, "{what:?}");
        assert!(!has(&harness, &format!("{}/", what.prefix())).await, "{what:?}");
    }
}
