use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    projection::{Batch, Projection, StartProjection},
};
use aios_core::store::{Append, StreamId};

use aios_store::{
    Retention,
    memory::{MemoryOptions, MemoryStore},
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::{
    faulty::{Fault, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, eventually, quick, runtime, sqlite, store},
};

/// The orders that a projection has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u64>>>);

impl Seen {
    fn add(&self, batch: &Batch) -> Result<(), TaskError> {
        let numbers: Result<Vec<u64>, _> =
            batch.events().iter().map(|recorded| recorded.event.data()).collect();
        self.0.lock().unwrap().extend(numbers?);
        Ok(())
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    async fn reach(&self, count: usize) {
        eventually("the projection should catch up", || async { self.all().len() >= count }).await;
    }
}

async fn place(store: &Arc<dyn Store>, orders: impl IntoIterator<Item = u64>) {
    for number in orders {
        for event_type in ["orders.order.placed", "users.user.seen"] {
            let event = Event::new(event_type.parse().unwrap(), "shop", &number).unwrap();
            let stream = StreamId::new(format!("orders/{number}")).unwrap();
            store.append_one(Append::new(stream, vec![event])).await.unwrap();
        }
    }
}

/// A projection whose code never yields.
fn applying(
    apply: impl Fn(Batch) -> Result<(), TaskError> + Send + Sync + 'static,
) -> impl Projection {
    move |batch| std::future::ready(apply(batch))
}

/// A projection whose view can't be written. Counts the attempts.
fn unavailable(tries: &Arc<AtomicU64>) -> impl Projection + use<> {
    let tries = Arc::clone(tries);
    applying(move |_| {
        tries.fetch_add(1, Ordering::SeqCst);
        Err(TaskError::retryable(Failure::new("VIEW", "the view is not available")))
    })
}

/// Retries soon, and without end.
fn without_end() -> RetryPolicy {
    RetryPolicy::fixed(u32::MAX, Duration::from_millis(5))
}

fn orders() -> [Pattern; 1] {
    ["orders.#".parse().unwrap()]
}

pub(crate) async fn check_restart(store: Arc<dyn Store>) {
    let seen = Seen::default();
    place(&store, 0..5).await;
    for round in 0..2 {
        let first = runtime(&store).start().await.unwrap();
        let adding = seen.clone();
        let handle = first
            .projection("orders", applying(move |batch| adding.add(&batch)))
            .patterns(orders())
            .batch_size(2)
            .await
            .unwrap();
        let from = 5 + round * 5;
        place(&store, from..from + 5).await;
        seen.reach(usize::try_from(from + 5).unwrap()).await;
        eventually("the lag should go", || async { handle.lag().await.unwrap() <= 4 }).await;
        first.shutdown(PATIENCE).await.unwrap();
    }
    assert_eq!(seen.all(), (0..15).collect::<Vec<_>>(), "each once and in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_apply_matching_events_once_and_in_order_across_restarts_in_memory() {
    check_restart(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_apply_matching_events_once_and_in_order_across_restarts_on_sqlite() {
    check_restart(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_have_no_lag_once_the_log_is_quiet() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let seen = Seen::default();
    let adding = seen.clone();
    let handle = runtime
        .projection("orders", applying(move |batch| adding.add(&batch)))
        .patterns(orders())
        .await
        .unwrap();
    place(&store, 0..3).await;
    seen.reach(3).await;
    // It does not match, so that no batch saves its position.
    let event = Event::new("users.user.left".parse().unwrap(), "shop", &3).unwrap();
    let stream = StreamId::new("users/1").unwrap();
    store.append_one(Append::new(stream, vec![event])).await.unwrap();
    eventually("the position should be saved", || async { handle.lag().await.unwrap() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_skip_a_poison_event_list_it_and_apply_it_when_asked() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let (seen, healthy) = (Seen::default(), Arc::new(AtomicU64::new(0)));
    let tries = Arc::new(AtomicU64::new(0));
    let (adding, mended, trying) = (seen.clone(), Arc::clone(&healthy), Arc::clone(&tries));
    let handle = runtime
        .projection(
            "orders",
            applying(move |batch| {
                let poison = |recorded: &aios_core::store::RecordedEvent| {
                    recorded.event.data::<u64>().is_ok_and(|number| number == 3)
                };
                if batch.events().iter().any(poison) && mended.load(Ordering::SeqCst) == 0 {
                    if batch.events().len() == 1 {
                        trying.fetch_add(1, Ordering::SeqCst);
                    }
                    return Err(TaskError::retryable(Failure::new("POISON", "three is bad")));
                }
                adding.add(&batch)
            }),
        )
        .patterns(orders())
        .retry(quick(3))
        .await
        .unwrap();
    place(&store, 0..6).await;
    seen.reach(5).await;
    assert_eq!(seen.all(), [0, 1, 2, 4, 5]);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    let letters = handle.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].failure.code.as_str(), letters[0].attempts), ("POISON", 3));
    assert_eq!(letters[0].event_type, "orders.order.placed");

    // It is redriven while the fault persists, and remains; then the fault is repaired.
    handle.redrive(letters[0].position).await.unwrap();
    eventually("it should be tried", || async { tries.load(Ordering::SeqCst) == 6 }).await;
    healthy.store(1, Ordering::SeqCst);
    eventually("it should still be listed", || async {
        handle.dead_letters(0, 10).await.unwrap().len() == 1
    })
    .await;
    handle.redrive(letters[0].position).await.unwrap();
    seen.reach(6).await;
    assert_eq!(seen.all(), [0, 1, 2, 4, 5, 3]);
    eventually("it should be gone", || async {
        handle.dead_letters(0, 10).await.unwrap().is_empty()
    })
    .await;
    let error = handle.redrive(letters[0].position).await.unwrap_err();
    assert_eq!(error.code(), "DEAD_LETTER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_skip_at_once_what_fails_for_good_or_panics() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let seen = Seen::default();
    let adding = seen.clone();
    let handle = runtime
        .projection(
            "orders",
            applying(move |batch| {
                for recorded in batch.events() {
                    match recorded.event.data::<u64>()? {
                        1 => {
                            return Err(TaskError::terminal(Failure::new("NEVER", "not this one")));
                        }
                        2 => panic!("not that one"),
                        _ => {}
                    }
                }
                adding.add(&batch)
            }),
        )
        .patterns(orders())
        .retry(quick(2))
        .await
        .unwrap();
    place(&store, 0..4).await;
    seen.reach(2).await;
    assert_eq!(seen.all(), [0, 3]);
    let letters = handle.dead_letters(0, 10).await.unwrap();
    let kinds: Vec<_> = letters.iter().map(|it| (it.failure.code.as_str(), it.attempts)).collect();
    assert_eq!(kinds, [("NEVER", 1), ("PROJECTION_PANICKED", 2)]);
    assert_eq!(handle.dead_letters(letters[0].position, 10).await.unwrap().len(), 1);
}

/// The record of a dead letter is an event too, which both projections get.
#[tokio::test(flavor = "multi_thread")]
async fn should_reach_the_end_of_the_log_although_every_event_fails() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    place(&store, 0..1).await;
    for name in ["one", "other"] {
        let refuse = |_| Err(TaskError::terminal(Failure::new("NEVER", "not this one")));
        let handle = runtime.projection(name, applying(refuse)).await.unwrap();
        eventually("the lag should go", || async { handle.lag().await.unwrap() == 0 }).await;
        let letters = handle.dead_letters(0, 100).await.unwrap();
        let types: BTreeSet<_> = letters.iter().map(|letter| &*letter.event_type).collect();
        assert!(types.contains("orders.order.placed"), "{types:?}");
        assert!(!types.contains("system.projection.projection_failed"), "{types:?}");
    }
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A view that stores its position together with its rows.
#[derive(Clone, Default)]
struct View(Arc<Mutex<(u64, Vec<u64>)>>);

#[tokio::test(flavor = "multi_thread")]
async fn should_read_on_from_the_position_that_the_projection_keeps() {
    let store = store();
    let view = View::default();
    for round in 0..3_u64 {
        place(&store, round * 4..round * 4 + 4).await;
        let runtime = runtime(&store).start().await.unwrap();
        let (changing, loading) = (view.clone(), view.clone());
        let _handle = runtime
            .projection(
                "orders",
                applying(move |batch| {
                    let mut transaction = changing.0.lock().unwrap();
                    for recorded in batch.events() {
                        let number = recorded.event.data::<u64>()?;
                        if number == 5 {
                            return Err(TaskError::terminal(Failure::new("NO", "five")));
                        }
                        transaction.1.push(number);
                    }
                    assert!(batch.position() > transaction.0);
                    transaction.0 = batch.position();
                    Ok(())
                }),
            )
            .patterns(orders())
            .batch_size(1)
            .position_from(move || {
                let position = loading.0.lock().unwrap().0;
                async move { Ok(position) }
            })
            .await
            .unwrap();
        let expected: Vec<u64> = (0..round * 4 + 4).filter(|number| *number != 5).collect();
        eventually("the view should catch up", || async { view.0.lock().unwrap().1 == expected })
            .await;
        runtime.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_run_in_one_process_at_a_time_and_take_over() {
    let store = store();
    let active = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Seen::default();
    let start = async |number: u64| {
        let runtime = runtime(&store).start().await.unwrap();
        let (adding, active) = (seen.clone(), Arc::clone(&active));
        runtime
            .projection(
                "orders",
                applying(move |batch| {
                    active.lock().unwrap().insert(number);
                    adding.add(&batch)
                }),
            )
            .patterns(orders())
            .lease_time(Duration::from_secs(1))
            .await
            .unwrap();
        runtime
    };
    let first = start(1).await;
    place(&store, 0..3).await;
    seen.reach(3).await;
    let second = start(2).await;
    place(&store, 3..6).await;
    seen.reach(6).await;
    assert_eq!(*active.lock().unwrap(), [1].into());
    first.shutdown(PATIENCE).await.unwrap();
    place(&store, 6..9).await;
    seen.reach(9).await;
    assert_eq!(*active.lock().unwrap(), [1, 2].into());
    assert_eq!(seen.all(), (0..9).collect::<Vec<_>>());
    second.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_with_the_runtime_in_the_middle_of_retries() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let trying = Arc::clone(&tries);
    let endless = RetryPolicy::fixed(0, Duration::from_secs(3600));
    runtime
        .projection(
            "orders",
            applying(move |_| {
                trying.fetch_add(1, Ordering::SeqCst);
                Err(TaskError::retryable(Failure::new("DOWN", "the database is down")))
            }),
        )
        .patterns(orders())
        .retry(endless)
        .await
        .unwrap();
    place(&store, 0..1).await;
    eventually("it should be tried", || async { tries.load(Ordering::SeqCst) == 1 }).await;
    tokio::time::timeout(PATIENCE, runtime.shutdown(Duration::from_secs(3600)))
        .await
        .expect("nothing waits for the next attempt")
        .unwrap();
}

/// The recorder is that of the thread, so everything runs on one thread.
#[tokio::test]
async fn should_report_its_lag_while_events_fail_and_none_when_it_has_stopped() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let lag = || {
        let metrics = snapshots.snapshot().into_vec().into_iter();
        let mut gauges = metrics.filter(|(key, ..)| key.key().name() == "aios_projection_lag");
        match gauges.next() {
            Some((.., DebugValue::Gauge(value))) => value.into_inner(),
            _ => 0.0,
        }
    };
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let trying = Arc::clone(&tries);
    runtime
        .projection(
            "orders",
            applying(move |_| {
                trying.fetch_add(1, Ordering::SeqCst);
                Err(TaskError::retryable(Failure::new("DOWN", "the database is down")))
            }),
        )
        .patterns(orders())
        .retry(RetryPolicy::fixed(0, Duration::from_millis(5)))
        .await
        .unwrap();
    place(&store, 0..1).await;
    eventually("it should be tried", || async { tries.load(Ordering::SeqCst) > 0 }).await;
    place(&store, 1..11).await;
    eventually("the lag should grow with the log", || async { lag() >= 20.0 }).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    eventually("the lag is not that of this process", || async { lag() == 0.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_projections() {
    let runtime = runtime(&store()).start().await.unwrap();
    let nothing = async |_: Batch| Ok(());
    let refused = [
        runtime.projection("Bad-Name", nothing).await,
        runtime.projection("orders", nothing).batch_size(0).await,
        runtime.projection("orders", nothing).batch_size(1_000_000).await,
        runtime.projection("orders", nothing).lease_time(Duration::ZERO).await,
        runtime.projection("orders", nothing).retry(quick(0).with_jitter(f64::NAN)).await,
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().code(), "INVALID_RUNTIME_CONFIGURATION");
    }
}

/// A runtime that runs only projections.
async fn projecting(store: &Arc<FaultyStore>) -> Runtime {
    let shared: Arc<dyn Store> = Arc::clone(store) as _;
    runtime(&shared).client_only().start().await.unwrap()
}

async fn follow(runtime: &Runtime, seen: &Seen) -> aios_agents::projection::ProjectionHandle {
    let adding = seen.clone();
    runtime
        .projection("orders", applying(move |batch| adding.add(&batch)))
        .patterns(orders())
        .lease_time(Duration::from_secs(1))
        .await
        .unwrap()
}

/// Every store call of a projection may be permanently refused.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_at_a_permanent_error_and_report_it() {
    for method in
        ["acquire", "renew", "load_checkpoint", "read_log", "save_checkpoint", "head", "wait_for"]
    {
        let faulty = FaultyStore::new(store());
        let runtime = projecting(&faulty).await;
        faulty.on_call(move |name| (*name == method).then(|| Fault::Refuse(store_refuses())));
        let seen = Seen::default();
        let _handle = follow(&runtime, &seen).await;
        let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
        place(&shared, 0..1).await;
        let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.expect(method);
        assert_eq!(failure.code, "STORE_BACKEND", "{method}");
        assert!(failure.message.contains("projection orders"), "{method}: {failure}");
        assert_eq!(runtime.failure(), Some(failure), "{method}");
        faulty.heal();
        let asked = faulty.count("acquire");
        let error = runtime.shutdown(PATIENCE).await.unwrap_err();
        assert_eq!(error.code(), "PROJECTION_STOPPED", "{method}");
        assert_eq!(faulty.count("acquire"), asked, "{method}: it is not tried again");
        // The next start continues from there.
        let runtime = projecting(&faulty).await;
        let _handle = follow(&runtime, &seen).await;
        seen.reach(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_outlive_transient_errors_of_the_store() {
    let faulty = FaultyStore::new(store());
    let runtime = projecting(&faulty).await;
    faulty.on_call(|name| (*name != "leases").then(|| Fault::Refuse(store_unavailable())));
    let seen = Seen::default();
    let _handle = follow(&runtime, &seen).await;
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..2).await;
    tokio::time::timeout(Duration::from_millis(100), runtime.failed()).await.unwrap_err();
    faulty.heal();
    seen.reach(2).await;
    runtime.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_when_its_own_position_can_never_be_read() {
    let faulty = FaultyStore::new(store());
    let runtime = projecting(&faulty).await;
    let asked = Arc::new(AtomicU64::new(0));
    let asking = Arc::clone(&asked);
    let load = move || {
        let number = asking.fetch_add(1, Ordering::SeqCst);
        let failure = Failure::new("NO_TABLE", "there is no such table");
        std::future::ready(Err(match number {
            0 => TaskError::retryable(failure),
            _ => TaskError::terminal(failure),
        }))
    };
    let projection = runtime.projection("orders", applying(|_| Ok(()))).position_from(load);
    let _handle = projection.await.unwrap();
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!((failure.code.as_str(), asked.load(Ordering::SeqCst)), ("NO_TABLE", 2));
    assert!(failure.message.contains("there is no such table"), "{failure}");
}

/// The view belongs to another log, or the log was restored from a backup: waiting would skip events.
#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_position_after_the_end_of_the_log() {
    let store = store();
    place(&store, 0..5).await;
    let runtime = runtime(&store).client_only().start().await.unwrap();
    let load = || std::future::ready(Ok(1_000_000));
    let projection = runtime.projection("orders", applying(|_| Ok(()))).position_from(load);
    let _handle = projection.await.unwrap();
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "INVALID_OUTPUT");
    assert!(failure.message.contains("it is 1000000, and the log ends at "), "{failure}");
}

/// The log was restored from a backup that is older than the saved position.
#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_saved_position_after_the_end_of_the_log() {
    let store = store();
    place(&store, 0..5).await;
    store.save_checkpoint("projections/orders", 1_000_000).await.unwrap();
    let runtime = runtime(&store).client_only().start().await.unwrap();
    let _handle = runtime.projection("orders", applying(|_| Ok(()))).await.unwrap();
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "POSITION_AFTER_END");
    let text = "the reader projections/orders has the position 1000000, and the log ends at ";
    assert!(failure.message.contains(text), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_projection_that_runs_already() {
    let (store, seen) = (store(), Seen::default());
    let runtime = runtime(&store).client_only().start().await.unwrap();
    let _handle = follow(&runtime, &seen).await;
    let error = runtime.projection("orders", applying(|_| Ok(()))).await.err().unwrap();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
    assert!(
        error.to_string().contains("projection orders runs in this runtime already"),
        "{error}"
    );
    // A name that was refused for another reason is free again.
    let invalid = runtime.projection("items", applying(|_| Ok(()))).batch_size(0).await;
    assert!(invalid.is_err());
    runtime.projection("items", applying(|_| Ok(()))).await.unwrap();
}

/// An event that the store cannot decode hides none of its neighbours, and is not skipped silently.
#[tokio::test(flavor = "multi_thread")]
async fn should_dead_letter_an_event_that_cannot_be_read() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..5).await;
    let log = shared.read_log(0, 100).await.unwrap();
    let is_third = |it: &&aios_core::store::RecordedEvent| it.stream.as_str() == "orders/2";
    let third = log.iter().find(is_third).unwrap().position;
    faulty.spoil([third]);
    let (runtime, seen) = (projecting(&faulty).await, Seen::default());
    let handle = follow(&runtime, &seen).await;
    seen.reach(4).await;
    place(&shared, 5..6).await;
    seen.reach(5).await;
    assert_eq!(seen.all(), [0, 1, 3, 4, 5]);
    let letters = handle.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].position, letters[0].failure.code.as_str()), (third, "INVALID_ROW"));
    // It is redriven while it is still unreadable, and remains; then it is repaired.
    handle.redrive(third).await.unwrap();
    place(&shared, 6..7).await;
    seen.reach(6).await;
    assert_eq!(handle.dead_letters(0, 10).await.unwrap().len(), 1);
    faulty.spoil([]);
    handle.redrive(third).await.unwrap();
    seen.reach(7).await;
    assert_eq!(seen.all(), [0, 1, 3, 4, 5, 6, 2]);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A dead letter that is redriven, and still can't be read, is no reason to read again what came after
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_move_the_position_back_that_the_projection_keeps() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..5).await;
    let log = shared.read_log(0, 100).await.unwrap();
    let third = log.iter().find(|it| it.stream.as_str() == "orders/2").unwrap().position;
    faulty.spoil([third]);
    let view = View::default();
    for round in 1..=2_u64 {
        let runtime = projecting(&faulty).await;
        let handle = start_view(&runtime, &view).await.unwrap();
        let seen = |count: usize| {
            let view = &view;
            eventually("the view should catch up", move || async move {
                view.0.lock().unwrap().1.len() >= count
            })
        };
        seen(4).await;
        let before = view.0.lock().unwrap().0;
        handle.redrive(third).await.unwrap();
        let retried = || async { handle.dead_letters(0, 10).await.unwrap()[0].attempts == 0 };
        eventually("it is a dead letter again", retried).await;
        eventually("the projection has seen the request", || async {
            handle.lag().await.unwrap() == 0
        })
        .await;
        let after = view.0.lock().unwrap().0;
        assert!(after > before, "{after} after {before}, in round {round}");
        runtime.shutdown(PATIENCE).await.unwrap();
    }
    assert_eq!(view.0.lock().unwrap().1, [0, 1, 3, 4]);
}

/// No process could apply it, and it would stay in the list.
#[tokio::test(flavor = "multi_thread")]
async fn should_close_a_dead_letter_whose_event_was_removed_from_the_log() {
    async fn short(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        Ok(())
    }
    let memory = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let runtime = runtime(&store).workflow("short", short).start().await.unwrap();
    let failing = |_| Err(TaskError::terminal(Failure::new("NO", "never")));
    let completed: Pattern = "workflows.short.completed".parse().unwrap();
    let handle = runtime.projection("runs", applying(failing)).patterns([completed]);
    let handle = handle.await.unwrap();
    let run = runtime.start("short", &()).id("r").await.unwrap();
    run.result::<()>().await.unwrap();
    let letters = || async { handle.dead_letters(0, 10).await.unwrap() };
    eventually("it is a dead letter", || async { letters().await.len() == 1 }).await;
    // The checkpoints of the projection and of the relay must have passed the run.
    eventually("the run is removed", || async {
        memory.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap();
        store.read_stream(&"runs/r".parse().unwrap(), 0, 1).await.unwrap().is_empty()
    })
    .await;
    handle.redrive(letters().await[0].position).await.unwrap();
    eventually("it is closed", || async { letters().await.is_empty() }).await;
}

/// Retention waits for a projection that no process runs, until it is retired.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_runs_for_a_projection_until_it_is_retired() {
    async fn short(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        Ok(())
    }
    let memory = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let build = || runtime(&store).workflow("short", short).start();
    let before = build().await.unwrap();
    let orders = before.projection("orders", applying(|_| Ok(()))).await.unwrap();
    let position = || async { orders.position().await.unwrap() };
    eventually("the projection runs", || async { position().await > 0 }).await;
    let error = orders.retire().await.unwrap_err();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
    assert!(error.to_string().contains("a process runs the projection orders"), "{error}");
    before.shutdown(PATIENCE).await.unwrap();

    let after = build().await.unwrap();
    for id in ["a", "b"] {
        after.start("short", &()).id(id).await.unwrap().result::<()>().await.unwrap();
    }
    // The last event of the log is never removed, so that of the other run is after this one.
    let last = store.read_stream(&"runs/a".parse().unwrap(), 0, 10).await.unwrap();
    let last = last.last().unwrap().position;
    let checkpoints = || async { store.checkpoints().await.unwrap() };
    eventually("only the projection is behind", || async {
        let behind = checkpoints().await.into_iter().filter(|it| it.position < last);
        behind.map(|it| it.reader).eq(["projections/orders"])
    })
    .await;
    let policy = Retention::new(Duration::ZERO);
    assert_eq!(memory.expire_runs(&policy).await.unwrap(), 0);
    let orders = after.projection_handle("orders").unwrap();
    assert!(orders.retire().await.unwrap());
    assert!(!orders.retire().await.unwrap(), "it is retired already");
    assert!(memory.expire_runs(&policy).await.unwrap() > 0);
    let again = after.projection("orders", applying(|_| Ok(()))).await.unwrap();
    eventually("it runs again", || async { again.lag().await.unwrap() == 0 }).await;
}

/// A view of a test that keeps its own position, and applies everything.
fn start_view<'r>(
    runtime: &'r Runtime,
    view: &View,
) -> StartProjection<'r, impl Projection + use<>> {
    start_failing_view(runtime, view, &Arc::default())
}

