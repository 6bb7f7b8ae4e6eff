//! Events that were given up.

use super::{Capability, Harness, Place, Reader, harness::sorted};
use crate::{
    broker::{Address, DeadLetter, DeadLetterFilter, DeadLetters, OnExhausted},
    retry::RetryPolicy,
};

/// Exactly the attempts of the policy, then a dead letter with the reason.
pub async fn should_dead_letter_a_poison_event_with_reason_and_attempts(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(3, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        let event = harness.events([1]).remove(0);
        place.publish_events(&harness, vec![event.clone()]).await;
        for attempt in 1..=3 {
            let delivery = reader.expect(1, attempt).await;
            let reason = format!("attempt {attempt} failed: ünfit");
            harness.within("retry", delivery.retry(None, reason)).await.unwrap();
            harness.pass(harness.delay()).await;
        }
        reader.none().await;
        let letters = letters(&harness, place, 1).await;
        assert_eq!(letters[0].event, event);
        assert_eq!(letters[0].attempts, 3);
        assert_eq!(letters[0].reason, "attempt 3 failed: ünfit");
    }
}

/// The last attempt makes an event a dead letter, even if its handler asks for another one after a
/// delay of its own.
pub async fn should_dead_letter_a_last_attempt_with_an_explicit_delay(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(2, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        for attempt in 1..=2 {
            let delivery = reader.expect(1, attempt).await;
            let after = Some(harness.delay());
            harness.within("retry", delivery.retry(after, "again")).await.unwrap();
            harness.pass(harness.delay()).await;
        }
        reader.none().await;
        assert_eq!(letters(&harness, place, 1).await[0].attempts, 2);
    }
}

/// A dead letter has the time of its first failure, however long its attempts and its wait take.
pub async fn should_remember_the_first_failure(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(2, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        let first = reader.expect(1, 1).await;
        harness.within("retry", first.retry(None, "the first failure")).await.unwrap();
        harness.pass(harness.delay()).await;
        let last = reader.expect(1, 2).await;
        place.publish(&harness, [2]).await;
        give_up(&harness, &mut reader, 1, "the only failure").await;
        let only = letters(&harness, place, 1).await.remove(0);
        harness.pass(harness.delay()).await;
        harness.within("retry", last.retry(None, "the last failure")).await.unwrap();
        let letters = letters(&harness, place, 2).await;
        assert_eq!(numbers(&letters), [2, 1]);
        assert_eq!(letters[0], only, "the time does not change");
        let between = only.first_failure.duration_since(letters[1].first_failure);
        assert!(between >= harness.delay() / 2, "{between:?}");
    }
}

/// A handler may give up at once.
pub async fn should_dead_letter_an_event_that_was_given_up(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness)).await;
        place.publish(&harness, [1, 2]).await;
        give_up(&harness, &mut reader, 1, "hopeless").await;
        assert_eq!(reader.numbers(1).await, [2]);
        let letters = letters(&harness, place, 1).await;
        assert_eq!((letters[0].attempts, &*letters[0].reason), (1, "hopeless"));
        reader.none().await;
    }
}

/// An event that is discarded when its attempts are used up leaves no trace.
pub async fn should_discard_poison_events_if_configured(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::never();
        let subscription =
            place.subscription(&harness).with_retry(policy).with_on_exhausted(OnExhausted::Discard);
        let mut reader = harness.subscribe(subscription).await;
        place.publish(&harness, [1, 2]).await;
        let failed = reader.expect(1, 1).await;
        harness.within("retry", failed.retry(None, "poison")).await.unwrap();
        give_up(&harness, &mut reader, 1, "poison").await;
        reader.none().await;
        assert!(letters(&harness, place, 0).await.is_empty());
    }
}

/// Redriven events start from their first attempt, in their own group only.
pub async fn should_redrive_all_with_a_fresh_count(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(2, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        let mut other = harness.subscribe(harness.all(&format!("beside.{place:?}"))).await;
        place.publish(&harness, [1]).await;
        assert_eq!(other.numbers(1).await, [1]);
        let delivery = reader.expect(1, 1).await;
        harness.within("retry", delivery.retry(None, "first")).await.unwrap();
        harness.pass(harness.delay()).await;
        let delivery = reader.expect(1, 2).await;
        harness.within("retry", delivery.retry(None, "second")).await.unwrap();
        letters(&harness, place, 1).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        assert_eq!(
            harness.within("redrive", dead.redrive(DeadLetterFilter::All)).await.unwrap(),
            1
        );
        let delivery = reader.expect(1, 1).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
        letters(&harness, place, 0).await;
        other.none().await;
    }
}

/// Waiting events are counted; delivered and dead ones are not.
pub async fn should_count_waiting_events(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness).with_prefetch(1)).await;
        place.publish(&harness, [1, 2, 3]).await;
        let delivery = reader.expect(1, 1).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        waiting(&harness, &*dead, 2).await;
        harness.within("give up", delivery.dead_letter("broken")).await.unwrap();
        let delivery = reader.expect(2, 1).await;
        waiting(&harness, &*dead, 1).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
        let delivery = reader.expect(3, 1).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
        waiting(&harness, &*dead, 0).await;
    }
}

