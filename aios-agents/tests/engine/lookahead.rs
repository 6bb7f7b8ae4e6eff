//! The lookahead of workflows that allow it: an outcome and what the code requests next share an append,
//! and nothing takes effect before it is durable.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    workflow::{FnWorkflow, Workflow},
};
use aios_core::store::{Append, RunStatus, StoreError};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    run::races::sneak_in,
    support::{
        faulty::{Fault, FaultyStore, holds, store_unavailable},
        workflows::{Doubler, actions, eventually, quick, result, runtime, sqlite, store},
    },
};

/// The actions of each append to a journal, in order.
#[derive(Clone, Default)]
pub(crate) struct Appends(Arc<Mutex<Vec<Vec<String>>>>);

impl Appends {
    fn note(&self, append: &Append) {
        if append.stream.run_id().is_some() {
            let actions = append.events.iter().map(|event| event.event_type.action().to_owned());
            self.0.lock().unwrap().push(actions.collect());
        }
    }

    pub(crate) fn take(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A workflow that may look ahead.
pub(crate) fn ahead<F, Fut, I, O>(name: &str, function: F) -> Arc<dyn Workflow>
where
    F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + 'static,
{
    Arc::new(FnWorkflow::new(name, function).unwrap().with_lookahead())
}

/// A store that notes the appends to journals.
pub(crate) fn noting(inner: Arc<dyn Store>) -> (Arc<dyn Store>, Appends) {
    let (faulty, appends) = (FaultyStore::new(inner), Appends::default());
    let noted = appends.clone();
    faulty.on_append(move |append| {
        noted.note(append);
        None
    });
    (faulty, appends)
}

pub(crate) async fn double_three_times(
    context: WorkflowContext,
    number: u64,
) -> Result<u64, WorkflowError> {
    let mut number = number;
    for _ in 0..3 {
        number = context.task::<u64>("doubler", &number).await?;
    }
    Ok(number)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_append_an_answer_together_with_the_next_task() {
    for inner in [store(), sqlite().await] {
        let (store, appends) = noting(inner);
        let builder = runtime(&store).agent("doubler", Doubler::default());
        let runtime =
            builder.workflow_dyn(ahead("double", double_three_times)).start().await.unwrap();
        let run = runtime.start("double", &1_u64).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 8);
        let expected: [&[&str]; 5] = [
            &["started"],
            &["task_assigned"],
            &["task_completed", "task_assigned"],
            &["task_completed", "task_assigned"],
            &["task_completed", "completed"],
        ];
        assert_eq!(appends.take(), expected);
    }
}

/// The result of a step would be lost by a crash. The code sees it once it is durable.
#[tokio::test(flavor = "multi_thread")]
async fn should_look_ahead_of_a_timer_but_not_of_a_step() {
    async fn rest(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        context.step("greet", || async { Ok::<_, TaskError>(1) }).await?;
        context.sleep(Duration::from_millis(1)).await
    }

    let (store, appends) = noting(store());
    let runtime = runtime(&store).workflow_dyn(ahead("rest", rest)).start().await.unwrap();
    let run = runtime.start("rest", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    let expected: [&[&str]; 4] =
        [&["started"], &["step_completed"], &["timer_started"], &["timer_fired", "completed"]];
    assert_eq!(appends.take(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_look_ahead_unless_the_workflow_allows_it() {
    let (store, appends) = noting(store());
    let builder = runtime(&store).agent("doubler", Doubler::default());
    let runtime = builder.workflow("double", double_three_times).start().await.unwrap();
    let run = runtime.start("double", &1_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
    assert!(appends.take().iter().all(|actions| actions.len() == 1));
}

/// A task, then a step and a task at once.
async fn fan_out(
    context: WorkflowContext,
    began: Arc<AtomicBool>,
) -> Result<(u64, u64), WorkflowError> {
    let number = context.task::<u64>("doubler", &1_u64).await?;
    let step = context.step("greet", || async {
        began.store(true, Ordering::SeqCst);
        Ok::<_, TaskError>(number)
    });
    aios_agents::try_join!(step, context.task::<u64>("doubler", &number))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_begin_nothing_before_the_append_is_durable() {
    let faulty = FaultyStore::new(store());
    let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&reached), Arc::clone(&gate));
    faulty.on_append(move |append| {
        let (reached, gate) = (Arc::clone(&signals.0), Arc::clone(&signals.1));
        holds(append, "task_completed").then(|| {
            Fault::After(Box::pin(async move {
                reached.notify_one();
                gate.notified().await;
            }))
        })
    });
    let (doubler, began) = (Doubler::default(), Arc::new(AtomicBool::new(false)));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let begun = Arc::clone(&began);
    let runtime = runtime(&store)
        .agent("doubler", doubler.clone())
        .workflow_dyn(ahead("fan_out", move |context, ()| fan_out(context, Arc::clone(&begun))))
        .start()
        .await
        .unwrap();
    let run = runtime.start("fan_out", &()).await.unwrap();
    reached.notified().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!began.load(Ordering::SeqCst), "the step began before its cause was durable");
    assert_eq!(doubler.0.load(Ordering::SeqCst), 1, "the task was dispatched too early");
    faulty.heal();
    gate.notify_one();
    assert_eq!(result::<(u64, u64)>(&run).await.unwrap(), (2, 4));
    assert!(began.load(Ordering::SeqCst));
}

/// Doubles a number, and then another one that depends on whether the signal came first.
async fn answer_or_signal(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    let answer = context.task::<u64>("doubler", &1_u64);
    let signal = context.signal::<u64>("go");
    let next = aios_agents::select! {
        answer = answer => answer? * 100,
        signal = signal => signal?,
    };
    context.task::<u64>("doubler", &next).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_journal_if_another_process_appended_first() {
    for inner in [store(), sqlite().await] {
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let signal = json!({"name": "go", "payload": 7});
        sneak_in(&faulty, &inner, "task_completed", "workflows.choose.signaled", signal);
        let doubler = Doubler::default();
        let store: Arc<dyn Store> = faulty;
        let runtime = runtime(&store)
            .agent("doubler", doubler.clone())
            .workflow_dyn(ahead("choose", answer_or_signal))
            .start()
            .await
            .unwrap();
        let run = runtime.start("choose", &()).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 14);
        let expected = [
            "started",
            "task_assigned",
            "signaled",
            "task_completed",
            "task_assigned",
            "task_completed",
            "completed",
        ];
        assert_eq!(actions(&run).await, expected);
        assert_eq!(
            doubler.0.load(Ordering::SeqCst),
            2,
            "a task of the other branch was dispatched"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_dispatch_nothing_if_the_run_was_paused_first() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    sneak_in(&faulty, &inner, "task_completed", "workflows.double.paused", json!({}));
    let doubler = Doubler::default();
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow_dyn(ahead("double", double_three_times)).start().await.unwrap();
    let run = runtime.start("double", &1_u64).await.unwrap();
    let recorded = ["started", "task_assigned", "paused", "task_completed"];
    eventually("the answer should be recorded", async || actions(&run).await == recorded).await;
    assert_eq!(run.status().await.unwrap().status, RunStatus::Paused);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 1);
    run.resume().await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 3);
}

/// A timer that fired in a refuted lookahead fires again.
#[tokio::test(flavor = "multi_thread")]
async fn should_fire_a_timer_again_if_another_process_appended_first() {
    async fn nap(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(Duration::from_millis(1)).await?;
        context.step("wake", || async { Ok::<_, TaskError>(1) }).await
    }

    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let signal = json!({"name": "go", "payload": null});
    sneak_in(&faulty, &inner, "timer_fired", "workflows.nap.signaled", signal);
    let store: Arc<dyn Store> = faulty;
    let runtime = runtime(&store).workflow_dyn(ahead("nap", nap)).start().await.unwrap();
    let run = runtime.start("nap", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let expected =
        ["started", "timer_started", "signaled", "timer_fired", "step_completed", "completed"];
    assert_eq!(actions(&run).await, expected);
}

/// The code must see the failure that replaces an answer, not the answer.
#[tokio::test(flavor = "multi_thread")]
async fn should_show_the_failure_that_replaces_an_answer_which_is_too_large() {
    async fn fallback(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        match context.task::<u64>("doubler", &1_u64).await {
            Ok(number) => context.task::<u64>("doubler", &number).await,
            Err(error) => {
                assert!(error.to_string().contains("the store accepts at most 5"), "{error}");
                context.task::<u64>("doubler", &50_u64).await
            }
        }
    }

    let faulty = FaultyStore::new(store());
    let refused = AtomicU32::new(0);
    faulty.on_append(move |append| {
        let answer = append.events.iter().find(|it| it.event_type.action() == "task_completed")?;
        // The append with the next task, and the answer alone.
        (refused.fetch_add(1, Ordering::SeqCst) < 2).then(|| {
            let id = answer.id.clone();
            Fault::Refuse(StoreError::TooLarge { id, bytes: 10, limit: 5 })
        })
    });
    let doubler = Doubler::default();
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow_dyn(ahead("fallback", fallback)).start().await.unwrap();
    let run = runtime.start("fallback", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 100);
    let expected = [
        "started",
        "task_assigned",
        "operation_failed",
        "task_assigned",
        "task_completed",
        "completed",
    ];
    assert_eq!(actions(&run).await, expected);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_dispatch_once_if_the_response_to_the_append_was_lost() {
    let faulty = FaultyStore::new(store());
    faulty.on_append({
        let lost = AtomicU32::new(0);
        move |append| {
            let loses = holds(append, "task_completed") && lost.fetch_add(1, Ordering::SeqCst) < 2;
            loses.then(|| Fault::LoseResponse(store_unavailable()))
        }
    });
    let doubler = Doubler::default();
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).agent("doubler", doubler.clone());
    let runtime = builder.workflow_dyn(ahead("double", double_three_times)).start().await.unwrap();
    let run = runtime.start("double", &1_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
    assert_eq!(doubler.0.load(Ordering::SeqCst), 3);
}

/// The outcome that made the code panic is durable before the run is blocked.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_the_answer_that_blocks_the_run() {
    async fn fragile(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let number = context.task::<u64>("doubler", &1_u64).await?;
        assert!(number > 2, "too small");
        context.task::<u64>("doubler", &number).await
    }

    let (store, appends) = noting(store());
    let builder = runtime(&store).agent("doubler", Doubler::default());
    let runtime = builder.workflow_dyn(ahead("fragile", fragile)).start().await.unwrap();
    let run = runtime.start("fragile", &()).await.unwrap();
    let error = result::<u64>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Blocked { .. }), "{error:?}");
    let expected: [&[&str]; 4] =
        [&["started"], &["task_assigned"], &["task_completed"], &["blocked"]];
    assert_eq!(appends.take(), expected);
}

/// A successor exists before the end of its predecessor is recorded, even after a lookahead.
#[tokio::test(flavor = "multi_thread")]
async fn should_start_the_successor_before_the_run_ends() {
    async fn chain(context: WorkflowContext, left: u64) -> Result<u64, WorkflowError> {
        let doubled = context.task::<u64>("doubler", &left).await?;
        match left {
            0 => Ok(doubled),
            left => Err(WorkflowError::continue_as_new(&(left - 1))),
        }
    }

    let (store, appends) = noting(store());
    let builder = runtime(&store).agent("doubler", Doubler::default());
    let runtime = builder.workflow_dyn(ahead("chain", chain)).start().await.unwrap();
    let run = runtime.start("chain", &1_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 0);
    let expected: [&[&str]; 7] = [
        &["started"],
        &["task_assigned"],
        &["task_completed"],
        &["started"],
        &["continued"],
        &["task_assigned"],
        &["task_completed", "completed"],
    ];
    assert_eq!(appends.take(), expected);
}

/// Steps that run beside a task would begin again if the run was loaded again.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_look_ahead_while_a_step_runs() {
    async fn beside(
        context: WorkflowContext,
        (release, attempts): (Arc<Notify>, Arc<AtomicU32>),
    ) -> Result<u64, WorkflowError> {
        let step = context.step("wait", || async {
            attempts.fetch_add(1, Ordering::SeqCst);
            release.notified().await;
            Ok::<_, TaskError>(())
        });
        let step = step.retry(quick(1));
        let tasks = double_three_times(context.clone(), 1);
        let ((), doubled) = aios_agents::try_join!(step, async {
            let doubled = tasks.await?;
            release.notify_one();
            Ok(doubled)
        })?;
        Ok(doubled)
    }

    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let signal = json!({"name": "go", "payload": null});
    sneak_in(&faulty, &inner, "task_completed", "workflows.beside.signaled", signal);
    let (store, attempts): (Arc<dyn Store>, _) = (faulty, Arc::new(AtomicU32::new(0)));
    let shared = (Arc::new(Notify::new()), Arc::clone(&attempts));
    let builder = runtime(&store).agent("doubler", Doubler::default());
    let builder =
        builder.workflow_dyn(ahead("beside", move |context, ()| beside(context, shared.clone())));
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("beside", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "the step began again");
}
