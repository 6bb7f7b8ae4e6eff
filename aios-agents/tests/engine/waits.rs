//! Waiting runs use no memory and cost little at a takeover, and none of them is forgotten.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_core::{
    clock::VirtualClock,
    store::{PageRequest, RunStatus, Shard, Unsettled},
};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::support::{
    faulty::{Fault, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, eventually, result, runtime, store},
};

const HOUR: Duration = Duration::from_secs(3600);
/// More waiting runs than an engine reads at once.
const MANY: usize = 1500;

async fn signaled(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

async fn sleeper(context: WorkflowContext, spans: Vec<u64>) -> Result<usize, WorkflowError> {
    for span in &spans {
        context.sleep(Duration::from_secs(*span)).await?;
    }
    Ok(spans.len())
}

/// A store that counts its calls, and the same store as a runtime takes it.
fn counted() -> (Arc<FaultyStore>, Arc<dyn Store>) {
    let faulty = FaultyStore::new(store());
    (Arc::clone(&faulty), faulty)
}

async fn open(store: &Arc<dyn Store>) -> Runtime {
    runtime(store)
        .workflow("signaled", signaled)
        .workflow("sleeper", sleeper)
        .start()
        .await
        .unwrap()
}

async fn open_at(store: &Arc<dyn Store>, clock: &VirtualClock) -> Runtime {
    let builder = runtime(store).workflow("signaled", signaled).workflow("sleeper", sleeper);
    // The clock is advanced faster than leases could be renewed.
    let options = EngineOptions::new().with_lease_time(HOUR * 1000);
    builder.engine_options(options).clock(Arc::new(clock.clone())).start().await.unwrap()
}

/// Starts runs that wait for a signal.
async fn start_signaled(runtime: &Runtime, count: usize) -> Vec<RunHandle> {
    let starts = (0..count).map(|_| async { runtime.start("signaled", &()).await.unwrap() });
    join_all(starts).await
}

async fn start_sleepers(runtime: &Runtime, count: usize, spans: &[u64]) -> Vec<RunHandle> {
    let starts = (0..count).map(|_| async { runtime.start("sleeper", spans).await.unwrap() });
    join_all(starts).await
}

async fn handles(runtime: &Runtime, runs: &[RunHandle]) -> Vec<RunHandle> {
    join_all(runs.iter().map(|run| async { runtime.handle(run.id()).await.unwrap() })).await
}

/// Waits until the waits of runs that were just started are recorded. The next owner reads the others.
async fn rest(store: &Arc<dyn Store>) {
    let waits_are_recorded = || async { unnoted(store).await.is_empty() };
    eventually("their waits are recorded", waits_are_recorded).await;
}

/// The runs whose wait is not recorded.
async fn unnoted(store: &Arc<dyn Store>) -> Vec<String> {
    let shards: Vec<_> = Shard::all().collect();
    let waits = store.waits().unwrap();
    let page = PageRequest::default();
    waits.unsettled_runs(&shards, Unsettled::Unnoted, &page).await.unwrap().rows
}

/// Waits until nothing more is read.
async fn quiet(store: &FaultyStore) -> usize {
    let read = Mutex::new(HashSet::new());
    let since = AtomicUsize::new(0);
    eventually("the engine comes to rest", || async {
        let new = store.take_streams();
        let is_quiet = new.is_empty();
        read.lock().unwrap().extend(new);
        match is_quiet {
            true => since.fetch_add(1, Ordering::Relaxed) > 100,
            false => {
                since.store(0, Ordering::Relaxed);
                false
            }
        }
    })
    .await;
    read.into_inner().unwrap().len()
}

async fn all_completed(runs: &[RunHandle]) -> bool {
    let rows = join_all(runs.iter().map(RunHandle::status)).await;
    rows.into_iter().all(|row| row.unwrap().status == RunStatus::Completed)
}

async fn all_take_a_signal(runs: &[RunHandle]) {
    join_all(runs.iter().map(|run| async { run.signal("go", &7).await.unwrap() })).await;
    for run in runs {
        assert_eq!(result::<u32>(run).await.unwrap(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_few_of_many_waiting_runs_and_still_wake_each() {
    let (faulty, store) = counted();
    let before = open(&store).await;
    let runs = start_signaled(&before, MANY).await;
    rest(&store).await;
    before.shutdown(PATIENCE).await.unwrap();
    faulty.take_streams();
    let after = open(&store).await;
    let read = quiet(&faulty).await;
    assert!(read < MANY - 300, "{read} of {MANY} waiting runs were read");
    all_take_a_signal(&handles(&after, &runs).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_find_signals_that_arrived_while_no_engine_owned_the_runs() {
    let (_, store) = counted();
    let before = open(&store).await;
    let runs = start_signaled(&before, MANY).await;
    before.shutdown(PATIENCE).await.unwrap();
    let outside = runtime(&store).client_only().start().await.unwrap();
    for run in handles(&outside, &runs).await {
        run.signal("go", &7).await.unwrap();
    }
    let after = open(&store).await;
    for run in handles(&after, &runs).await {
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wake_noted_runs_when_they_fall_due() {
    let (faulty, store) = counted();
    let before = open(&store).await;
    let runs = start_sleepers(&before, MANY, &[3600]).await;
    let later = before.start("sleeper", &vec![7200_u64]).await.unwrap();
    rest(&store).await;
    before.shutdown(PATIENCE).await.unwrap();
    faulty.take_streams();
    let clock = VirtualClock::new(Timestamp::now());
    let after = open_at(&store, &clock).await;
    let read = quiet(&faulty).await;
    assert!(read < MANY - 300, "{read} of {MANY} waiting runs were read");
    clock.advance(HOUR + Duration::from_secs(10));
    for run in handles(&after, &runs).await {
        assert_eq!(result::<usize>(&run).await.unwrap(), 1);
    }
    let later = after.handle(later.id()).await.unwrap();
    assert_eq!(later.status().await.unwrap().status, RunStatus::Running);
    clock.advance(HOUR);
    assert_eq!(result::<usize>(&later).await.unwrap(), 1);
}

/// Durations around the ones from which a run is registered as waiting, and for which due runs are
/// loaded ahead.
#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_timer_however_long_it_is() {
    let (faulty, store) = counted();
    let clock = VirtualClock::new(Timestamp::now());
    let runtime = open_at(&store, &clock).await;
    let mut runs = Vec::new();
    for spans in [&[3, 30, 45, 2][..], &[70, 61, 20], &[600], &[19, 21, 59], &[130, 1, 130]] {
        runs.extend(start_sleepers(&runtime, 20, spans).await);
    }
    let waiting = start_signaled(&runtime, 20).await;
    eventually("every run ends", || async {
        clock.advance(Duration::from_millis(700));
        all_completed(&runs).await
    })
    .await;
    assert!(faulty.count("note_waits") > 0 && faulty.count("due_runs") > 1);
    for run in &runs {
        let spans = result::<usize>(run).await.unwrap();
        let fired = crate::support::workflows::actions(run).await;
        assert_eq!(fired.iter().filter(|action| *action == "timer_fired").count(), spans);
    }
    all_take_a_signal(&waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_work_without_registered_waits() {
    let (faulty, store) = counted();
    faulty.on_call(|method| (*method == "note_waits").then(|| Fault::Refuse(store_refuses())));
    let clock = VirtualClock::new(Timestamp::now());
    let before = open_at(&store, &clock).await;
    let mut runs = start_sleepers(&before, 20, &[90]).await;
    eventually("notes are refused", || async {
        clock.advance(Duration::from_millis(100));
        faulty.count("note_waits") > 0
    })
    .await;
    clock.advance(Duration::from_secs(100));
    for run in &runs {
        assert_eq!(result::<usize>(run).await.unwrap(), 1);
    }
    runs = start_sleepers(&before, 20, &[90]).await;
    let waiting = start_signaled(&before, 20).await;
    drop(before);
    store.release(&store.leases().await.unwrap()).await.unwrap();
    let after = open_at(&store, &clock).await;
    let runs = handles(&after, &runs).await;
    eventually("every run ends", || async {
        clock.advance(Duration::from_secs(1));
        all_completed(&runs).await
    })
    .await;
    all_take_a_signal(&handles(&after, &waiting).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_register_waits_and_load_ahead_again_after_the_store_was_away() {
    let (faulty, store) = counted();
    let away = |method: &&'static str| {
        let fails = ["note_waits", "forget_waits", "due_runs", "unsettled_runs"].contains(method);
        fails.then(|| Fault::Refuse(store_unavailable()))
    };
    let before = open(&store).await;
    let runs = start_sleepers(&before, 50, &[3600]).await;
    before.shutdown(PATIENCE).await.unwrap();
    faulty.on_call(away);
    let clock = VirtualClock::new(Timestamp::now());
    let after = open_at(&store, &clock).await;
    eventually("the store was asked", || async { faulty.count("due_runs") > 1 }).await;
    faulty.heal();
    let runs = handles(&after, &runs).await;
    eventually("every run ends", || async {
        clock.advance(Duration::from_secs(60));
        all_completed(&runs).await
    })
    .await;
}

#[allow(clippy::disallowed_methods, reason = "a test slows a real store down")]
#[tokio::test(flavor = "multi_thread")]
async fn should_read_many_journals_together() {
    let (faulty, store) = counted();
    faulty.on_call(|method| (*method == "note_waits").then(|| Fault::Refuse(store_refuses())));
    let before = open(&store).await;
    let runs = start_signaled(&before, 500).await;
    before.shutdown(PATIENCE).await.unwrap();
    let calls = || faulty.count("read_stream") + faulty.count("read_streams");
    let (begun, _) = (calls(), faulty.take_streams());
    faulty.on_call(|method| {
        let pause = || async { tokio::time::sleep(Duration::from_millis(5)).await };
        method.starts_with("read_stream").then(|| Fault::After(Box::pin(pause())))
    });
    let after = open(&store).await;
    let read = quiet(&faulty).await;
    assert!(read >= runs.len(), "{read} journals were read");
    assert!(calls() - begun < runs.len() / 2, "{} calls", calls() - begun);
    all_take_a_signal(&handles(&after, &runs).await).await;
}

/// A deadline that no journal has. It would be lost when the run leaves memory.
async fn impatient(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    #[allow(clippy::disallowed_methods, reason = "what no workflow may do")]
    let limited = tokio::time::timeout(HOUR, context.signal("go"));
    limited.await.unwrap_or(Ok(0))
}

/// Branches that share a channel, which keeps a waker as a timer does. A replay repeats them.
async fn linked(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let (sender, receiver) = oneshot::channel();
    let sends = async {
        sender.send(context.signal::<u32>("go").await?).expect("the other branch waits");
        Ok::<_, WorkflowError>(())
    };
    let (sent, received) = aios_agents::join!(sends, receiver);
    sent?;
    Ok(received?)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_that_waits_beside_a_foreign_timer_when_it_would_leave_memory() {
    let (store, clock) = (store(), VirtualClock::new(Timestamp::now()));
    let options = EngineOptions::new().with_lease_time(HOUR * 1000);
    let builder = runtime(&store).workflow("impatient", impatient).workflow("linked", linked);
    let builder = builder.engine_options(options).clock(Arc::new(clock.clone()));
    let runtime = builder.start().await.unwrap();
    let linked = runtime.start("linked", &()).await.unwrap();
    let impatient = runtime.start("impatient", &()).await.unwrap();
    eventually("the run is blocked", || async {
        clock.advance(Duration::from_secs(1));
        impatient.status().await.unwrap().status == RunStatus::Blocked
    })
    .await;
    let error = result::<u32>(&impatient).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "FOREIGN_AWAIT");
    eventually("the other run leaves memory", || async {
        clock.advance(Duration::from_secs(1));
        !unnoted(&store).await.contains(&linked.id().to_owned())
    })
    .await;
    linked.signal("go", &7_u32).await.unwrap();
    assert_eq!(result::<u32>(&linked).await.unwrap(), 7);
}