/// A view that refuses the order 1 in a batch before a position.
fn start_failing_view<'r>(
    runtime: &'r Runtime,
    view: &View,
    works_from: &Arc<AtomicU64>,
) -> StartProjection<'r, impl Projection + use<>> {
    let (changing, loading, works_from) = (view.clone(), view.clone(), Arc::clone(works_from));
    let apply = applying(move |batch| {
        let numbers = batch.events().iter().map(|recorded| recorded.event.data::<u64>());
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        if numbers.contains(&1) && batch.position() < works_from.load(Ordering::SeqCst) {
            return Err(TaskError::terminal(Failure::new("VIEW", "it does not fit")));
        }
        let mut transaction = changing.0.lock().unwrap();
        transaction.1.extend(numbers);
        transaction.0 = batch.position();
        Ok(())
    });
    let position = move || {
        let position = loading.0.lock().unwrap().0;
        async move { Ok(position) }
    };
    runtime.projection("orders", apply).patterns(orders()).position_from(position)
}

/// The process dies after the view has applied a dead letter again, and before that is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_close_a_dead_letter_that_the_view_applied_before_a_crash() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..3).await;
    let log = shared.read_log(0, 100).await.unwrap();
    let second = log.iter().find(|it| it.stream.as_str() == "orders/1").unwrap().position;
    faulty.spoil([second]);
    let view = View::default();
    let runtime = projecting(&faulty).await;
    let handle = start_view(&runtime, &view).await.unwrap();
    eventually("it is a dead letter", || async {
        handle.dead_letters(0, 10).await.unwrap().len() == 1
    })
    .await;
    faulty.spoil([]);
    faulty.on_append(|append| {
        let is_record = append.events[0].event_type.action() == "projection_redriven";
        is_record.then_some(Fault::Hang)
    });
    handle.redrive(second).await.unwrap();
    let applied = [0, 2, 1];
    eventually("the view applies it", || async { view.0.lock().unwrap().1 == applied }).await;
    drop(runtime);
    faulty.heal();

    let runtime = projecting(&faulty).await;
    let handle = start_view(&runtime, &view).await.unwrap();
    eventually("it is closed", || async { handle.dead_letters(0, 10).await.unwrap().is_empty() })
        .await;
    assert_eq!(handle.redrive(second).await.unwrap_err().code(), "DEAD_LETTER_NOT_FOUND");
    assert_eq!(view.0.lock().unwrap().1, applied);
}

