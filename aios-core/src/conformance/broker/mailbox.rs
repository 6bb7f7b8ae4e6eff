//! Mailboxes.

use super::{Capability, Harness};
use crate::{
    broker::{Publish, Subscription},
    event::Pattern,
};

/// One publish reaches the mailbox and every group.
pub async fn should_reach_a_mailbox_beside_the_groups(harness: Harness<'_>) {
    let mut group = harness.subscribe(harness.all("g")).await;
    let mut mailbox = harness.subscribe(Subscription::mailbox(harness.mailbox("m"))).await;
    let mut other = harness.subscribe(Subscription::mailbox(harness.mailbox("other"))).await;
    let addressed =
        Publish::new(harness.event("thing.happened", 1)).with_mailbox(harness.mailbox("m"));
    let answers = harness
        .try_publish(vec![addressed, Publish::new(harness.event("thing.happened", 2))])
        .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(group.numbers(2).await, [1, 2]);
    assert_eq!(mailbox.numbers(1).await, [1]);
    mailbox.none().await;
    other.none().await;
}

/// A mailbox without a reader keeps its events, and satisfies a required route.
pub async fn should_count_a_mailbox_as_route(harness: Harness<'_>) {
    let mailbox = || Subscription::mailbox(harness.mailbox("m"));
    harness.declare(mailbox()).await;
    let publish = Publish::new(harness.event("thing.happened", 1))
        .with_mailbox(harness.mailbox("m"))
        .with_required_route();
    let answers = harness.try_publish(vec![publish]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(harness.subscribe(mailbox()).await.numbers(1).await, [1]);
}

/// A group is not a route for an event that requires a mailbox.
pub async fn should_require_the_mailbox_that_is_named(harness: Harness<'_>) {
    if harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let _group = harness.subscribe(harness.all("g")).await;
    let mut reader = harness.subscribe(Subscription::mailbox(harness.mailbox("m"))).await;
    let required = |name: &str, number| {
        let publish = Publish::new(harness.event("thing.happened", number));
        publish.with_mailbox(harness.mailbox(name)).with_required_route()
    };
    let answers =
        harness.try_publish(vec![required("m", 1), required("none", 2), required("m", 3)]).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.code(), "UNROUTABLE");
    assert!(error.to_string().contains("thing.happened"), "{error}");
    assert_eq!(reader.numbers(2).await, [1, 3]);
}

/// An event that requires its mailbox is published once the mailbox has it. A group that is full does not
/// change that.
pub async fn should_answer_for_the_required_mailbox_when_a_group_is_full(harness: Harness<'_>) {
    let Some(broker) = harness.limited(&harness.group("full"), 1).await else { return };
    drop(harness.subscribe_on(&broker, harness.all("full")).await);
    let mailbox = Subscription::mailbox(harness.mailbox("m"));
    let mut reader = harness.subscribe_on(&broker, mailbox).await;
    let event = |number| Publish::new(harness.event("thing.happened", number));
    let mut is_full = false;
    for number in 0..20 {
        let answer = harness.within("publish", broker.publish(vec![event(number)])).await.remove(0);
        if let Err(error) = answer {
            assert_eq!(error.code(), "REJECTED");
            is_full = true;
            break;
        }
    }
    assert!(is_full, "the group is not limited");
    let required = event(100).with_mailbox(harness.mailbox("m")).with_required_route();
    let answers = harness.within("publish", broker.publish(vec![required])).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(reader.numbers(1).await, [100]);
}

