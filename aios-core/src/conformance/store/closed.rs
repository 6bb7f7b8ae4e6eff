//! The event that ends a run is the last one of its stream.

use futures_util::future::join_all;
use serde_json::json;

use super::{
    Capability,
    harness::{Harness, event, events, places, repeated, stored, stream, typed},
};
use crate::{
    event::Event,
    store::{Append, Expected, StoreError},
};

const ENDS: [&str; 4] = ["completed", "failed", "cancelled", "continued"];

fn of_run(action: &str) -> Event {
    typed(&format!("workflows.deploy.{action}"), &json!({ "version": 1 }))
}

fn append(run: &str, action: &str) -> Append {
    Append::new(stream(&format!("runs/{run}")), vec![of_run(action)])
}

async fn start(harness: &Harness<'_>, run: &str) {
    harness.try_append(append(run, "started")).await.unwrap();
}

async fn assert_closed(harness: &Harness<'_>, append: Append) {
    let expected = append.expected;
    match harness.try_append(append.clone()).await {
        Err(error @ StoreError::StreamClosed { .. }) => {
            assert_eq!((error.code(), error.is_retryable()), ("STREAM_CLOSED", false));
        }
        other => panic!("{expected:?}: {other:?}"),
    }
}

/// Whatever the expectation and the fence of the writer, and whatever it appends.
pub async fn should_append_nothing_after_the_end(harness: Harness<'_>) {
    let lease = harness.take(1, "owner").await;
    for end in ENDS {
        start(&harness, end).await;
        harness.try_append(append(end, end)).await.unwrap();
        for late in ["signaled", "cancel_requested", "started", "completed", "step_completed"] {
            assert_closed(&harness, append(end, late)).await;
            assert_closed(&harness, append(end, late).with_expected(Expected::Exact(2))).await;
            assert_closed(&harness, append(end, late).with_fence(lease.fence())).await;
        }
        let foreign = Append::new(stream(&format!("runs/{end}")), events([1, 2]));
        assert_closed(&harness, foreign).await;
        assert_eq!(harness.stream(&format!("runs/{end}")).await.len(), 2);
    }
    assert_eq!(harness.log().await.len(), 8);
}

/// A wrong expectation, or a lost shard, is reported as such.
pub async fn should_report_a_wrong_expectation_about_a_closed_stream(harness: Harness<'_>) {
    let lost = harness.take(1, "first").await.fence();
    harness.let_leases_expire().await;
    harness.take(1, "second").await;
    start(&harness, "r1").await;
    harness.try_append(append("r1", "completed")).await.unwrap();
    for (late, code) in [
        (append("r1", "started").with_expected(Expected::Empty), "CONFLICT"),
        (append("r1", "signaled").with_expected(Expected::Exact(1)), "CONFLICT"),
        (append("r1", "signaled").with_fence(lost), "FENCED"),
    ] {
        assert_eq!(harness.try_append(late).await.unwrap_err().code(), code);
    }
}

/// An append that was stored before the end, or with it, may be repeated.
pub async fn should_answer_a_repetition_after_the_end(harness: Harness<'_>) {
    let started = append("r1", "started");
    let signaled = append("r1", "signaled");
    let completed = append("r1", "completed");
    for append in [&started, &signaled, &completed] {
        harness.try_append(append.clone()).await.unwrap();
    }
    for (append, version) in [(started, 1), (signaled, 2), (completed.clone(), 3)] {
        assert_eq!(harness.try_append(append).await.unwrap(), repeated(version, version));
    }
    let answers = harness.store.append(vec![completed, append("r1", "paused")]).await;
    assert_eq!(answers[0].as_ref().unwrap(), &repeated(3, 3));
    assert_eq!(answers[1].as_ref().unwrap_err().code(), "STREAM_CLOSED");
}

/// An append that stored nothing does not open a stream again.
pub async fn should_stay_closed_after_refused_and_repeated_appends(harness: Harness<'_>) {
    let signaled = append("r1", "signaled");
    start(&harness, "r1").await;
    harness.try_append(signaled.clone()).await.unwrap();
    harness.try_append(append("r1", "completed")).await.unwrap();
    let again = append("r1", "started").with_expected(Expected::Empty);
    assert_eq!(harness.try_append(again).await.unwrap_err().code(), "CONFLICT");
    assert_closed(&harness, append("r1", "signaled")).await;
    assert_eq!(harness.try_append(signaled.clone()).await.unwrap(), repeated(2, 2));
    assert_closed(&harness, append("r1", "signaled")).await;
    let event = signaled.events.into_iter().next().unwrap();
    let elsewhere = Append::new(stream("runs/r1"), vec![of_run("paused"), event]);
    assert_eq!(harness.try_append(elsewhere).await.unwrap_err().code(), "DUPLICATE_EVENT");
    assert_closed(&harness, append("r1", "signaled")).await;
    assert_eq!(harness.log().await.len(), 3);
}

