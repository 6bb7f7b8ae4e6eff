//! Reading streams and the log in pages.

use serde_json::json;

use super::harness::{Harness, events, places, stream, typed};
use crate::{
    event::Pattern,
    store::{Append, MAX_PAGE, PageRequest, RunFilter},
};

/// Pages of a stream begin after a version and contain no more events than requested.
pub async fn should_page_through_a_stream(harness: Harness<'_>) {
    harness.append("other", events([0])).await;
    harness.append("a", events(1..=5)).await;
    for (after, limit, versions) in
        [(0, 2, &[1, 2][..]), (2, 2, &[3, 4]), (4, 2, &[5]), (1, 100, &[2, 3, 4, 5]), (0, 0, &[])]
    {
        let page = harness.store.read_stream(&stream("a"), after, limit).await.unwrap();
        let read: Vec<_> = page.iter().map(|recorded| recorded.version).collect();
        assert_eq!(read, versions, "after {after}, at most {limit}");
    }
}

/// Pages of the log begin after a position and contain no more events than requested.
pub async fn should_page_through_the_log(harness: Harness<'_>) {
    for number in 0..5 {
        harness.append(&format!("s/{}", number % 2), events([number])).await;
    }
    for (after, limit, positions) in
        [(0, 2, &[1, 2][..]), (2, 2, &[3, 4]), (4, 2, &[5]), (1, 100, &[2, 3, 4, 5]), (0, 0, &[])]
    {
        let page = harness.store.read_log(after, limit).await.unwrap();
        let read: Vec<_> = page.iter().map(|recorded| recorded.position).collect();
        assert_eq!(read, positions, "after {after}, at most {limit}");
    }
}

/// A range of the log without some types contains everything else, in order.
pub async fn should_leave_out_types_of_the_log(harness: Harness<'_>) {
    for (stream, event_type) in [
        ("a", "test.thing.happened"),
        ("b", "test.thing.done"),
        ("a", "other.thing.happened"),
        ("b", "test.thing_else.happened"),
        ("a", "test.thing.happened"),
    ] {
        harness.append(stream, vec![typed(event_type, &json!({}))]).await;
    }
    for (after, up_to, except, positions) in [
        (0, 5, &[][..], &[1, 2, 3, 4, 5][..]),
        (0, 5, &["test.thing.happened"], &[2, 3, 4]),
        (0, 5, &["test.*.happened"], &[2, 3]),
        (0, 5, &["test.#"], &[3]),
        (0, 5, &["#.happened"], &[2]),
        (0, 5, &["test.thing.done", "other.*.*"], &[1, 4, 5]),
        (0, 5, &["test.thing", "*", "test.thing.happened.*"], &[1, 2, 3, 4, 5]),
        (0, 5, &["#"], &[]),
        (1, 4, &["test.thing.done"], &[3, 4]),
        (3, u64::MAX, &["never.written.here"], &[4, 5]),
        (3, 3, &[], &[]),
        (4, 2, &[], &[]),
        (5, 9, &[], &[]),
    ] {
        let patterns: Vec<Pattern> = except.iter().map(|text| text.parse().unwrap()).collect();
        let range = harness.store.read_log_except(after, up_to, &patterns).await.unwrap();
        let read: Vec<_> = range.iter().map(|recorded| recorded.position).collect();
        assert_eq!(read, positions, "after {after}, up to {up_to}, without {except:?}");
    }
}

/// A page contains no more than [`MAX_PAGE`] events, however many are requested.
pub async fn should_limit_a_page_to_the_maximum(harness: Harness<'_>) {
    let many = MAX_PAGE as u64 + 10;
    harness.append("a", events(0..many)).await;
    assert_eq!(harness.store.read_log(0, usize::MAX).await.unwrap().len(), MAX_PAGE);
    let page = harness.store.read_stream(&stream("a"), 0, usize::MAX).await.unwrap();
    assert_eq!(page.len(), MAX_PAGE);
    let rest = harness.store.read_stream(&stream("a"), MAX_PAGE as u64, usize::MAX).await.unwrap();
    assert_eq!(rest.len(), 10);
}

/// A stream that was never written is empty, not an error.
pub async fn should_find_nothing_in_an_unknown_stream(harness: Harness<'_>) {
    assert!(harness.stream("never/written").await.is_empty());
}

/// Reading beyond the end returns nothing, however far.
pub async fn should_find_nothing_beyond_the_end(harness: Harness<'_>) {
    harness.append("a", events([1])).await;
    for after in [1, 2, u64::MAX] {
        assert!(harness.store.read_log(after, 10).await.unwrap().is_empty());
        assert!(harness.store.read_stream(&stream("a"), after, 10).await.unwrap().is_empty());
    }
}

/// The head is the position of the last stored event.
pub async fn should_return_the_head(harness: Harness<'_>) {
    assert_eq!(harness.store.head().await.unwrap(), 0);
    harness.append("a", events([1, 2])).await;
    assert_eq!(harness.store.head().await.unwrap(), 2);
    assert!(harness.try_append(Append::new(stream("a"), Vec::new())).await.is_err());
    assert_eq!(harness.store.head().await.unwrap(), 2);
}

/// Names differ if one byte differs: case, spaces, Unicode normalisation, wildcards.
pub async fn should_keep_streams_with_similar_names_apart(harness: Harness<'_>) {
    let long = "x".repeat(255);
    let names = ["a", "A", "a ", " a", "ä", "a\u{308}", "%", "_", "a'b", "a\\", "1", "01", &long];
    for name in names {
        harness.append(name, events([1])).await;
    }
    for (name, position) in names.iter().zip(1..) {
        assert_eq!(places(&harness.stream(name).await), [(1, position)], "{name:?}");
    }
}

/// A stream may have any name, such as one with which others begin. That of no run has no row.
pub async fn should_append_to_streams_that_are_named_like_a_prefix(harness: Harness<'_>) {
    let prefixes =
        ["runs/", "outputs/", "system/", "system/requests/", "agents/", "workflows/", "/"];
    for name in prefixes {
        for (version, action) in (1..).zip(["started", "completed"]) {
            let data = json!({ "version": 1, "result": 1 });
            let mut event = typed(&format!("workflows.deploy.{action}"), &data);
            event.metadata_mut().correlation_id = Some("".into());
            let appended = harness.append(name, vec![event.clone()]).await;
            assert_eq!(appended.version, version, "{name}");
            let read = harness.store.read_stream(&stream(name), version - 1, 1).await.unwrap();
            assert_eq!((read[0].stream.as_str(), &read[0].event), (name, &event), "{action}");
        }
        let late = harness.try_append(Append::new(stream(name), events([1]))).await;
        assert_eq!(late.is_err(), name == "runs/", "{name}: {late:?}");
    }
    let runs = harness.store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap();
    assert!(runs.rows.is_empty(), "{:?}", runs.rows);
}
