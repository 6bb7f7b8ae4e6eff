//! Appending: order, expectations, and the independence of appends.

use std::{collections::HashSet, future::poll_fn, task::Poll};

use futures_util::{FutureExt, future::join_all};
use serde_json::{Value, json};

use super::harness::{Harness, envelope, event, events, places, stored, stream};
use crate::store::{Append, EventStoreExt, Expected, StoreError};

/// Events of one append get the next versions and positions, in order.
pub async fn should_append_several_events_in_order(harness: Harness<'_>) {
    let first = events([1, 2, 3]);
    let second = events([4, 5]);
    let appended = harness.append("a", first.clone()).await;
    assert_eq!(appended, stored(3, 3));
    assert_eq!(harness.append("b", events([9])).await, stored(1, 4));
    assert_eq!(harness.append("a", second.clone()).await, stored(5, 6));
    let read = harness.stream("a").await;
    assert_eq!(places(&read), [(1, 1), (2, 2), (3, 3), (4, 5), (5, 6)]);
    assert!(read.iter().all(|recorded| recorded.stream == stream("a")));
    let written: Vec<_> = first.iter().chain(&second).map(envelope).collect();
    let read: Vec<_> = read.iter().map(|recorded| envelope(&recorded.event)).collect();
    assert_eq!(read, written);
}

/// Each expectation is accepted exactly where it is true.
pub async fn should_check_the_expected_version(harness: Harness<'_>) {
    for (expected, fits_empty, fits_two) in [
        (Expected::Any, true, true),
        (Expected::Empty, true, false),
        (Expected::Exact(0), true, false),
        (Expected::Exact(1), false, false),
        (Expected::Exact(2), false, true),
        (Expected::Exact(3), false, false),
        (Expected::Exact(u64::MAX), false, false),
    ] {
        let empty = format!("empty/{expected:?}");
        let two = format!("two/{expected:?}");
        harness.append(&two, events([1, 2])).await;
        for (name, fits) in [(empty, fits_empty), (two, fits_two)] {
            let append = Append::new(stream(&name), events([3])).with_expected(expected);
            assert_eq!(harness.try_append(append).await.is_ok(), fits, "{name}");
        }
    }
}

