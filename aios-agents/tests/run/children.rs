//! The cancellation of a run reaches its children.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_core::{
    clock::VirtualClock,
    retry::Backoff,
    store::{PageRequest, RunFilter, StoreError},
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    run::races::sneak_in,
    support::{
        faulty::{Fault, FaultyStore, holds, store_unavailable},
        workflows::{actions, eventually, result, runtime, sqlite, store},
    },
};

const CHILDREN: u32 = 30;

async fn parent(context: WorkflowContext, count: u32) -> Result<u32, WorkflowError> {
    let children = (0..count).map(|number| context.child::<u32>("kid", &number));
    join_all(children).await.into_iter().sum()
}

/// A parent, and children that count how often they were compensated.
fn family(store: &Arc<dyn Store>, undone: &Arc<AtomicU32>) -> RuntimeBuilder {
    let undone = Arc::clone(undone);
    let kid = move |context: WorkflowContext, _: u32| {
        let undone = Arc::clone(&undone);
        async move {
            context.compensate("undo", move |context| async move {
                let undo = || async { Ok::<_, TaskError>(undone.fetch_add(1, Ordering::SeqCst)) };
                context.step("undo", undo).await.map(drop)
            });
            context.signal::<u32>("never").await
        }
    };
    runtime(store).workflow("parent", parent).workflow("kid", kid)
}

/// A parent checks its child once in each period, however often it has checked before.
#[tokio::test(flavor = "multi_thread")]
async fn should_check_a_child_once_in_each_period() {
    const PERIODS: usize = 10;
    let hour = Duration::from_secs(3600);
    let clock = VirtualClock::new(Timestamp::now());
    let (inner, undone) = (store(), Arc::default());
    let faulty = FaultyStore::new(inner);
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    // The clock is advanced faster than leases could be renewed.
    let options = EngineOptions::new()
        .with_lease_time(hour * 10_000)
        .with_child_poll_interval(hour)
        .with_relay(false);
    let builder = family(&shared, &undone).engine_options(options);
    let runtime = builder.clock(Arc::new(clock.clone())).start().await.unwrap();
    let _run = runtime.start("parent", &1).await.unwrap();
    all_kids(&shared, "running", 1).await;
    let mut looks = Vec::new();
    for _ in 0..PERIODS {
        let before = faulty.count("runs");
        clock.advance(hour);
        eventually("it looks", || async { faulty.count("runs") > before }).await;
        // Any other check that is due would happen now.
        #[allow(clippy::disallowed_methods, reason = "nothing more must happen meanwhile")]
        tokio::time::sleep(Duration::from_millis(100)).await;
        looks.push(faulty.count("runs") - before);
    }
    assert!(looks[PERIODS - 1] <= looks[0] * 2, "{looks:?}");
}

async fn kids(store: &Arc<dyn Store>, status: &str) -> usize {
    let filter = RunFilter { workflow: Some("kid".to_owned()), ..RunFilter::default() };
    let page = store.runs(&filter, &PageRequest::first(1000)).await.unwrap();
    page.rows.iter().filter(|row| row.status.as_str() == status).count()
}

async fn all_kids(store: &Arc<dyn Store>, status: &str, count: u32) {
    let what = format!("{count} children are {status}");
    let count = usize::try_from(count).unwrap();
    eventually(&what, || async { kids(store, status).await == count }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_children_of_a_cancelled_run() {
    for store in [store(), sqlite().await] {
        let undone = Arc::new(AtomicU32::new(0));
        let runtime = family(&store, &undone).start().await.unwrap();
        let run = runtime.start("parent", &CHILDREN).await.unwrap();
        all_kids(&store, "running", CHILDREN).await;
        run.cancel("enough").await.unwrap();
        assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
        all_kids(&store, "cancelled", CHILDREN).await;
        assert_eq!(undone.load(Ordering::SeqCst), CHILDREN);
    }
}

/// Many children end while others are still being asked to cancel, and all of that uses the same
/// few connections.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_many_children_on_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let file = aios_store::sqlite::SqliteOptions::file(folder.path().join("runs.db"));
    let store = aios_store::sqlite::SqliteStore::connect_with(file).await.unwrap();
    let (store, undone): (Arc<dyn Store>, _) = (Arc::new(store), Arc::default());
    let runtime = family(&store, &undone).start().await.unwrap();
    let run = runtime.start("parent", &200).await.unwrap();
    all_kids(&store, "running", 200).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 200).await;
}