/// The end applies as soon as it is accepted, including to the rest of the same call.
pub async fn should_refuse_appends_after_the_end_in_one_batch(harness: Harness<'_>) {
    start(&harness, "r1").await;
    let batch = vec![
        append("r1", "signaled"),
        append("r1", "failed"),
        append("r1", "signaled"),
        append("r2", "started"),
        append("r1", "completed"),
        append("r2", "signaled"),
    ];
    let answers = harness.store.append(batch).await;
    let codes = answers.iter().map(|answer| answer.as_ref().err().map(StoreError::code));
    let closed = Some("STREAM_CLOSED");
    assert_eq!(codes.collect::<Vec<_>>(), [None, None, closed, None, closed, None]);
    let positions: Vec<_> = answers.iter().flatten().map(|at| at.position).collect();
    assert_eq!(positions, [2, 3, 4, 5]);
}

/// An append of several events ends a run with its last one, or not at all.
pub async fn should_refuse_an_append_with_events_after_the_end(harness: Harness<'_>) {
    let run = stream("runs/r1");
    let late = vec![of_run("started"), of_run("completed"), of_run("signaled")];
    assert_closed(&harness, Append::new(run.clone(), late)).await;
    assert!(harness.log().await.is_empty());
    let whole = Append::new(run.clone(), vec![of_run("started"), of_run("completed")]);
    assert_eq!(
        harness.try_append(whole.with_expected(Expected::Empty)).await.unwrap(),
        stored(2, 2)
    );
    assert_closed(&harness, append("r1", "signaled")).await;
}

/// A final event of another workflow, one in another place, or one of a run that never started.
pub async fn should_stay_open_after_events_that_end_no_run(harness: Harness<'_>) {
    start(&harness, "r1").await;
    for (name, event_type) in [
        ("runs/r1", "workflows.other.completed"),
        ("runs/r1", "agents.deploy.completed"),
        ("runs/r1", "workflows.deploy.blocked"),
        ("runs/never", "workflows.deploy.completed"),
        ("deployments/r1", "workflows.deploy.completed"),
    ] {
        let end = typed(event_type, &json!({}));
        harness.append(name, vec![end]).await;
        harness.append(name, vec![event(1)]).await;
    }
    harness.try_append(append("r1", "completed")).await.unwrap();
    assert_closed(&harness, append("r1", "signaled")).await;
}

/// Of many writers that want to end a run, one succeeds, and their other events are recorded before
/// that.
pub async fn should_let_one_of_many_writers_end_a_run(harness: Harness<'_>) {
    let other =
        if harness.lacks(Capability::SecondHandle) { None } else { Some(harness.connect().await) };
    start(&harness, "r1").await;
    let rivals = (0..40).map(|number| {
        let action = if number % 2 == 0 { "signaled" } else { ENDS[number / 2 % 4] };
        let store = other.as_ref().filter(|_| number % 3 == 0).unwrap_or(&harness.store);
        async move { (action, store.append(vec![append("r1", action)]).await.remove(0)) }
    });
    let answers = join_all(rivals).await;
    let won = answers.iter().filter(|(action, answer)| answer.is_ok() && *action != "signaled");
    assert_eq!(won.count(), 1, "{answers:?}");
    let refused = answers.iter().filter_map(|(_, answer)| answer.as_ref().err());
    assert!(refused.map(StoreError::code).all(|code| code == "STREAM_CLOSED"), "{answers:?}");
    let journal = harness.stream("runs/r1").await;
    let ends = journal.iter().filter(|read| ENDS.contains(&read.event.event_type.action()));
    assert_eq!(ends.map(|read| read.version).collect::<Vec<_>>(), [journal.len() as u64]);
}

/// A writer's cache of a stream does not hide that another writer closed it.
pub async fn should_see_that_another_handle_closed_a_stream(harness: Harness<'_>) {
    if harness.lacks(Capability::SecondHandle) {
        return;
    }
    let other = harness.connect().await;
    for run in ["r1", "r2", "r3"] {
        start(&harness, run).await;
        harness.try_append(append(run, "signaled")).await.unwrap();
        other.append(vec![append(run, "completed")]).await.remove(0).unwrap();
    }
    assert_closed(&harness, append("r1", "step_completed")).await;
    let batch = vec![append("r2", "signaled"), append("r4", "started"), append("r3", "paused")];
    let answers = harness.store.append(batch).await;
    assert!(answers[0].is_err() && answers[1].is_ok() && answers[2].is_err(), "{answers:?}");
    assert_closed(&harness, append("r2", "step_completed")).await;
    assert_eq!(places(&harness.stream("runs/r1").await), [(1, 1), (2, 2), (3, 3)]);
}