/// The first of two requests fails. The process dies after the view has applied the letter because of the
/// second one, and before that is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_apply_a_dead_letter_once_although_an_earlier_request_failed() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..3).await;
    let log = shared.read_log(0, 100).await.unwrap();
    let second = log.iter().find(|it| it.stream.as_str() == "orders/1").unwrap().position;
    let view = View::default();
    let works_from = Arc::new(AtomicU64::new(u64::MAX));
    let runtime = projecting(&faulty).await;
    let handle = start_failing_view(&runtime, &view, &works_from).await.unwrap();
    let letters = || async { handle.dead_letters(0, 10).await.unwrap() };
    eventually("it is a dead letter", || async { letters().await.len() == 1 }).await;
    eventually("it applies the others", || async { handle.lag().await.unwrap() == 0 }).await;
    faulty.on_append(|append| {
        let is_record = append.events[0].event_type.action() == "projection_redriven";
        is_record.then_some(Fault::Hang)
    });
    works_from.store(shared.head().await.unwrap() + 2, Ordering::SeqCst);
    let request = || {
        let event_type = "system.projection.projection_redrive_requested".parse().unwrap();
        let data = serde_json::json!({ "position": second });
        let event = Event::new(event_type, "test", &data).unwrap();
        Append::new(StreamId::new("projections/orders").unwrap(), vec![event])
    };
    let requested = shared.append(vec![request(), request()]).await;
    let requested = requested.into_iter().map(|result| result.unwrap().position);
    assert_eq!(requested.last(), Some(works_from.load(Ordering::SeqCst)));
    let applied = [0, 2, 1];
    eventually("the view applies it", || async { view.0.lock().unwrap().1 == applied }).await;
    drop(runtime);
    faulty.heal();

    let runtime = projecting(&faulty).await;
    let handle = start_failing_view(&runtime, &view, &works_from).await.unwrap();
    eventually("it is closed", || async { handle.dead_letters(0, 10).await.unwrap().is_empty() })
        .await;
    assert_eq!(handle.redrive(second).await.unwrap_err().code(), "DEAD_LETTER_NOT_FOUND");
    assert_eq!(view.0.lock().unwrap().1, applied);
}

