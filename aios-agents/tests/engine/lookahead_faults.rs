//! The lookahead of workflows while the store fails, other processes append and engines stop: nothing is
//! lost or repeated, and a replay sees what the code saw ahead.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    testing::replay,
    workflow::{FnWorkflow, Workflow},
};
use aios_core::{
    BoxFuture,
    store::{Append, StoreError},
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    engine::lookahead::{ahead, double_three_times, noting},
    run::races::{append_to_run, sneak_in},
    support::{
        faulty::{Fault, FaultyStore, holds, store_refuses, store_unavailable},
        workflows::{Doubler, actions, eventually, quick, result, runtime, sqlite, store},
    },
};

/// The response to the append that records the answer after a conflict is lost, and the append is
/// repeated.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_once_if_a_response_is_lost_after_a_conflict() {
    for inner in [store(), sqlite().await] {
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let appends = AtomicU32::new(0);
        faulty.on_append(move |append| {
            if !holds(append, "task_completed") {
                return None;
            }
            match appends.fetch_add(1, Ordering::SeqCst) {
                0 => Some(signaled_first(&inner, append)),
                1 => Some(Fault::LoseResponse(store_unavailable())),
                _ => None,
            }
        });
        let doubler = Doubler::default();
        let store: Arc<dyn Store> = faulty;
        let builder = runtime(&store).agent("doubler", doubler.clone());
        let builder = builder.workflow_dyn(ahead("double", double_three_times));
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("double", &1_u64).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 8);
        assert_eq!(doubler.0.load(Ordering::SeqCst), 3);
        let actions = actions(&run).await;
        let answers = actions.iter().filter(|action| *action == "task_completed").count();
        assert_eq!(answers, 3, "{actions:?}");
    }
}

/// Another engine records the same answer first, after a signal that this one has not seen.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_once_that_another_engine_has_recorded() {
    let plain = || -> Arc<dyn Workflow> {
        Arc::new(FnWorkflow::new("double", double_three_times).unwrap())
    };
    let looks_ahead = || ahead("double", double_three_times);
    for workflow in [plain as fn() -> Arc<dyn Workflow>, looks_ahead] {
        for inner in [store(), sqlite().await] {
            let faulty = FaultyStore::new(Arc::clone(&inner));
            let is_done = AtomicBool::new(false);
            faulty.on_append(move |append| {
                if !holds(append, "task_completed") || is_done.swap(true, Ordering::SeqCst) {
                    return None;
                }
                let (inner, answer) = (Arc::clone(&inner), append.events[0].clone());
                let (stream, run_id) =
                    (append.stream.clone(), append.stream.run_id().unwrap().to_owned());
                Some(Fault::After(Box::pin(async move {
                    let signal = json!({ "name": "other", "payload": null });
                    append_to_run(&inner, &run_id, "workflows.double.signaled", signal).await;
                    inner.append_one(Append::new(stream, vec![answer])).await.unwrap();
                })))
            });
            let doubler = Doubler::default();
            let store: Arc<dyn Store> = faulty;
            let builder = runtime(&store).agent("doubler", doubler.clone());
            let runtime = builder.workflow_dyn(workflow()).start().await.unwrap();
            let run = runtime.start("double", &1_u64).await.unwrap();
            assert_eq!(result::<u64>(&run).await.unwrap(), 8);
            assert_eq!(doubler.0.load(Ordering::SeqCst), 3);
            let actions = actions(&run).await;
            let answers = actions.iter().filter(|action| *action == "task_completed").count();
            assert_eq!(answers, 3, "{actions:?}");
        }
    }
}

/// Another process sends a signal before an append.
fn signaled_first(inner: &Arc<dyn Store>, append: &Append) -> Fault<StoreError> {
    let (inner, run_id) = (Arc::clone(inner), append.stream.run_id().unwrap().to_owned());
    let first: BoxFuture<'static, ()> = Box::pin(async move {
        let signal = json!({"name": "other", "payload": null});
        append_to_run(&inner, &run_id, "workflows.double.signaled", signal).await;
    });
    Fault::After(first)
}