/// Every child that has started when the cancellation arrives is cancelled, and none is started
/// later.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_no_child_running_whenever_the_cancellation_comes() {
    let (store, undone) = (sqlite().await, Arc::default());
    let runtime = family(&store, &undone).start().await.unwrap();
    for millis in [0, 1, 3, 7, 15, 30] {
        let run = runtime.start("parent", &CHILDREN).await.unwrap();
        #[allow(clippy::disallowed_methods, reason = "the cancellation comes when it does")]
        tokio::time::sleep(Duration::from_millis(millis)).await;
        run.cancel("enough").await.unwrap();
        assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    }
    eventually("no child runs", || async {
        kids(&store, "running").await + kids(&store, "cancelling").await == 0
    })
    .await;
}

/// The cancellation arrives before the start of the child is recorded, so that the child belongs to a
/// call that is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_start_a_child_that_is_recorded_after_the_cancellation() {
    for restarts in [false, true] {
        let inner = store();
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let (kind, data) = ("workflows.parent.cancel_requested", json!({ "reason": "enough" }));
        sneak_in(&faulty, &inner, "child_started", kind, data);
        let (store, undone): (Arc<dyn Store>, _) = (faulty, Arc::default());
        let mut runtime = family(&store, &undone).start().await.unwrap();
        let mut run = runtime.start("parent", &1).id("p").await.unwrap();
        if restarts {
            runtime.shutdown(Duration::from_secs(5)).await.unwrap();
            runtime = family(&store, &undone).start().await.unwrap();
            run = runtime.handle("p").await.unwrap();
        }
        assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
        runtime.shutdown(Duration::from_secs(5)).await.unwrap();
        let started = kids(&inner, "running").await + kids(&inner, "cancelling").await;
        assert_eq!(started, 0, "{:?}", actions(&run).await);
    }
}

/// A child that is being started when its parent is cancelled is cancelled with it.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_that_is_being_started() {
    let faulty = FaultyStore::new(store());
    let (arrived, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrives, opens) = (Arc::clone(&arrived), Arc::clone(&gate));
    faulty.on_append(move |append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        let (arrives, opens) = (Arc::clone(&arrives), Arc::clone(&opens));
        (is_kid && holds(append, "started")).then(|| {
            Fault::After(Box::pin(async move {
                arrives.notify_one();
                opens.notified().await;
            }))
        })
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
    let runtime = family(&store, &undone).start().await.unwrap();
    let run = runtime.start("parent", &1).await.unwrap();
    arrived.notified().await;
    run.cancel("enough").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it must not end before: {waiting:?}");
    gate.notify_one();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 1).await;
}

/// The engine dies between the cancellation of the parent and that of its children.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_children_after_a_crash_in_between() {
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        let refuses = is_kid && holds(append, "cancel_requested");
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
    let before = family(&store, &undone).start().await.unwrap();
    let run = before.start("parent", &3).id("p").await.unwrap();
    all_kids(&store, "running", 3).await;
    run.cancel("enough").await.unwrap();
    eventually("the request is recorded", || async {
        actions(&run).await.contains(&"cancel_requested".to_owned())
    })
    .await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it must not end before: {waiting:?}");
    before.shutdown(Duration::from_secs(5)).await.unwrap();
    faulty.heal();

    let after = family(&store, &undone).start().await.unwrap();
    let run = after.handle("p").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 3).await;
    assert_eq!(undone.load(Ordering::SeqCst), 3);
}

