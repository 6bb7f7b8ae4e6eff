//! Refusals of the store and the broker: transient ones are retried, permanent ones are not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, BrokerError},
    store::{Append, PageRequest, RecordedEvent, RunFilter, Shard, StoreError},
};
use aios_tests::log::Logged;
use serde_json::json;

use crate::{
    run::races::append_to_run,
    support::{
        faulty::{Fault, FaultyBroker, FaultyStore, holds, store_refuses, store_unavailable},
        workflows::{self, Doubler, PATIENCE, actions, eventually, result, sqlite, store},
    },
};

/// A runtime whose leases do not expire however busy the machine is: a run that is reloaded assigns
/// its tasks and records its steps again.
fn runtime(store: &Arc<dyn Store>) -> RuntimeBuilder {
    let lease_time = Duration::from_secs(120);
    let options = EngineOptions::new().with_lease_time(lease_time);
    workflows::runtime(store).engine_options(options)
}

async fn one_step(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.step("one", || async { Ok::<_, TaskError>(1) }).await
}

async fn one_task(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task::<u64>("doubler", &number).retry(RetryPolicy::fixed(3, QUICK)).await
}

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

const QUICK: Duration = Duration::from_millis(5);

async fn blocked(run: &RunHandle) -> aios_core::failure::Failure {
    let error = result::<u32>(run).await.unwrap_err();
    assert!(matches!(error, RunError::Blocked { .. }), "{error:?}");
    assert_eq!(run.status().await.unwrap().status.as_str(), "blocked");
    error.failure().unwrap().clone()
}

/// Refuses a step's result and counts how often it is tried.
fn refuse_results(faulty: &FaultyStore, error: fn(&Append) -> StoreError) -> Arc<AtomicUsize> {
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    faulty.on_append(move |append| {
        holds(append, "step_completed").then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Refuse(error(append))
        })
    });
    tried
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_instead_of_repeating_what_the_store_refuses() {
    let duplicate =
        |append: &Append| StoreError::DuplicateEvent { id: append.events[0].id.clone() };
    for (error, code) in [
        ((|_| store_refuses()) as fn(&Append) -> StoreError, "STORE_BACKEND"),
        (duplicate, "DUPLICATE_EVENT"),
    ] {
        let faulty = FaultyStore::new(sqlite().await);
        let tried = refuse_results(&faulty, error);
        let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let build = || runtime(&store).workflow("one_step", one_step).start();
        let before = build().await.unwrap();
        let run = before.start("one_step", &()).id("r").await.unwrap();
        assert_eq!(blocked(&run).await.code, code);
        assert_eq!(tried.load(Ordering::SeqCst), 1);
        before.shutdown(PATIENCE).await.unwrap();

        // Once the store takes it, the run continues.
        faulty.heal();
        let after = build().await.unwrap();
        let run = after.handle("r").await.unwrap();
        eventually("it completes", || async {
            run.status().await.unwrap().status.as_str() == "completed"
        })
        .await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_what_the_store_may_take_later() {
    let faulty = FaultyStore::new(store());
    let tried = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tried);
    faulty.on_append(move |append| {
        let is_result = holds(append, "step_completed");
        let refuses = is_result && counted.fetch_add(1, Ordering::SeqCst) < 4;
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let store: Arc<dyn Store> = faulty;
    let begun = Arc::new(AtomicU32::new(0));
    let beginning = Arc::clone(&begun);
    let one_step = move |context: WorkflowContext, (): ()| {
        let begun = Arc::clone(&beginning);
        async move {
            let code = || async { Ok::<_, TaskError>(begun.fetch_add(1, Ordering::SeqCst) + 1) };
            context.step("one", code).await
        }
    };
    let runtime = runtime(&store).workflow("one_step", one_step).start().await.unwrap();
    let run = runtime.start("one_step", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(tried.load(Ordering::SeqCst), 5);
    assert_eq!(begun.load(Ordering::SeqCst), 1, "its result is kept, and appended again");
    assert_eq!(actions(&run).await, ["started", "step_completed", "completed"]);
}

/// Signals reach a run whose append the store refuses, and it continues once the store accepts it.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_delay_other_runs_while_one_backs_off() {
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        let is_stuck = append.stream.run_id() == Some("stuck") && holds(append, "step_completed");
        is_stuck.then(|| Fault::Refuse(store_unavailable()))
    });
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let builder = runtime(&store).workflow("one_step", one_step).workflow("wait", wait);
    let runtime = builder.start().await.unwrap();
    let stuck = runtime.start("one_step", &()).id("stuck").await.unwrap();
    // More than any inbox should hold.
    let signals = async {
        for number in 0..200 {
            stuck.signal("other", &number).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, signals).await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    run.signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    faulty.heal();
    assert_eq!(result::<u32>(&stuck).await.unwrap(), 1);
}

/// A run whose journal cannot be read at the moment does not affect others.
#[tokio::test(flavor = "multi_thread")]
async fn should_load_a_run_once_the_store_answers() {
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let runtime = runtime(&store).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    faulty.on_call(|method| (*method == "read_stream").then(|| Fault::Refuse(store_unavailable())));
    run.signal("go", &2).await.unwrap();
    eventually("it was tried", || async { faulty.count("read_stream") > 2 }).await;
    faulty.heal();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
}

/// The run may not be the same one any more.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_and_block_no_run_if_the_store_has_lost_events() {
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let runtime = runtime(&store).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    faulty.on_call(|method| {
        let gone = || StoreError::LostEvents { database: "shop".to_owned(), position: 7 };
        (*method == "read_stream").then(|| Fault::Refuse(gone()))
    });
    run.signal("go", &2).await.unwrap();
    eventually("the engine stops", || async { runtime.failure().is_some() }).await;
    assert_eq!(runtime.failure().unwrap().code, "STORE_LOST_EVENTS");
    faulty.heal();
    assert_eq!(actions(&run).await.last().unwrap(), "signaled");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_a_task_that_the_broker_refuses_for_good() {
    let too_large = || BrokerError::TooLarge { bytes: 20, limit: 10 };
    let closed = |reason: &str| BrokerError::InvalidConfiguration { reason: reason.to_owned() };
    for number in 0..2 {
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        let tried = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tried);
        broker.on_publish(move |publish| {
            (publish.event.event_type.action() == "task_assigned").then(|| {
                counted.fetch_add(1, Ordering::SeqCst);
                Fault::Refuse(if number == 0 { too_large() } else { closed("no") })
            })
        });
        let runtime = runtime(&store())
            .broker(broker as Arc<dyn Broker>)
            .agent("doubler", Doubler::default())
            .workflow("one_task", one_task);
        let runtime = runtime.start().await.unwrap();
        let run = runtime.start("one_task", &1).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        let expected = ["EVENT_TOO_LARGE", "INVALID_BROKER_CONFIGURATION"][number];
        assert_eq!(error.code(), expected, "{error:?}");
        assert_eq!(tried.load(Ordering::SeqCst), 1);
    }
}

/// An answer is recorded even if the store already has another event with its id.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_whose_id_is_known() {
    let faulty = FaultyStore::new(store());
    let refused = AtomicUsize::new(0);
    faulty.on_append(move |append| {
        let answer = append.events.iter().find(|it| it.event_type.action() == "task_completed")?;
        let id = answer.id.clone();
        let is_first = refused.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| Fault::Refuse(StoreError::DuplicateEvent { id }))
    });
    let (store, doubler): (Arc<dyn Store>, _) = (faulty, Doubler::default());
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow("one_task", one_task).start().await.unwrap();
    let run = runtime.start("one_task", &4).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 1);
}

