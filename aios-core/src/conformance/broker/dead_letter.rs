//! Events that were given up.

use super::{Reader, Scene, scene::sorted};
use crate::{
    broker::{Address, DeadLetter, DeadLetters, Poison, Selection},
    retry::RetryPolicy,
};

/// Exactly the attempts of the policy, then a dead letter that says why.
pub async fn should_bury_a_poison_event_with_reason_and_attempts(scene: Scene<'_>) {
    let policy = RetryPolicy::fixed(3, scene.delay());
    let mut reader = scene.subscribe(scene.all("g").with_retry(policy)).await;
    let event = scene.events([1]).remove(0);
    scene.publish_events(vec![event.clone()]).await;
    for attempt in 1..=3 {
        let delivery = reader.expect(1, attempt).await;
        let reason = format!("attempt {attempt} failed: ünfit");
        scene.within("retry", delivery.retry(None, reason)).await.unwrap();
        scene.pass(scene.delay()).await;
    }
    reader.none().await;
    let letters = letters(&scene, "g", 1).await;
    assert_eq!(letters[0].event, event);
    assert_eq!(letters[0].attempts, 3);
    assert_eq!(letters[0].reason, "attempt 3 failed: ünfit");
}

/// A handler may give up at once.
pub async fn should_bury_an_event_that_was_given_up(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    scene.publish([1, 2]).await;
    give_up(&scene, &mut reader, 1, "hopeless").await;
    assert_eq!(reader.numbers(1).await, [2]);
    let letters = letters(&scene, "g", 1).await;
    assert_eq!((letters[0].attempts, &*letters[0].reason), (1, "hopeless"));
    reader.none().await;
}

/// Poison that may be discarded leaves no trace.
pub async fn should_discard_poison_where_asked(scene: Scene<'_>) {
    let policy = RetryPolicy::never();
    let subscription = scene.all("g").with_retry(policy).with_poison(Poison::Discard);
    let mut reader = scene.subscribe(subscription).await;
    scene.publish([1, 2]).await;
    let failed = reader.expect(1, 1).await;
    scene.within("retry", failed.retry(None, "poison")).await.unwrap();
    give_up(&scene, &mut reader, 1, "poison").await;
    reader.none().await;
    assert!(letters(&scene, "g", 0).await.is_empty());
}

/// Redriven events start from their first attempt, in their own group only.
pub async fn should_redrive_all_with_a_fresh_count(scene: Scene<'_>) {
    let policy = RetryPolicy::fixed(2, scene.delay());
    let mut reader = scene.subscribe(scene.all("g").with_retry(policy)).await;
    let mut other = scene.subscribe(scene.all("other")).await;
    scene.publish([1]).await;
    assert_eq!(other.numbers(1).await, [1]);
    let delivery = reader.expect(1, 1).await;
    scene.within("retry", delivery.retry(None, "first")).await.unwrap();
    scene.pass(scene.delay()).await;
    let delivery = reader.expect(1, 2).await;
    scene.within("retry", delivery.retry(None, "second")).await.unwrap();
    letters(&scene, "g", 1).await;
    let dead = scene.dead_letters(scene.group("g")).await;
    assert_eq!(scene.within("redrive", dead.redrive(Selection::All)).await.unwrap(), 1);
    let delivery = reader.expect(1, 1).await;
    scene.within("acknowledge", delivery.ack()).await.unwrap();
    letters(&scene, "g", 0).await;
    other.none().await;
}

/// Waiting events are counted, neither delivered nor dead ones.
pub async fn should_count_what_waits_to_be_delivered(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g").with_prefetch(1)).await;
    scene.publish([1, 2, 3]).await;
    let delivery = reader.expect(1, 1).await;
    let dead = scene.dead_letters(scene.group("g")).await;
    waiting(&scene, &*dead, 2).await;
    scene.within("give up", delivery.dead_letter("broken")).await.unwrap();
    let delivery = reader.expect(2, 1).await;
    waiting(&scene, &*dead, 1).await;
    scene.within("acknowledge", delivery.ack()).await.unwrap();
    let delivery = reader.expect(3, 1).await;
    scene.within("acknowledge", delivery.ack()).await.unwrap();
    waiting(&scene, &*dead, 0).await;
}

/// Only what is named is redriven.
pub async fn should_redrive_by_id(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    let events = scene.events(1..=3);
    let chosen = Selection::Ids(vec![events[1].id.clone()]);
    scene.publish_events(events).await;
    give_up(&scene, &mut reader, 3, "later").await;
    letters(&scene, "g", 3).await;
    let dead = scene.dead_letters(scene.group("g")).await;
    assert_eq!(scene.within("redrive", dead.redrive(chosen)).await.unwrap(), 1);
    assert_eq!(reader.numbers(1).await, [2]);
    reader.none().await;
    assert_eq!(sorted(numbers(&letters(&scene, "g", 2).await)), [1, 3]);
}

/// Purging deletes the selected dead letters for good.
pub async fn should_purge(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    let events = scene.events(1..=3);
    let chosen = Selection::Ids(vec![events[0].id.clone(), events[2].id.clone()]);
    scene.publish_events(events).await;
    give_up(&scene, &mut reader, 3, "junk").await;
    letters(&scene, "g", 3).await;
    let dead = scene.dead_letters(scene.group("g")).await;
    assert_eq!(scene.within("purge", dead.purge(chosen)).await.unwrap(), 2);
    assert_eq!(numbers(&letters(&scene, "g", 1).await), [2]);
    assert_eq!(scene.within("purge", dead.purge(Selection::All)).await.unwrap(), 1);
    letters(&scene, "g", 0).await;
    reader.none().await;
}

/// Listing takes nothing away.
pub async fn should_list_the_oldest_first_up_to_the_limit(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    scene.publish(1..=5).await;
    give_up(&scene, &mut reader, 5, "ordered").await;
    letters(&scene, "g", 5).await;
    let dead = scene.dead_letters(scene.group("g")).await;
    for _ in 0..2 {
        let some = scene.within("list", dead.list(3)).await.unwrap();
        assert_eq!(numbers(&some), [1, 2, 3]);
    }
}

/// A group that never was has no dead letters.
pub async fn should_not_know_dead_letters_of_an_unknown_address(scene: Scene<'_>) {
    let address = Address::from(scene.group("never"));
    let answer = scene.within("refuse", scene.broker.dead_letters(&address)).await;
    assert_eq!(answer.err().unwrap().code(), "UNKNOWN_ADDRESS");
}

async fn give_up(scene: &Scene<'_>, reader: &mut Reader<'_>, count: usize, reason: &str) {
    for _ in 0..count {
        let delivery = reader.next().await;
        scene.within("give up", delivery.dead_letter(reason)).await.unwrap();
    }
}

/// The dead letters of a group, of which there must soon be this many.
async fn letters(scene: &Scene<'_>, group: &str, count: usize) -> Vec<DeadLetter> {
    let dead: Box<dyn DeadLetters> = scene.dead_letters(scene.group(group)).await;
    for _ in 0..20 {
        let letters = scene.within("list", dead.list(100)).await.unwrap();
        if letters.len() == count {
            return letters;
        }
        scene.quiet().await;
    }
    panic!("{group} does not come to have {count} dead letters");
}

async fn waiting(scene: &Scene<'_>, dead: &dyn DeadLetters, count: u64) {
    let mut found = 0;
    for _ in 0..20 {
        found = scene.within("count", dead.waiting()).await.unwrap();
        if found == count {
            return;
        }
        scene.quiet().await;
    }
    panic!("{found} events wait instead of {count}");
}

fn numbers(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.event.data().unwrap()).collect()
}