/// It was rebuilt, so that it applies the event of the letter like any other.
#[tokio::test(flavor = "multi_thread")]
async fn should_close_the_dead_letters_after_the_position_of_a_view() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..3).await;
    let log = shared.read_log(0, 100).await.unwrap();
    let second = log.iter().find(|it| it.stream.as_str() == "orders/1").unwrap().position;
    faulty.spoil([second]);
    let runtime = projecting(&faulty).await;
    let handle = start_view(&runtime, &View::default()).await.unwrap();
    eventually("it is a dead letter", || async {
        handle.dead_letters(0, 10).await.unwrap().len() == 1
    })
    .await;
    drop(runtime);
    faulty.spoil([]);

    let view = View::default();
    let runtime = projecting(&faulty).await;
    let handle = start_view(&runtime, &view).await.unwrap();
    eventually("the view applies all", || async { view.0.lock().unwrap().1 == [0, 1, 2] }).await;
    assert_eq!(handle.dead_letters(0, 10).await.unwrap(), []);
    assert_eq!(handle.redrive(second).await.unwrap_err().code(), "DEAD_LETTER_NOT_FOUND");
}

/// The view and its position are committed, and the response is lost.
#[tokio::test(flavor = "multi_thread")]
async fn should_apply_nothing_twice_to_a_view_whose_commit_was_not_confirmed() {
    for count in [1, 3] {
        let store = store();
        place(&store, 0..count).await;
        let runtime = runtime(&store).client_only().start().await.unwrap();
        let view = View::default();
        let (changing, loading) = (view.clone(), view.clone());
        let calls = AtomicU64::new(0);
        let apply = applying(move |batch| {
            let mut transaction = changing.0.lock().unwrap();
            for recorded in batch.events() {
                transaction.1.push(recorded.event.data::<u64>()?);
            }
            transaction.0 = batch.position();
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => Err(TaskError::retryable(Failure::new("VIEW", "no response"))),
                _ => Ok(()),
            }
        });
        let position = move || {
            let position = loading.0.lock().unwrap().0;
            async move { Ok(position) }
        };
        let orders = runtime.projection("orders", apply).patterns(orders());
        let handle = orders.position_from(position).await.unwrap();
        eventually("it is up to date", || async { handle.lag().await.unwrap() == 0 }).await;
        assert_eq!(view.0.lock().unwrap().1, (0..count).collect::<Vec<_>>());
    }
}