/// An event in the journal that cannot be decoded blocks the run, live and after a reload.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_journal_can_not_be_read() {
    let store = store();
    let build = || runtime(&store).workflow("wait", wait).start();
    let before = build().await.unwrap();
    let run = before.start("wait", &()).id("r").await.unwrap();
    let other = before.start("wait", &()).id("other").await.unwrap();
    append_to_run(&store, "r", "workflows.wait.timer_fired", json!("nonsense")).await;
    run.signal("other", &1).await.unwrap();
    assert_eq!(blocked(&run).await.code, "JOURNAL_UNREADABLE");
    let blocks = async |run: &RunHandle| {
        actions(run).await.iter().filter(|action| *action == "blocked").count()
    };
    // A request to cancel it, and an engine that could read it for a while.
    run.cancel("hopeless").await.unwrap();
    eventually("it is blocked again", || async { blocks(&run).await == 2 }).await;
    let unblocked = json!({ "cancelling": true });
    append_to_run(&store, "r", "workflows.wait.unblocked", unblocked).await;
    run.signal("other", &2).await.unwrap();
    eventually("it is blocked again", || async { blocks(&run).await == 3 }).await;
    assert_eq!(blocked(&run).await.code, "JOURNAL_UNREADABLE");
    before.shutdown(PATIENCE).await.unwrap();

    let after = build().await.unwrap();
    let run = after.handle("r").await.unwrap();
    run.signal("other", &3).await.unwrap();
    assert_eq!(blocked(&run).await.code, "JOURNAL_UNREADABLE");
    other.signal("go", &3).await.unwrap();
    let other = after.handle("other").await.unwrap();
    assert_eq!(result::<u32>(&other).await.unwrap(), 3);
    assert_eq!(blocks(&run).await, 3, "each load finds the last block");
}