/// A conflict reports the actual version of the stream.
pub async fn should_report_the_version_really_found(harness: Harness<'_>) {
    harness.append("a", events([1, 2, 3])).await;
    for (name, expected, found) in
        [("a", Expected::Exact(2), 3), ("a", Expected::Empty, 3), ("b", Expected::Exact(7), 0)]
    {
        let append = Append::new(stream(name), events([4])).with_expected(expected);
        let error = harness.try_append(append).await.unwrap_err();
        match error {
            StoreError::Conflict { stream: at, actual } => {
                assert_eq!((at, actual), (stream(name), found));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An append has at least one event.
pub async fn should_refuse_an_append_without_events(harness: Harness<'_>) {
    let error = harness.try_append(Append::new(stream("a"), Vec::new())).await.unwrap_err();
    assert_eq!(error.code(), "EMPTY_APPEND");
    assert_eq!(harness.store.head().await.unwrap(), 0);
}

/// If one event of an append is refused, none of the others is stored.
pub async fn should_append_all_or_nothing(harness: Harness<'_>) {
    let taken = event(0);
    harness.append("a", vec![taken.clone()]).await;
    let mixed = vec![event(1), event(2), taken, event(3)];
    let error = harness.try_append(Append::new(stream("b"), mixed)).await.unwrap_err();
    assert_eq!(error.code(), "DUPLICATE_EVENT");
    assert!(harness.stream("b").await.is_empty());
    assert_eq!(harness.append("b", events([4])).await, stored(1, 2));
}

/// Of hundreds of appends in one call, only the refused one fails.
pub async fn should_fail_one_append_alone_among_hundreds(harness: Harness<'_>) {
    let mut batch: Vec<_> =
        (0..300).map(|n| Append::new(stream(&format!("s/{n}")), events([n]))).collect();
    batch[150].expected = Expected::Exact(7);
    batch[200].events.clear();
    let answers = harness.store.append(batch).await;
    let failed: Vec<_> = answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).collect();
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [150, 200]);
    assert_eq!(harness.log().await.len(), 298);
}

/// Results and positions are in the order of the batch, even within one stream.
pub async fn should_return_results_and_positions_in_the_order_of_the_batch(harness: Harness<'_>) {
    let batch = (0..100).map(|n| Append::new(stream(&format!("s/{}", n % 7)), events([n, n])));
    let answers = harness.store.append(batch.collect()).await;
    let positions: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().position).collect();
    assert_eq!(positions, (1..=100).map(|n| n * 2).collect::<Vec<_>>());
}

/// Appends of one task are committed in the order in which it polls them, also those for which the store
/// has no room at first.
pub async fn should_commit_appends_in_the_order_in_which_they_were_begun(harness: Harness<'_>) {
    const COUNT: u64 = 5000;
    let appends = (0..COUNT).map(|n| Append::new(stream(&format!("s/{}", n % 7)), events([n])));
    let mut begun: Vec<_> = appends.map(|it| harness.store.append_one(it)).map(Box::pin).collect();
    poll_fn(|context| {
        begun.retain_mut(|append| match append.as_mut().poll(context) {
            Poll::Ready(appended) => appended.is_err_and(|error| panic!("{error:?}")),
            Poll::Pending => true,
        });
        if begun.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let log = harness.log().await;
    let order: Vec<_> = log.iter().map(|it| it.event.data::<Value>().unwrap()).collect();
    let expected: Vec<_> = (0..COUNT).map(|n| json!({ "number": n })).collect();
    assert_eq!(order, expected);
}

/// No appends, no answers.
pub async fn should_answer_an_empty_batch(harness: Harness<'_>) {
    assert!(harness.store.append(Vec::new()).await.is_empty());
}

/// Positions have no gaps and no duplicates, and each is the one in its result.
pub async fn should_keep_positions_dense_under_concurrent_writers(harness: Harness<'_>) {
    let harness = &harness;
    let writers = (0..50).map(|writer| async move {
        let name = format!("s/{}", writer % 20);
        let mut appended = Vec::new();
        for number in 0..10 {
            let event = event(number);
            let at = harness.append(&name, vec![event.clone()]).await;
            appended.push((at.position, at.version, event.id));
        }
        appended
    });
    let answers: HashSet<_> = join_all(writers).await.into_iter().flatten().collect();
    let log = harness.log().await;
    let positions: Vec<_> = log.iter().map(|recorded| recorded.position).collect();
    assert_eq!(positions, (1..=500).collect::<Vec<_>>());
    let read = log.into_iter().map(|read| (read.position, read.version, read.event.id));
    assert_eq!(read.collect::<HashSet<_>>(), answers);
}

/// Of many writers with the same expectation, one succeeds; the others learn the actual version.
pub async fn should_let_one_of_many_writers_succeed(harness: Harness<'_>) {
    let rivals = (0..30).map(|n| {
        let append = Append::new(stream("a"), events([n])).with_expected(Expected::Empty);
        harness.try_append(append)
    });
    let answers = join_all(rivals).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for answer in answers.into_iter().filter_map(Result::err) {
        assert!(matches!(answer, StoreError::Conflict { actual: 1, .. }), "{answer:?}");
    }
}

/// Appends that are dropped midway are either stored or not; the store works in both cases.
pub async fn should_stay_usable_after_a_cancelled_append(harness: Harness<'_>) {
    let mut cancelled = Vec::new();
    for number in 0..100 {
        let append = Append::new(stream("a"), events([number]));
        drop(harness.store.append_one(append.clone()).now_or_never());
        cancelled.push(append);
    }
    let mut repeated = HashSet::new();
    for append in cancelled {
        repeated.insert(harness.try_append(append).await.unwrap().version);
    }
    assert_eq!(repeated, (1..=100).collect());
    assert_eq!(harness.stream("a").await.len(), 100);
}