/// The process dies after the view was written, and before the store has the position.
#[tokio::test(flavor = "multi_thread")]
async fn should_save_the_position_that_a_view_keeps() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let view = View::default();
    let runtime = projecting(&faulty).await;
    let _handle = start_view(&runtime, &view).await.unwrap();
    // Not earlier: the projection saves where it begins, too.
    let written = view.clone();
    faulty.on_call(move |name| {
        let is_written = written.0.lock().unwrap().1.len() == 3;
        (*name == "save_checkpoint" && is_written).then_some(Fault::Hang)
    });
    place(&shared, 0..3).await;
    eventually("the view is written", || async { view.0.lock().unwrap().1.len() == 3 }).await;
    drop(runtime);
    faulty.heal();

    let runtime = projecting(&faulty).await;
    let handle = start_view(&runtime, &view).await.unwrap();
    eventually("the store has the position", || async { handle.lag().await.unwrap() == 0 }).await;
}

/// Otherwise it would read the events again after each restart.
#[tokio::test(flavor = "multi_thread")]
async fn should_tell_a_view_of_the_position_after_events_that_do_not_match() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let view = View::default();
    let _handle = start_view(&runtime, &view).await.unwrap();
    let event = Event::new("users.user.left".parse().unwrap(), "shop", &3).unwrap();
    let stream = StreamId::new("users/1").unwrap();
    let appended = store.append_one(Append::new(stream, vec![event])).await.unwrap();
    eventually("the view has the position", || async {
        view.0.lock().unwrap().0 >= appended.position
    })
    .await;
    assert!(view.0.lock().unwrap().1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_skip_an_event_whose_failure_is_larger_than_the_store_takes() {
    let options = MemoryOptions::new().with_max_event_bytes(4000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).start().await.unwrap();
    let seen = Seen::default();
    let adding = seen.clone();
    place(&store, 0..1).await;
    let first = store.read_log(0, 100).await.unwrap();
    let first = first.iter().find(|it| it.stream.as_str() == "orders/0").unwrap().position;
    let apply = move |batch: Batch| match batch.events().iter().any(|it| it.position == first) {
        true => Err(TaskError::terminal(Failure::new("x".repeat(9000), "y".repeat(9000)))),
        false => adding.add(&batch),
    };
    let handle = runtime.projection("orders", applying(apply)).patterns(orders()).await.unwrap();
    place(&store, 1..2).await;
    seen.reach(1).await;
    let letters = handle.dead_letters(0, 10).await.unwrap();
    assert!(letters[0].failure.code.starts_with("xxx"), "{letters:?}");
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// The positions of some orders in the log.
async fn positions(store: &Arc<dyn Store>, orders: std::ops::Range<u64>) -> Vec<u64> {
    let streams: Vec<String> = orders.map(|order| format!("orders/{order}")).collect();
    let log = store.read_log(0, 1000).await.unwrap();
    let found = log.iter().filter(|it| streams.iter().any(|stream| stream == it.stream.as_str()));
    found.map(|recorded| recorded.position).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_dead_letter_any_number_of_events_that_cannot_be_read() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..60).await;
    faulty.spoil(positions(&shared, 5..55).await);
    let (runtime, seen) = (projecting(&faulty).await, Seen::default());
    let handle = follow(&runtime, &seen).await;
    seen.reach(10).await;
    assert_eq!(seen.all(), (0..5).chain(55..60).collect::<Vec<_>>());
    assert_eq!(handle.dead_letters(0, 200).await.unwrap().len(), 100);
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A damaged file is not mistaken for many invalid rows: nothing of it is skipped.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_if_the_files_of_the_store_are_damaged() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
    place(&shared, 0..60).await;
    let damaged = positions(&shared, 5..55).await;
    let (runtime, seen) = (projecting(&faulty).await, Seen::default());
    faulty.damage(damaged);
    let _handle = follow(&runtime, &seen).await;
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "STORE_CORRUPT");
    drop(runtime);
}