/// An event that was retried waits from the moment in which it is due, with or without a consumer.
pub async fn should_count_a_retried_event_when_it_is_due(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(5, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        let delivery = reader.expect(1, 1).await;
        harness.within("retry", delivery.retry(None, "not yet")).await.unwrap();
        drop(reader);
        let dead = harness.dead_letters(place.address(&harness)).await;
        assert_eq!(harness.within("count", dead.waiting()).await.unwrap(), 0, "{place:?}");
        harness.pass(harness.delay()).await;
        waiting(&harness, &*dead, 1).await;
    }
}

/// Only the named dead letters are redriven.
pub async fn should_redrive_by_id(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness)).await;
        let events = harness.events(1..=3);
        let chosen = DeadLetterFilter::Ids(vec![events[1].id.clone()]);
        place.publish_events(&harness, events).await;
        give_up(&harness, &mut reader, 3, "later").await;
        letters(&harness, place, 3).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        assert_eq!(harness.within("redrive", dead.redrive(chosen)).await.unwrap(), 1);
        assert_eq!(reader.numbers(1).await, [2]);
        reader.none().await;
        assert_eq!(sorted(numbers(&letters(&harness, place, 2).await)), [1, 3]);
    }
}

/// Purging deletes the selected dead letters permanently.
pub async fn should_purge(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness)).await;
        let events = harness.events(1..=3);
        let chosen = DeadLetterFilter::Ids(vec![events[0].id.clone(), events[2].id.clone()]);
        place.publish_events(&harness, events).await;
        give_up(&harness, &mut reader, 3, "junk").await;
        letters(&harness, place, 3).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        assert_eq!(harness.within("purge", dead.purge(chosen)).await.unwrap(), 2);
        assert_eq!(numbers(&letters(&harness, place, 1).await), [2]);
        assert_eq!(harness.within("purge", dead.purge(DeadLetterFilter::All)).await.unwrap(), 1);
        letters(&harness, place, 0).await;
        reader.none().await;
    }
}

/// Listing removes nothing.
pub async fn should_list_the_oldest_first_up_to_the_limit(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness)).await;
        place.publish(&harness, 1..=5).await;
        give_up(&harness, &mut reader, 5, "ordered").await;
        letters(&harness, place, 5).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        for _ in 0..2 {
            let some = harness.within("list", dead.list(3)).await.unwrap();
            assert_eq!(numbers(&some), [1, 2, 3]);
        }
    }
}

/// Every dead letter is visited, the oldest first, also beyond a page of usual size.
pub async fn should_visit_every_dead_letter(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    let expected = Vec::from_iter(1..=1_005);
    harness.publish(expected.clone()).await;
    give_up(&harness, &mut reader, expected.len(), "one of many").await;
    let dead = harness.dead_letters(harness.group("g")).await;
    let mut found = Vec::new();
    for _ in 0..20 {
        found.clear();
        let mut visit = |letter: DeadLetter| found.push(letter);
        harness.within("visit", dead.for_each(&mut visit)).await.unwrap();
        if found.len() == expected.len() {
            break;
        }
        harness.quiet().await;
    }
    assert_eq!(numbers(&found), expected);
    assert!(found.iter().all(|letter| letter.reason == "one of many"));
}

/// A group that never existed has no dead letters.
pub async fn should_report_an_unknown_address_of_dead_letters(harness: Harness<'_>) {
    let address = Address::from(harness.group("never"));
    let answer = harness.within("refuse", harness.broker.dead_letters(&address)).await;
    assert_eq!(answer.err().unwrap().code(), "UNKNOWN_ADDRESS");
}

/// The events of a temporary group or mailbox that is gone can't be counted.
pub async fn should_not_count_the_events_of_an_address_that_is_gone(harness: Harness<'_>) {
    if harness.lacks(Capability::Temporary) {
        return;
    }
    for place in Place::BOTH {
        let reader = harness.subscribe(place.subscription(&harness).temporary()).await;
        let dead = harness.dead_letters(place.address(&harness)).await;
        waiting(&harness, &*dead, 0).await;
        drop(reader);
        let mut answer = Ok(0);
        for _ in 0..20 {
            answer = harness.within("count", dead.waiting()).await;
            if answer.is_err() {
                break;
            }
            harness.quiet().await;
        }
        assert_eq!(answer.unwrap_err().code(), "UNKNOWN_ADDRESS", "{place:?}");
    }
}

async fn give_up(harness: &Harness<'_>, reader: &mut Reader<'_>, count: usize, reason: &str) {
    for _ in 0..count {
        let delivery = reader.next().await;
        harness.within("give up", delivery.dead_letter(reason)).await.unwrap();
    }
}

/// The dead letters of a place, whose number must soon be this.
async fn letters(harness: &Harness<'_>, place: Place, count: usize) -> Vec<DeadLetter> {
    let dead: Box<dyn DeadLetters> = harness.dead_letters(place.address(harness)).await;
    for _ in 0..20 {
        let letters = harness.within("list", dead.list(100)).await.unwrap();
        if letters.len() == count {
            return letters;
        }
        harness.quiet().await;
    }
    panic!("the {place:?} does not come to have {count} dead letters");
}

async fn waiting(harness: &Harness<'_>, dead: &dyn DeadLetters, count: u64) {
    let mut found = 0;
    for _ in 0..20 {
        found = harness.within("count", dead.waiting()).await.unwrap();
        if found == count {
            return;
        }
        harness.quiet().await;
    }
    panic!("{found} events wait instead of {count}");
}

fn numbers(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.event.data().unwrap()).collect()
}