/// A request whose response was lost is repeated, and recorded once.
#[tokio::test(flavor = "multi_thread")]
async fn should_ask_each_child_once() {
    let faulty = FaultyStore::new(store());
    let lost = AtomicBool::new(false);
    faulty.on_append(move |append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        let loses =
            is_kid && holds(append, "cancel_requested") && !lost.swap(true, Ordering::SeqCst);
        loses.then(|| Fault::LoseResponse(store_unavailable()))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), faulty);
    let runtime = family(&store, &undone).start().await.unwrap();
    let run = runtime.start("parent", &1).await.unwrap();
    all_kids(&store, "running", 1).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 1).await;
    let log = store.read_log(0, 1000).await.unwrap();
    let is_request = |kind: &str| kind == "workflows.kid.cancel_requested";
    let requests = log.iter().filter(|it| is_request(it.event.event_type.as_str())).count();
    assert_eq!(requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_a_child_running_if_requested() {
    async fn detached(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.child("kid", &1).leave_running().await
    }
    let (store, undone) = (store(), Arc::default());
    let builder = family(&store, &undone).workflow("detached", detached);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("detached", &()).await.unwrap();
    all_kids(&store, "running", 1).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    assert_eq!(kids(&store, "running").await, 1);
    assert_eq!(undone.load(Ordering::SeqCst), 0);
}

/// The children of compensations have to finish, even if the run is cancelled while it compensates
/// after a failure.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_cancel_the_children_of_the_compensations_of_a_failure() {
    async fn failing(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.compensate("undo", |context| async move {
            let child = context.child::<u32>("undo", &()).id("undo");
            let seen = async {
                context.signal::<()>("look").await?;
                context.run("seen", || async {}).await
            };
            let (undone, seen) = futures_util::future::join(child, seen).await;
            undone.and(seen)
        });
        Err(WorkflowError::failed(Failure::new("SOLD_OUT", "nothing is left")))
    }
    async fn undo(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("done").await
    }
    for restarts in [false, true] {
        let store = store();
        let build = || runtime(&store).workflow("failing", failing).workflow("undo", undo).start();
        let mut runtime = build().await.unwrap();
        let mut run = runtime.start("failing", &()).id("p").await.unwrap();
        eventually("it compensates", || async { runtime.handle("undo").await.is_ok() }).await;
        run.cancel("enough").await.unwrap();
        run.signal("look", &()).await.unwrap();
        eventually("it has seen the request", || async {
            actions(&run).await.contains(&"step_completed".to_owned())
        })
        .await;
        if restarts {
            runtime.shutdown(Duration::from_secs(5)).await.unwrap();
            runtime = build().await.unwrap();
            run = runtime.handle("p").await.unwrap();
        }
        let undo = runtime.handle("undo").await.unwrap();
        assert_eq!(undo.status().await.unwrap().status.as_str(), "running");
        undo.signal("done", &1).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert_eq!(error.code(), "SOLD_OUT");
        assert_eq!(error.failure().unwrap().details, aios_core::failure::Details::default());
        assert_eq!(result::<u32>(&undo).await.unwrap(), 1);
    }
}

/// A compensation drops the call of its child, in a run that was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_whose_call_a_compensation_drops() {
    async fn undoing(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.compensate("undo", |context| async move {
            let child = context.child::<u32>("kid", &1).cancel_when_dropped();
            select! {
                _ = child => {}
                _ = context.signal::<()>("go") => {}
            }
            Ok(())
        });
        context.signal("never").await
    }
    let (store, undone) = (store(), Arc::default());
    let builder = family(&store, &undone).workflow("undoing", undoing);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("undoing", &()).await.unwrap();
    run.cancel("enough").await.unwrap();
    all_kids(&store, "running", 1).await;
    run.signal("go", &()).await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 1).await;
}

/// Leaves a child that survives its cancellation when it gets a signal.
async fn leaving(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let child = context.child::<u32>("kid", &1).leave_running().cancel_when_dropped();
    select! {
        _ = child => {}
        _ = context.signal::<()>("go") => {}
    }
    Ok(7)
}

/// A child that survives the cancellation of its parent ends when its call is dropped for another
/// reason.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_dropped_child_that_may_outlive_its_parent() {
    let (store, undone) = (store(), Arc::default());
    let builder = family(&store, &undone).workflow("leaving", leaving);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("leaving", &()).await.unwrap();
    all_kids(&store, "running", 1).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "running", 1).await;

    let run = runtime.start("leaving", &()).await.unwrap();
    all_kids(&store, "running", 2).await;
    run.signal("go", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    all_kids(&store, "cancelled", 1).await;
    all_kids(&store, "running", 1).await;
}

/// The call of such a child is dropped before a start of it has succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_without_a_dropped_child_that_may_outlive_its_parent() {
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        let refuses = is_kid && holds(append, "started");
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
    let options = EngineOptions::new().with_backoff(backoff);
    let builder = family(&store, &undone).engine_options(options).workflow("leaving", leaving);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("leaving", &()).await.unwrap();
    eventually("the start is recorded", || async {
        actions(&run).await.contains(&"child_started".to_owned())
    })
    .await;
    run.signal("go", &()).await.unwrap();
    eventually("the signal is taken", || async {
        actions(&run).await.contains(&"signaled".to_owned())
    })
    .await;
    faulty.heal();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    assert_eq!(kids(&store, "running").await, 0);
}