/// A group that gets every event is not a route for an event that requires a mailbox either, and gets
/// an event once, even if it also goes to a mailbox.
pub async fn should_keep_mailboxes_apart_from_a_group_of_all_types(harness: Harness<'_>) {
    if harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let all = Subscription::group(harness.group("audit"), [Pattern::all()]);
    let mut audit = harness.subscribe(all).await;
    let mut reader = harness.subscribe(Subscription::mailbox(harness.mailbox("m"))).await;
    let publish = |name: &str, number| {
        Publish::new(harness.event("thing.happened", number)).with_mailbox(harness.mailbox(name))
    };
    let answers = harness.try_publish(vec![publish("none", 0).with_required_route()]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().code(), "UNROUTABLE");
    let batch = vec![publish("m", 1).with_required_route(), publish("m", 2), publish("m", 3)];
    let answers = harness.try_publish(batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(reader.numbers(3).await, [1, 2, 3]);
    reader.none().await;
    let mut audited = Vec::new();
    while audited.len() < 3 {
        // Whether groups get an event that is refused is not specified.
        audited.extend(audit.numbers(1).await.into_iter().filter(|number| *number > 0));
    }
    assert_eq!(audited, [1, 2, 3]);
    audit.none().await;
}

/// Mailboxes are distinguished by every character of their names.
pub async fn should_keep_mailboxes_with_similar_names_apart(harness: Harness<'_>) {
    let names = ["m", "M", "m.a", "m_a", "m-a", "m.a.b", "a.m"];
    let mut readers = Vec::new();
    for name in names {
        readers.push(harness.subscribe(Subscription::mailbox(harness.mailbox(name))).await);
    }
    let addressed = (0..).zip(names).map(|(number, name)| {
        Publish::new(harness.event("thing.happened", number)).with_mailbox(harness.mailbox(name))
    });
    let answers = harness.try_publish(addressed.collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for (number, reader) in (0..).zip(&mut readers) {
        assert_eq!(reader.numbers(1).await, [number]);
    }
    for reader in &mut readers {
        reader.none().await;
    }
}

/// A mailbox that was deleted with its reader is not a route, like one that never existed.
pub async fn should_not_count_a_deleted_mailbox_as_a_route(harness: Harness<'_>) {
    if harness.lacks(Capability::Temporary) || harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let mut reader =
        harness.subscribe(Subscription::mailbox(harness.mailbox("m")).temporary()).await;
    send(&harness, [1]).await;
    assert_eq!(reader.numbers(1).await, [1]);
    drop(reader);
    for _ in 0..20 {
        let publish = Publish::new(harness.event("thing.happened", 2))
            .with_mailbox(harness.mailbox("m"))
            .with_required_route();
        match &harness.try_publish(vec![publish]).await[0] {
            Err(error) => {
                assert_eq!(error.code(), "UNROUTABLE");
                return send(&harness, [3]).await;
            }
            Ok(()) => harness.quiet().await,
        }
    }
    panic!("the mailbox does not go");
}

/// A second reader waits and receives no events.
pub async fn should_let_one_reader_have_the_mailbox(harness: Harness<'_>) {
    if harness.lacks(Capability::SingleReader) {
        return;
    }
    let other = harness.connect().await;
    let mailbox = || Subscription::mailbox(harness.mailbox("m"));
    let mut first = harness.subscribe(mailbox()).await;
    let mut second = harness.subscribe_on(&other, mailbox()).await;
    send(&harness, 1..=20).await;
    assert_eq!(first.numbers(20).await, Vec::from_iter(1..=20));
    second.none().await;
}

/// The next reader takes over when the first is gone.
pub async fn should_hand_the_mailbox_over(harness: Harness<'_>) {
    if harness.lacks(Capability::SingleReader) {
        return;
    }
    let other = harness.connect().await;
    let mailbox = || Subscription::mailbox(harness.mailbox("m"));
    let mut first = harness.subscribe(mailbox()).await;
    let mut second = harness.subscribe_on(&other, mailbox()).await;
    send(&harness, 1..=3).await;
    assert_eq!(first.numbers(1).await, [1]);
    drop(first);
    assert_eq!(second.numbers(2).await, [2, 3]);
    send(&harness, 4..=5).await;
    assert_eq!(second.numbers(2).await, [4, 5]);
}

async fn send(harness: &Harness<'_>, numbers: impl IntoIterator<Item = u64>) {
    let addressed = |event| Publish::new(event).with_mailbox(harness.mailbox("m"));
    let batch = harness.events(numbers).into_iter().map(addressed).collect();
    let answers = harness.try_publish(batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}