/// The nightly retention must not take from a projection what it has never been able to apply.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_events_for_a_projection_that_has_applied_nothing() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = Arc::clone(&memory) as _;
    for action in ["started", "completed"] {
        let data = serde_json::json!({ "version": 1, "result": 1 });
        let event_type = format!("workflows.deploy.{action}").parse().unwrap();
        let event = Event::new(event_type, "test", &data).unwrap().with_timestamp(Timestamp::MIN);
        store.append_one(Append::new(StreamId::of_run("r").unwrap(), vec![event])).await.unwrap();
    }
    place(&store, 0..1).await;
    let client = runtime(&store).client_only().start().await.unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    client.projection("orders", unavailable(&tries)).retry(without_end()).await.unwrap();
    eventually("it should try", || async { tries.load(Ordering::SeqCst) > 0 }).await;
    let removed = memory.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap();
    assert_eq!(removed, 0);
    client.shutdown(PATIENCE).await.unwrap();
}

/// A renewal that gets no answer must not let a projection apply events that another process has.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_to_apply_when_its_lease_ends_although_the_store_does_not_answer() {
    let store = store();
    let faulty = FaultyStore::new(Arc::clone(&store));
    let first = projecting(&faulty).await;
    let tries = Arc::new(AtomicU64::new(0));
    first
        .projection("orders", unavailable(&tries))
        .patterns(orders())
        .lease_time(Duration::from_secs(1))
        .retry(without_end())
        .await
        .unwrap();
    place(&store, 0..1).await;
    eventually("it should try", || async { tries.load(Ordering::SeqCst) > 0 }).await;
    faulty.on_call(|name| ["renew", "release", "acquire"].contains(name).then_some(Fault::Hang));
    let second = runtime(&store).client_only().start().await.unwrap();
    let seen = Seen::default();
    let _handle = follow(&second, &seen).await;
    seen.reach(1).await;
    let before = tries.load(Ordering::SeqCst);
    place(&store, 1..4).await;
    seen.reach(4).await;
    assert_eq!(tries.load(Ordering::SeqCst), before);
    second.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_skip_to_the_end_if_the_projection_keeps_its_position() {
    let store = store();
    place(&store, 0..3).await;
    let client = runtime(&store).client_only().start().await.unwrap();
    let never = |_: Batch| std::future::pending::<Result<(), TaskError>>();
    let handle = client
        .projection("orders", never)
        .position_from(|| async { Ok(0) })
        .from_end_of_log()
        .await
        .unwrap();
    assert_eq!(handle.position().await.unwrap(), 0);
    drop(client);
}