/// A child whose call lost a race is still a child.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_whose_call_was_dropped() {
    async fn racing(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let child = context.child::<u32>("kid", &1);
        let nap = context.sleep(Duration::from_millis(20));
        tokio::select! {
            biased;
            _ = child => {}
            _ = nap => {}
        }
        context.signal("never").await
    }
    let (store, undone) = (store(), Arc::default());
    let runtime = family(&store, &undone).workflow("racing", racing).start().await.unwrap();
    let run = runtime.start("racing", &()).await.unwrap();
    eventually("the timer fires", || async {
        actions(&run).await.contains(&"timer_fired".to_owned())
    })
    .await;
    assert_eq!(kids(&store, "running").await, 1, "the child continues");
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    all_kids(&store, "cancelled", 1).await;
}

/// A child that is cancelled when its call is dropped, and a run that ends at once or waits.
async fn dropping(context: WorkflowContext, waits: bool) -> Result<u32, WorkflowError> {
    let child = context.child::<u32>("kid", &1).cancel_when_dropped();
    let go = context.signal::<()>("go");
    tokio::select! {
        biased;
        _ = child => {}
        _ = go => {}
    }
    if waits { context.signal("never").await } else { Ok(7) }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_when_its_call_is_dropped() {
    for waits in [true, false] {
        let (store, undone) = (store(), Arc::default());
        let builder = family(&store, &undone).workflow("dropping", dropping);
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("dropping", &waits).await.unwrap();
        all_kids(&store, "running", 1).await;
        run.signal("go", &()).await.unwrap();
        all_kids(&store, "cancelled", 1).await;
        assert_eq!(undone.load(Ordering::SeqCst), 1);
        if !waits {
            assert_eq!(result::<u32>(&run).await.unwrap(), 7);
        }
    }
}

/// The engine dies between the drop of a call and the cancellation of its child.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_whose_call_was_dropped_before_a_crash() {
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        let refuses = is_kid && holds(append, "cancel_requested");
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
    let builder = || family(&store, &undone).workflow("dropping", dropping);
    let before = builder().start().await.unwrap();
    let run = before.start("dropping", &false).id("p").await.unwrap();
    all_kids(&store, "running", 1).await;
    run.signal("go", &()).await.unwrap();
    eventually("the signal is taken", || async {
        actions(&run).await.contains(&"signaled".to_owned())
    })
    .await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it must not end before: {waiting:?}");
    before.shutdown(Duration::from_secs(5)).await.unwrap();
    faulty.heal();

    let after = builder().start().await.unwrap();
    let run = after.handle("p").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    all_kids(&store, "cancelled", 1).await;
}

/// Starts two children, and cancels one at each signal.
async fn dropping_two(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let child = |id| context.child::<u32>("kid", &1).id(id).cancel_when_dropped();
    let (one, mut two) = (child("one"), child("two"));
    select! {
        _ = one => {}
        _ = &mut two => {}
        _ = context.signal::<()>("go") => {}
    }
    select! {
        _ = two => {}
        _ = context.signal::<()>("go") => {}
    }
    Ok(7)
}

/// The start of a child takes longer than the cancellation of another one, and of itself.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_whose_call_is_dropped_while_it_is_being_started() {
    let faulty = FaultyStore::new(store());
    let gate = Arc::new(Notify::new());
    let opens = Arc::clone(&gate);
    faulty.on_append(move |append| {
        let opens = Arc::clone(&opens);
        let is_start = append.stream.as_str() == "runs/two" && append.events.len() == 1;
        (is_start && holds(append, "started"))
            .then(|| Fault::After(Box::pin(async move { opens.notified().await })))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), faulty);
    let builder = family(&store, &undone).workflow("dropping_two", dropping_two);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("dropping_two", &()).await.unwrap();
    all_kids(&store, "running", 1).await;
    for signals in 1..=2 {
        run.signal("go", &()).await.unwrap();
        eventually("the signal is taken", || async {
            actions(&run).await.iter().filter(|it| **it == "signaled").count() == signals
        })
        .await;
    }
    // Both cancellations are waiting, or have passed.
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it must not end before: {waiting:?}");
    gate.notify_one();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    all_kids(&store, "cancelled", 2).await;
}

