//! Mailboxes.

use super::{Capability, Scene};
use crate::broker::{Publish, Subscription};

/// One publish reaches the mailbox and every group.
pub async fn should_reach_a_mailbox_beside_the_groups(scene: Scene<'_>) {
    let mut group = scene.subscribe(scene.all("g")).await;
    let mut mailbox = scene.subscribe(Subscription::mailbox(scene.mailbox("m"))).await;
    let mut other = scene.subscribe(Subscription::mailbox(scene.mailbox("other"))).await;
    let addressed = Publish::new(scene.event("thing.happened", 1)).with_mailbox(scene.mailbox("m"));
    let answers =
        scene.try_publish(vec![addressed, Publish::new(scene.event("thing.happened", 2))]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(group.numbers(2).await, [1, 2]);
    assert_eq!(mailbox.numbers(1).await, [1]);
    mailbox.none().await;
    other.none().await;
}

/// A mailbox without a reader keeps what it gets, and satisfies a required route.
pub async fn should_count_a_mailbox_as_route(scene: Scene<'_>) {
    let mailbox = || Subscription::mailbox(scene.mailbox("m"));
    scene.declare(mailbox()).await;
    let publish = Publish::new(scene.event("thing.happened", 1))
        .with_mailbox(scene.mailbox("m"))
        .with_required_route();
    let answers = scene.try_publish(vec![publish]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(scene.subscribe(mailbox()).await.numbers(1).await, [1]);
}

/// A second reader waits without events.
pub async fn should_let_one_reader_have_the_mailbox(scene: Scene<'_>) {
    if scene.lacks(Capability::SingleReader) {
        return;
    }
    let other = scene.connect().await;
    let mailbox = || Subscription::mailbox(scene.mailbox("m"));
    let mut first = scene.subscribe(mailbox()).await;
    let mut second = scene.subscribe_on(&other, mailbox()).await;
    send(&scene, 1..=20).await;
    assert_eq!(first.numbers(20).await, Vec::from_iter(1..=20));
    second.none().await;
}

/// The next reader takes over when the first is gone.
pub async fn should_hand_the_mailbox_over(scene: Scene<'_>) {
    if scene.lacks(Capability::SingleReader) {
        return;
    }
    let other = scene.connect().await;
    let mailbox = || Subscription::mailbox(scene.mailbox("m"));
    let mut first = scene.subscribe(mailbox()).await;
    let mut second = scene.subscribe_on(&other, mailbox()).await;
    send(&scene, 1..=3).await;
    assert_eq!(first.numbers(1).await, [1]);
    drop(first);
    assert_eq!(second.numbers(2).await, [2, 3]);
    send(&scene, 4..=5).await;
    assert_eq!(second.numbers(2).await, [4, 5]);
}

async fn send(scene: &Scene<'_>, numbers: impl IntoIterator<Item = u64>) {
    let addressed = |event| Publish::new(event).with_mailbox(scene.mailbox("m"));
    let batch = scene.events(numbers).into_iter().map(addressed).collect();
    let answers = scene.try_publish(batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}
