//! Repeating an append is safe; an id that is stored elsewhere is refused.

use futures_util::future::join_all;

use super::harness::{Harness, event, events, repeated, stored, stream};
use crate::{
    event::EventId,
    store::{Append, Appended, Epoch, Expected, Fence, Shard, StoreError},
};

/// The repetition returns the position of the first append, is marked as repeated, and stores
/// nothing.
pub async fn should_answer_a_repeated_append_with_the_first_result(harness: Harness<'_>) {
    let append = Append::new(stream("a"), events([1, 2]));
    assert_eq!(harness.try_append(append.clone()).await.unwrap(), stored(2, 2));
    harness.append("a", events([3])).await;
    assert_eq!(harness.try_append(append).await.unwrap(), repeated(2, 2));
    assert_eq!(harness.log().await.len(), 3);
}

/// The expectations of the first append need not hold any more.
pub async fn should_answer_a_repetition_whatever_its_expectation_and_fence(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    let append = Append::new(stream("a"), events([1]))
        .with_expected(Expected::Empty)
        .with_fence(lease.fence());
    let first = harness.try_append(append.clone()).await.unwrap();
    harness.append("a", events([2])).await;
    harness.let_leases_expire().await;
    harness.take(1, "second").await;
    let never = Fence { shard: Shard::new(9).unwrap(), epoch: Epoch(7) };
    for repeat in [
        append.clone(),
        append.clone().with_expected(Expected::Exact(9)),
        append.with_fence(never).with_expected(Expected::Any),
    ] {
        assert_eq!(harness.try_append(repeat).await.unwrap(), Appended { repeated: true, ..first });
    }
}

/// The same append twice in one call is stored once.
pub async fn should_recognise_a_repeat_within_one_batch(harness: Harness<'_>) {
    let append = Append::new(stream("a"), events([1])).with_expected(Expected::Empty);
    let answers = harness.store.append(vec![append.clone(), append.clone(), append]).await;
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [stored(1, 1), repeated(1, 1), repeated(1, 1)]);
    assert_eq!(harness.log().await.len(), 1);
}

/// The same append many times concurrently is stored once.
pub async fn should_recognise_repeats_that_are_called_at_the_same_time(harness: Harness<'_>) {
    let append = Append::new(stream("a"), events([1, 2]));
    let answers = join_all((0..20).map(|_| harness.try_append(append.clone()))).await;
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|at| (at.version, at.position) == (2, 2)), "{answers:?}");
    assert_eq!(answers.iter().filter(|at| !at.repeated).count(), 1);
    assert_eq!(harness.log().await.len(), 2);
}

/// An append may repeat a part of what another one appended.
pub async fn should_recognise_the_repeated_part_of_a_longer_stream(harness: Harness<'_>) {
    let all = events([1, 2, 3, 4]);
    harness.append("a", all.clone()).await;
    let appended = harness.append("a", all[1..3].to_vec()).await;
    assert_eq!(appended, repeated(3, 3));
}

/// A mixture of old and new events is not a repetition.
pub async fn should_refuse_an_append_that_is_stored_in_part(harness: Harness<'_>) {
    let old = event(1);
    harness.append("a", vec![old.clone()]).await;
    for mixed in [vec![old.clone(), event(2)], vec![event(3), old.clone()]] {
        let error = harness.try_append(Append::new(stream("a"), mixed)).await.unwrap_err();
        assert!(matches!(&error, StoreError::DuplicateEvent { id } if *id == old.id), "{error:?}");
    }
    assert_eq!(harness.log().await.len(), 1);
}

/// The same events in another order are not a repetition.
pub async fn should_refuse_repeated_events_in_another_order(harness: Harness<'_>) {
    let one = event(1);
    let two = event(2);
    let three = event(3);
    harness.append("a", vec![one.clone(), two.clone(), three.clone()]).await;
    for other in [vec![two, one.clone()], vec![one, three]] {
        let error = harness.try_append(Append::new(stream("a"), other)).await.unwrap_err();
        assert_eq!(error.code(), "DUPLICATE_EVENT");
    }
}

/// An id is stored once in the whole log.
pub async fn should_refuse_an_id_that_another_stream_has(harness: Harness<'_>) {
    let old = event(1);
    harness.append("a", vec![old.clone()]).await;
    let error = harness.try_append(Append::new(stream("b"), vec![old.clone()])).await.unwrap_err();
    assert!(matches!(&error, StoreError::DuplicateEvent { id } if *id == old.id), "{error:?}");
    let batch = vec![Append::new(stream("c"), vec![old]), Append::new(stream("d"), events([2]))];
    let answers = harness.store.append(batch).await;
    assert!(answers[0].is_err() && answers[1].is_ok());
}

/// An id occurs once in an append.
pub async fn should_refuse_a_duplicate_id_in_one_append(harness: Harness<'_>) {
    let twice = event(1);
    let append = Append::new(stream("a"), vec![twice.clone(), event(2), twice]);
    let error = harness.try_append(append.clone()).await.unwrap_err();
    assert_eq!(error.code(), "DUPLICATE_EVENT");
    assert_eq!(harness.try_append(append).await.unwrap_err().code(), "DUPLICATE_EVENT");
    assert!(harness.log().await.is_empty());
}

/// A foreign id that equals the name from which another id was derived is a different id.
pub async fn should_keep_derived_and_foreign_ids_apart(harness: Harness<'_>) {
    let derived = EventId::derive("r1/1#1");
    let foreign = "r1/1#1".parse::<EventId>().unwrap();
    for (position, id) in [(1, derived.clone()), (2, foreign.clone())] {
        let appended = harness.append("a", vec![event(1).with_id(id)]).await;
        assert_eq!(appended, stored(position, position));
    }
    let read: Vec<_> = harness.stream("a").await.into_iter().map(|read| read.event.id).collect();
    assert_eq!(read, [derived, foreign]);
}

/// The events of a refused append can be appended in another way.
pub async fn should_store_nothing_of_a_refused_append(harness: Harness<'_>) {
    let old = event(1);
    let new = event(2);
    harness.append("a", vec![old.clone()]).await;
    let mixed = Append::new(stream("b"), vec![new.clone(), old]);
    assert!(harness.try_append(mixed).await.is_err());
    let appended = harness.append("c", vec![new]).await;
    assert_eq!(appended, stored(1, 2));
}