/// An append of an engine that lost the run may reach the store when its successor has cancelled the
/// child.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_child_whose_start_by_a_previous_engine_is_delayed() {
    let store = store();
    let faulty = FaultyStore::new(Arc::clone(&store));
    let delayed = Arc::new(Mutex::new(None));
    let delays = Arc::clone(&delayed);
    faulty.on_append(move |append| {
        let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
        (is_kid && holds(append, "started")).then(|| {
            delays.lock().unwrap().replace(append.clone());
            Fault::Refuse(store_unavailable())
        })
    });
    let undone = Arc::default();
    let before = family(&(faulty as _), &undone).start().await.unwrap();
    before.start("parent", &1).id("p").await.unwrap();
    eventually("the child is being started", || async { delayed.lock().unwrap().is_some() }).await;
    before.shutdown(Duration::from_secs(5)).await.unwrap();

    // The next engine finds the run cancelled, so it does not start the child.
    let client = runtime(&store).client_only().start().await.unwrap();
    client.handle("p").await.unwrap().cancel("enough").await.unwrap();
    let after = family(&store, &undone).start().await.unwrap();
    let run = after.handle("p").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    let start = delayed.lock().unwrap().take().unwrap();
    assert!(matches!(store.append_one(start).await, Err(StoreError::Conflict { .. })));
    all_kids(&store, "cancelled", 1).await;
}

/// A parent learns at once that a child has ended which was cancelled while it was blocked.
#[tokio::test(flavor = "multi_thread")]
async fn should_tell_a_parent_of_the_end_of_a_child_that_was_blocked() {
    async fn waits(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.child("breaks", &()).id("c").await
    }
    async fn breaks(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        panic!("out of order")
    }
    let options = EngineOptions::new().with_child_poll_interval(Duration::from_secs(3600));
    let builder = runtime(&store()).engine_options(options);
    let runtime = builder.workflow("waits", waits).workflow("breaks", breaks).start().await;
    let runtime = runtime.unwrap();
    let parent = runtime.start("waits", &()).await.unwrap();
    let child = || async { runtime.handle("c").await.ok()?.status().await.ok() };
    let is_blocked = || async { child().await.is_some_and(|it| it.status.as_str() == "blocked") };
    eventually("the child is blocked", is_blocked).await;
    runtime.handle("c").await.unwrap().cancel("enough").await.unwrap();
    assert!(result::<u32>(&parent).await.is_err());
}

/// A child whose start is in the journal is started, although its call was dropped before that succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn should_start_a_child_whose_call_was_dropped_before_a_failed_start_is_repeated() {
    async fn leaving(context: WorkflowContext, waits: bool) -> Result<u32, WorkflowError> {
        let child = context.child::<u32>("kid", &1).leave_running();
        select! {
            _ = child => {}
            _ = context.signal::<()>("go") => {}
        }
        if waits { context.signal("never").await } else { Ok(7) }
    }
    for (restarts, waits) in [(false, false), (false, true), (true, false), (true, true)] {
        let faulty = FaultyStore::new(store());
        faulty.on_append(|append| {
            let is_kid = append.events.iter().any(|event| event.event_type.entity() == "kid");
            let refuses = is_kid && holds(append, "started");
            refuses.then(|| Fault::Refuse(store_unavailable()))
        });
        let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
        let build = || {
            let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
            let options = EngineOptions::new().with_backoff(backoff);
            family(&store, &undone).engine_options(options).workflow("leaving", leaving).start()
        };
        let mut runtime = build().await.unwrap();
        let mut run = runtime.start("leaving", &waits).id("p").await.unwrap();
        eventually("the start is recorded", || async {
            actions(&run).await.contains(&"child_started".to_owned())
        })
        .await;
        run.signal("go", &()).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
        assert!(waiting.is_err(), "it must not end before: {waiting:?}");
        if restarts {
            runtime.shutdown(Duration::from_secs(5)).await.unwrap();
            faulty.heal();
            runtime = build().await.unwrap();
            run = runtime.handle("p").await.unwrap();
        } else {
            faulty.heal();
        }
        all_kids(&store, "running", 1).await;
        if !waits {
            assert_eq!(result::<u32>(&run).await.unwrap(), 7);
        }
        drop(runtime);
    }
}