/// An engine reads the journals of many runs together when it starts.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_only_the_run_whose_journal_can_not_be_read() {
    const RUNS: usize = 100;
    let inner = store();
    let client = runtime(&inner).workflow("one_step", one_step).client_only();
    let client = client.start().await.unwrap();
    for number in 0..RUNS {
        client.start("one_step", &()).id(format!("r{number}")).await.unwrap();
    }
    // One of the last to be read: the first ones are read alone.
    let ids = (0..RUNS).map(|number| format!("r{number}"));
    let last = ids.max_by_key(|id| Shard::of(id)).unwrap();
    let log = inner.read_log(0, 1000).await.unwrap();
    let is_last = |it: &&RecordedEvent| it.stream.run_id() == Some(&*last);
    let spoiled = log.iter().find(is_last).unwrap().position;
    let faulty = FaultyStore::new(Arc::clone(&inner));
    faulty.spoil_everywhere([spoiled]);
    // While a read takes this long, others are collected.
    #[allow(clippy::disallowed_methods, reason = "the store is slow")]
    faulty.on_call(|call| {
        let pause = || Box::pin(tokio::time::sleep(Duration::from_millis(100)));
        call.starts_with("read_stream").then(|| Fault::After(pause()))
    });
    let store: Arc<dyn Store> = faulty;
    let engine = runtime(&store).workflow("one_step", one_step).start().await.unwrap();
    let ended = async |status: &str| {
        let page = inner.runs(&RunFilter::default(), &PageRequest::first(RUNS)).await.unwrap();
        page.rows.iter().filter(|row| row.status.as_str() == status).count()
    };
    eventually("all runs are settled", || async {
        ended("completed").await + ended("blocked").await == RUNS
    })
    .await;
    assert_eq!(ended("blocked").await, 1);
    let run = engine.handle(&last).await.unwrap();
    assert_eq!(run.status().await.unwrap().status.as_str(), "blocked");
    assert_eq!(engine.failure(), None);
}

/// An event under another workflow's name is not an event of this run.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_be_ended_by_an_event_of_another_workflow() {
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("wait", wait).start().await.unwrap();
        let run = runtime.start("wait", &()).id("r").await.unwrap();
        append_to_run(&store, "r", "workflows.other.completed", json!({"result": 7})).await;
        append_to_run(&store, "r", "workflows.other.cancel_requested", json!({"reason": "no"}))
            .await;
        run.signal("go", &3).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn should_log_how_runs_end_and_that_the_store_is_back() {
    async fn panics(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        panic!("no code")
    }
    let logged = Logged::here();
    let faulty = FaultyStore::new(store());
    let refused = AtomicUsize::new(0);
    faulty.on_append(move |append| {
        let is_result = holds(append, "step_completed");
        let refuses = is_result && refused.fetch_add(1, Ordering::SeqCst) < 3;
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).workflow("one_step", one_step).workflow("panics", panics);
    let runtime = builder.workflow("wait", wait).workflow("one_task", one_task).start();
    let runtime = runtime.await.unwrap();
    for name in ["one_step", "panics", "wait"] {
        let run = runtime.start(name, &()).id(name).await.unwrap();
        if name == "wait" {
            run.cancel("enough").await.unwrap();
        }
        drop(result::<u32>(&run).await);
    }
    let run = runtime.start("one_task", &1).id("failing").await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "AGENT_NOT_FOUND");
    assert!(!logged.lines(&["WARN", "failing", "AGENT_NOT_FOUND"]).is_empty());
    for words in [
        ["INFO", "one_step", "completed"],
        ["INFO", "wait", "cancelled"],
        ["INFO", "failing", "failed"],
        ["WARN", "panics", "WORKFLOW_PANICKED"],
        ["WARN", "the store failed", "an error occurred"],
        ["INFO", "the store answers again", ""],
    ] {
        assert!(!logged.lines(&words).is_empty(), "{words:?} {:?}", logged.lines(&[]));
    }
}

/// A cancellation that arrives from this process while the run is being blocked is kept. It came before the
/// block, so another one ends the run.
#[tokio::test(flavor = "multi_thread")]
async fn should_receive_commands_while_it_is_being_blocked() {
    async fn panics(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        panic!("out of order")
    }
    let faulty = FaultyStore::new(store());
    let (handle, is_over) = (Arc::new(std::sync::OnceLock::<RunHandle>::new()), AtomicU32::new(0));
    let known = Arc::clone(&handle);
    faulty.on_append(move |append| {
        if !holds(append, "blocked") || is_over.fetch_add(1, Ordering::SeqCst) > 0 {
            return None;
        }
        let known = Arc::clone(&known);
        Some(Fault::After(Box::pin(async move {
            eventually("the run is known", || async { known.get().is_some() }).await;
            known.get().unwrap().cancel("hopeless").await.unwrap();
        })))
    });
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let runtime = runtime(&store).workflow("panics", panics).start().await.unwrap();
    let run = runtime.start("panics", &()).await.unwrap();
    handle.set(run.clone()).unwrap();
    let has = async |status: &str| run.status().await.unwrap().status.as_str() == status;
    eventually("it is blocked", || has("blocked")).await;
    run.cancel("for good").await.unwrap();
    eventually("it is cancelled", || has("cancelled")).await;
    let error = run.result::<u32>().await.unwrap_err();
    assert_eq!(error.failure().unwrap().message, "hopeless");
    runtime.shutdown(PATIENCE).await.unwrap();
}