/// The store refuses what the code requested ahead, and takes the answer alone.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_the_answer_before_what_the_store_refuses() {
    async fn report(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let number = context.task::<u64>("doubler", &1_u64).await?;
        context.set_status("doubled");
        context.task::<u64>("doubler", &number).await
    }

    for is_duplicate in [false, true] {
        let faulty = FaultyStore::new(store());
        faulty.on_append(move |append| {
            let mut events = append.events.iter();
            let id = events.find(|it| it.event_type.action() == "status_set")?.id.clone();
            let duplicate = || StoreError::DuplicateEvent { id };
            Some(Fault::Refuse(if is_duplicate { duplicate() } else { store_refuses() }))
        });
        let doubler = Doubler::default();
        let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let builder = runtime(&store).agent("doubler", doubler.clone());
        let runtime = builder.workflow_dyn(ahead("report", report)).start().await.unwrap();
        let run = runtime.start("report", &()).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Blocked { .. }), "{error:?}");
        assert_eq!(actions(&run).await, ["started", "task_assigned", "task_completed", "blocked"]);
        faulty.heal();
        run.resume().await.unwrap();
        eventually("the run should continue", async || {
            run.status().await.unwrap().status.is_final()
        })
        .await;
        assert_eq!(result::<u64>(&run).await.unwrap(), 4);
        assert_eq!(doubler.0.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_compensate_if_a_cancellation_came_before_the_end() {
    async fn charge(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        context.compensate("refund", |context| async move {
            context.task::<u64>("doubler", &0_u64).await.map(drop)
        });
        context.task::<u64>("doubler", &1_u64).await
    }

    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let reason = json!({"reason": "changed my mind"});
    sneak_in(&faulty, &inner, "completed", "workflows.charge.cancel_requested", reason);
    let store: Arc<dyn Store> = faulty;
    let doubler = Doubler::default();
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow_dyn(ahead("charge", charge)).start().await.unwrap();
    let run = runtime.start("charge", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "RUN_CANCELLED");
    let expected = [
        "started",
        "task_assigned",
        "cancel_requested",
        "task_completed",
        "task_assigned",
        "task_completed",
        "cancelled",
    ];
    assert_eq!(actions(&run).await, expected);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 2);
}