/// A run whose compensation panics is blocked, and not before the child that its code has dropped is asked
/// to end too. Cancelled again, it ends.
#[tokio::test(flavor = "multi_thread")]
async fn should_ask_a_dropped_child_to_end_before_a_cancelled_run_is_blocked() {
    async fn breaking(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.compensate("break", |_| async { panic!("out of order") });
        let dropped = context.child::<u32>("kid", &1).id("dropped").cancel_when_dropped();
        let kept = context.child::<u32>("kid", &1);
        select! {
            _ = dropped => {}
            _ = context.signal::<()>("go") => {}
        }
        kept.await
    }
    let faulty = FaultyStore::new(store());
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), Arc::clone(&faulty) as _);
    let runtime = family(&store, &undone).workflow("breaking", breaking).start().await.unwrap();
    let run = runtime.start("breaking", &()).await.unwrap();
    all_kids(&store, "running", 1).await;
    faulty.on_append(|append| {
        let is_dropped = append.stream.as_str() == "runs/dropped";
        let refuses = is_dropped && holds(append, "cancel_requested");
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    run.signal("go", &()).await.unwrap();
    all_kids(&store, "running", 2).await;
    run.cancel("enough").await.unwrap();
    all_kids(&store, "cancelled", 1).await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it must not be blocked before: {waiting:?}");
    faulty.heal();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Blocked { .. })));
    all_kids(&store, "cancelled", 2).await;
    run.cancel("for good").await.unwrap();
    eventually("it is cancelled", || async {
        run.status().await.unwrap().status.as_str() == "cancelled"
    })
    .await;
}

/// Children of a run whose code no longer fits are cancelled with it.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_children_of_a_blocked_run() {
    async fn changed(context: WorkflowContext, _: u32) -> Result<u32, WorkflowError> {
        context.step("other", || async { Ok::<_, TaskError>(1) }).await
    }
    let (store, undone) = (store(), Arc::default());
    let before = family(&store, &undone).start().await.unwrap();
    let run = before.start("parent", &2).id("p").await.unwrap();
    all_kids(&store, "running", 2).await;
    drop(run);
    before.shutdown(Duration::from_secs(5)).await.unwrap();

    let kid =
        |context: WorkflowContext, _: u32| async move { context.signal::<u32>("never").await };
    let builder = runtime(&store).workflow("parent", changed).workflow("kid", kid);
    let after = builder.start().await.unwrap();
    let run = after.handle("p").await.unwrap();
    eventually("it is blocked", || async {
        run.status().await.unwrap().status.as_str() == "blocked"
    })
    .await;
    run.cancel("enough").await.unwrap();
    eventually("it is cancelled", || async {
        run.status().await.unwrap().status.as_str() == "cancelled"
    })
    .await;
    all_kids(&store, "cancelled", 2).await;
}

