//! Following the log: from existing events to new ones.

use std::{pin::pin, sync::Arc};

use futures_util::{
    FutureExt,
    future::{join, join_all},
};

use super::{
    Capability,
    harness::{Harness, events, stream},
};
use crate::store::{Append, EventStoreExt};

/// A reader that starts in the middle gets every event once, in order.
pub async fn should_switch_from_catching_up_to_live_without_gaps(harness: Harness<'_>) {
    let harness = &harness;
    harness.append("old", events(0..700)).await;
    let writers = join_all((0..10).map(|writer| async move {
        for number in 0..60 {
            harness.append(&format!("s/{writer}"), events([number])).await;
        }
    }));
    let reader = async {
        let mut log = Arc::clone(&harness.store).subscribe(100);
        for position in 101..=1300 {
            assert_eq!(log.next().await.unwrap().position, position);
        }
    };
    join(writers, reader).await;
}

/// A reader that asks for what follows the last position that it has read gets every event once, in
/// order, while several handles append.
pub async fn should_leave_no_gap_to_a_reader_while_several_handles_append(harness: Harness<'_>) {
    let handles = [Arc::clone(&harness.store), harness.another().await];
    let writers = handles.iter().flat_map(|handle| {
        (0..8).map(move |writer| async move {
            for number in 0..25 {
                let append = Append::new(stream(&format!("s/{writer}")), events([number]));
                handle.append_one(append).await.unwrap();
            }
        })
    });
    let reader = async {
        let log = harness.another().await;
        let mut cursor = 0;
        while cursor < 400 {
            log.wait_for(cursor).await.unwrap();
            for read in log.read_log(cursor, 1_000).await.unwrap() {
                assert_eq!(read.position, cursor + 1);
                cursor = read.position;
            }
        }
    };
    join(join_all(writers), reader).await;
}

/// Waiting ends when something is appended, and returns the head of the log.
pub async fn should_wake_waiting_callers(harness: Harness<'_>) {
    harness.append("a", events([1])).await;
    let mut waiting = pin!(harness.store.wait_for(1));
    assert!(waiting.as_mut().now_or_never().is_none());
    let (woken, _) = join(waiting, harness.append("a", events([2, 3]))).await;
    assert_eq!(woken.unwrap(), 3);
}

/// Waiting for existing events ends at once.
pub async fn should_not_wait_for_existing_events(harness: Harness<'_>) {
    harness.append("a", events([1, 2])).await;
    assert_eq!(harness.store.wait_for(0).await.unwrap(), 2);
    assert_eq!(harness.store.wait_for(1).await.unwrap(), 2);
}

/// A reader that cancels its wait and returns has missed nothing.
pub async fn should_lose_nothing_when_waiting_is_cancelled(harness: Harness<'_>) {
    let mut log = Arc::clone(&harness.store).subscribe(0);
    for position in 1..=20 {
        assert!(log.next().now_or_never().is_none());
        harness.append("a", events([position])).await;
        let read = match log.next().now_or_never() {
            Some(read) => read,
            None => log.next().await,
        };
        assert_eq!(read.unwrap().position, position);
    }
}

/// A reader of one handle receives the appends of another one.
pub async fn should_see_appends_of_another_handle(harness: Harness<'_>) {
    if harness.lacks(Capability::SecondHandle) {
        return;
    }
    let other = harness.connect().await;
    let reader = async {
        let mut log = other.subscribe(0);
        for position in 1..=50 {
            assert_eq!(log.next().await.unwrap().position, position);
        }
    };
    let writer = async {
        for number in 0..50 {
            harness.append("a", events([number])).await;
        }
    };
    join(reader, writer).await;
}