/// Output that the code wrote ahead would stay if the journal refuted it.
#[tokio::test(flavor = "multi_thread")]
async fn should_store_only_output_that_follows_from_the_journal() {
    async fn say(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        let words = context.stream("words")?;
        let answer = context.task::<u64>("doubler", &1_u64);
        let signal = context.signal::<u64>("go");
        let first = aios_agents::select! {
            answer = answer => answer.map(|_| "answer")?,
            signal = signal => signal.map(|_| "signal")?,
        };
        words.write(first).unwrap();
        context.task::<u64>("doubler", &2_u64).await?;
        words.write("end").unwrap();
        Ok(())
    }

    for is_refuted in [true, false] {
        let inner = store();
        let faulty = FaultyStore::new(Arc::clone(&inner));
        if is_refuted {
            let signal = json!({"name": "go", "payload": 7});
            sneak_in(&faulty, &inner, "task_completed", "workflows.say.signaled", signal);
        }
        let store: Arc<dyn Store> = faulty;
        let builder = runtime(&store).agent("doubler", Doubler::default());
        let runtime = builder.workflow_dyn(ahead("say", say)).start().await.unwrap();
        let run = runtime.start("say", &()).await.unwrap();
        result::<()>(&run).await.unwrap();
        let items = run.stream("words").read_from(0);
        let words: Vec<String> = items
            .map(|item| match item.unwrap().content {
                aios_agents::output::OutputContent::Item(word) => word.decode().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
            .await;
        assert_eq!(words, [if is_refuted { "signal" } else { "answer" }, "end"]);
    }
}

/// The values that code sees in addition to the outcomes of its operations.
type Seen = (aios_core::event::Timestamp, uuid::Uuid, u64, u32);

#[tokio::test(flavor = "multi_thread")]
async fn should_see_in_a_replay_what_it_saw_ahead() {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let look = move |context: WorkflowContext, (): ()| {
        let seen = Arc::clone(&notes);
        async move {
            context.task::<u64>("doubler", &1_u64).await?;
            let version = context.version("look", 1..=2)?;
            let random = context.random().to_bits();
            let look = (context.now(), context.uuid(), random, version);
            seen.lock().unwrap().push(look);
            context.set_status("looked");
            context.emit(Event::new("shop.order.placed".parse()?, "shop", &version)?)?;
            context.signal::<u64>("go").await
        }
    };
    let (store, appends) = noting(sqlite().await);
    let builder = || {
        let builder = runtime(&store).agent("doubler", Doubler::default());
        builder.workflow_dyn(ahead("look", look.clone()))
    };
    let first = builder().start().await.unwrap();
    let run = first.start("look", &()).id("r").await.unwrap();
    eventually("it waits", async || actions(&run).await.len() == 7).await;
    let last = appends.take().pop().unwrap();
    let together = ["task_completed", "version_marked", "status_set", "event_emitted", "placed"];
    assert_eq!(last, together);
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    let second = builder().start().await.unwrap();
    let run = second.handle("r").await.unwrap();
    run.signal("go", &7).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
    let mut seen = seen.lock().unwrap().clone();
    assert!(seen.len() > 1, "the run was replayed");
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

/// Timers that are due together, a race of them, and tasks that end while an append is in flight.
async fn at_once(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    let pause = || context.sleep(Duration::from_millis(1));
    aios_agents::try_join!(pause(), pause(), pause())?;
    let (index, woken) = race([pause(), pause()]).await;
    woken?;
    let tasks = (0..4_u64).map(|number| context.task::<u64>("doubler", &number));
    let mut sum = u64::try_from(index)?;
    for number in futures_util::future::try_join_all(tasks).await? {
        sum = context.task::<u64>("doubler", &(sum + number)).await?;
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replay_outcomes_that_came_together() {
    let workflow: Arc<dyn Workflow> = ahead("at_once", at_once);
    let builder = runtime(&store()).agent("doubler", Doubler::default());
    let runtime = builder.workflow_dyn(Arc::clone(&workflow)).start().await.unwrap();
    for _ in 0..20 {
        let run = runtime.start("at_once", &()).await.unwrap();
        result::<u64>(&run).await.unwrap();
        let journal = run.journal(0, 1000).await.unwrap();
        let events: Vec<Event> = journal.into_iter().map(|recorded| recorded.event).collect();
        replay(Arc::clone(&workflow), &events).await.unwrap();
    }
}

/// Fails always.
struct Broken;

impl Agent for Broken {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, _: &TaskContext, (): ()) -> Result<(), TaskError> {
        Err(std::io::Error::other("not today").into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_append_a_final_failure_together_with_the_next_task() {
    async fn fall_back(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        match context.task::<()>("broken", &()).retry(quick(2)).await {
            Ok(()) => Ok(0),
            Err(_) => context.task::<u64>("doubler", &1_u64).await,
        }
    }

    let (store, appends) = noting(store());
    let builder = runtime(&store).agent("doubler", Doubler::default()).agent("broken", Broken);
    let runtime = builder.workflow_dyn(ahead("fall_back", fall_back)).start().await.unwrap();
    let run = runtime.start("fall_back", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 2);
    let expected: [&[&str]; 6] = [
        &["started"],
        &["task_assigned"],
        &["task_failed", "retry_scheduled"],
        &["task_assigned"],
        &["task_failed", "operation_failed", "task_assigned"],
        &["task_completed", "completed"],
    ];
    assert_eq!(appends.take(), expected);
}

/// The process dies while the append of a lookahead is in flight: before it is stored, and after.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_after_a_crash_in_a_lookahead() {
    for is_stored in [false, true] {
        let inner = sqlite().await;
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let (reached, hangs) = (Arc::new(Notify::new()), AtomicBool::new(false));
        let signal = Arc::clone(&reached);
        faulty.on_append(move |append| {
            if !holds(append, "task_completed") || hangs.swap(true, Ordering::SeqCst) {
                return None;
            }
            let signal = Arc::clone(&signal);
            let forever: BoxFuture<'static, ()> = Box::pin(async move {
                signal.notify_one();
                std::future::pending().await
            });
            Some(if is_stored { Fault::Until(forever) } else { Fault::After(forever) })
        });
        let doubler = Doubler::default();
        let start = async |store: &Arc<dyn Store>| {
            let builder = runtime(store).agent("doubler", doubler.clone());
            builder.workflow_dyn(ahead("double", double_three_times)).start().await.unwrap()
        };
        let store: Arc<dyn Store> = faulty;
        let first = start(&store).await;
        let run = first.start("double", &1_u64).id("r").await.unwrap();
        reached.notified().await;
        drop((run, first));
        let second = start(&inner).await;
        let run = second.handle("r").await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 8);
        // Only a task whose answer is lost with the process is assigned again.
        let expected = if is_stored { 3 } else { 4 };
        assert_eq!(doubler.0.load(Ordering::SeqCst), expected, "stored: {is_stored}");
        let actions = actions(&run).await;
        let answers = actions.iter().filter(|action| *action == "task_completed").count();
        assert_eq!(answers, 3, "{actions:?}");
    }
}

/// The code has continued as another run when a signal comes first: the successor gets the signal.
#[tokio::test(flavor = "multi_thread")]
async fn should_pass_on_a_signal_that_came_before_the_end() {
    async fn chain(context: WorkflowContext, left: u64) -> Result<u64, WorkflowError> {
        let doubled = context.task::<u64>("doubler", &left).await?;
        match left {
            0 => Ok(doubled + context.signal::<u64>("go").await?),
            left => Err(WorkflowError::continue_as_new(&(left - 1))),
        }
    }

    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let signal = json!({"name": "go", "payload": 7});
    sneak_in(&faulty, &inner, "task_completed", "workflows.chain.signaled", signal);
    let doubler = Doubler::default();
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow_dyn(ahead("chain", chain)).start().await.unwrap();
    let run = runtime.start("chain", &1_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 2);
}