/// The result of a child is slightly larger in its parent's journal, and may be too large there.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_for_a_child_result_of_any_size() {
    async fn large(_: WorkflowContext, bytes: usize) -> Result<String, WorkflowError> {
        Ok("x".repeat(bytes))
    }
    async fn asks(context: WorkflowContext, bytes: usize) -> Result<usize, WorkflowError> {
        Ok(context.child::<String>("large", &bytes).await?.len())
    }
    let options = aios_store::memory::MemoryOptions::new().with_max_event_bytes(1000);
    let store: Arc<dyn Store> =
        Arc::new(aios_store::memory::MemoryStore::connect_with(options).unwrap());
    let builder = runtime(&store).workflow("large", large).workflow("asks", asks);
    let runtime = builder.start().await.unwrap();
    let mut failed = 0;
    for bytes in (500..1100).step_by(4) {
        let run = runtime.start("asks", &bytes).await.unwrap();
        match result::<usize>(&run).await {
            Ok(found) => assert_eq!(found, bytes),
            Err(error) => {
                assert_eq!(error.code(), "EVENT_TOO_LARGE", "{bytes}: {error:?}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
}

/// A child ends while the journal of its parent can't be read, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_for_others_if_the_journal_of_a_parent_or_a_child_can_not_be_read() {
    async fn asks(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.child("gives", &()).id("kid").await
    }
    async fn gives(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("number").await
    }
    for spoiled in ["runs/p", "runs/kid"] {
        let inner = store();
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let options = EngineOptions::new()
            .with_lease_time(Duration::from_secs(15))
            .with_child_poll_interval(Duration::from_millis(50));
        let builder = runtime(&shared).engine_options(options);
        let builder = builder.workflow("asks", asks).workflow("gives", gives);
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("asks", &()).id("p").await.unwrap();
        eventually("the child runs", || async { runtime.handle("kid").await.is_ok() }).await;
        let kid = runtime.handle("kid").await.unwrap();
        let log = inner.read_log(0, 1000).await.unwrap();
        let first = log.iter().find(|it| it.stream.as_str() == spoiled).unwrap().position;
        faulty.spoil_everywhere([first]);
        let stream = spoiled.parse().unwrap();
        faulty.take_streams();
        if spoiled == "runs/p" {
            kid.signal("number", &5).await.unwrap();
        }
        eventually("it is read", || async { faulty.take_streams().contains(&stream) }).await;
        let other = runtime.start("gives", &()).id("other").await.unwrap();
        other.signal("number", &6).await.unwrap();
        assert_eq!(result::<u32>(&other).await.unwrap(), 6);
        assert_eq!(runtime.failure(), None, "{spoiled}");

        faulty.spoil([]);
        if spoiled == "runs/kid" {
            kid.signal("number", &5).await.unwrap();
        }
        for blocked in [&kid, &run] {
            // Fails if it has ended.
            drop(blocked.resume().await);
        }
        eventually("the parent continues", || async {
            run.status().await.unwrap().status.as_str() == "completed"
        })
        .await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 5, "{spoiled}");
    }
}

/// The id of a child that will be started may already belong to an unrelated run.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_cancel_an_unrelated_run() {
    async fn named(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let child = context.child::<u32>("kid", &1).id("foreign");
        child.await.or(Ok::<_, WorkflowError>(0))?;
        context.signal("never").await
    }
    let (store, undone) = (store(), Arc::default());
    let runtime = family(&store, &undone).workflow("named", named).start().await.unwrap();
    let foreign = runtime.start("kid", &1).id("foreign").await.unwrap();
    let run = runtime.start("named", &()).await.unwrap();
    eventually("the child fails", || async {
        actions(&run).await.contains(&"child_ended".to_owned())
    })
    .await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    assert_eq!(foreign.status().await.unwrap().status.as_str(), "running");
}

/// A child that has continued as another run is cancelled as that run.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_successor_of_a_child() {
    async fn rounds(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        if round < 3 {
            return Err(WorkflowError::continue_as_new(&(round + 1)));
        }
        context.signal("never").await
    }
    async fn keeps(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.child("rounds", &0).id("kept").await
    }
    let store = store();
    let builder = runtime(&store).workflow("rounds", rounds).workflow("keeps", keeps);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("keeps", &()).await.unwrap();
    eventually("the last round waits", || async {
        let Ok(kept) = runtime.handle("kept").await else { return false };
        kept.status().await.unwrap().id.ends_with("~r4")
    })
    .await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    let kept = runtime.handle("kept").await.unwrap();
    assert!(matches!(result::<u32>(&kept).await, Err(RunError::Cancelled { .. })));
}

async fn broken(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    panic!("not written yet")
}

/// A parent says which child holds it up: one that is blocked or paused.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_which_child_a_run_waits_for() {
    let store = store();
    let of_broken = |context: WorkflowContext, (): ()| async move {
        context.child::<()>("broken", &()).id("build-7").await
    };
    let builder = family(&store, &Arc::default()).workflow("of_broken", of_broken);
    let runtime = builder.workflow("broken", broken).start().await.unwrap();
    let waits_for = async |run: &RunHandle| run.status().await.unwrap().waits_for;

    let run = runtime.start("of_broken", &()).await.unwrap();
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    let reason = waits_for(&run).await.unwrap();
    assert!(reason.starts_with("child broken \"build-7\" is blocked: "), "{reason}");
    assert!(reason.contains("not written yet"), "{reason}");

    let run = runtime.start("parent", &1).id("p").await.unwrap();
    all_kids(&store, "running", 1).await;
    assert_eq!(waits_for(&run).await, None);
    let filter = RunFilter { workflow: Some("kid".to_owned()), ..RunFilter::default() };
    let kids = store.runs(&filter, &PageRequest::first(1)).await.unwrap().rows;
    let kid = runtime.handle(&kids[0].id).await.unwrap();
    kid.pause().await.unwrap();
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    let expected = format!("child kid {:?} is paused", kids[0].id);
    assert_eq!(waits_for(&run).await.as_deref(), Some(&*expected));
    kid.resume().await.unwrap();
    eventually("it continues", || async { waits_for(&run).await.is_none() }).await;
}
