//! The state that a fork shares with the run that it was forked from, and its own state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::BoxFuture;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::workflows::{Doubler, eventually, result, runtime, sqlite, store};

/// Draws before each of its four steps, and twice before the last.
async fn drawer(context: WorkflowContext, (): ()) -> Result<Vec<(Uuid, Uuid)>, WorkflowError> {
    let mut seen = Vec::new();
    for number in 1..=4_u32 {
        let drawn = context.uuid();
        if number == 4 {
            assert!((0.0..1.0).contains(&context.random()));
        }
        let recorded =
            context.step(format!("s{number}"), move || async move { Ok::<_, TaskError>(drawn) });
        seen.push((drawn, recorded.await?));
    }
    Ok(seen)
}

type Seen = Vec<(Uuid, Uuid)>;

/// The code draws the same values as when its steps were recorded, up to the fork and no further.
fn assert_forked(original: &Seen, fork: &Seen, operation: u64) {
    for (number, (one, other)) in (1..).zip(original.iter().zip(fork)) {
        assert_eq!(other.0, other.1, "operation {number} of a fork at {operation}");
        assert_eq!(one.0 == other.0, number <= operation, "{number} of a fork at {operation}");
    }
}

/// Counts its steps. The second one fails until `may_work` is set.
fn flaky(
    counts: &Arc<[AtomicU32; 3]>,
    may_work: &Arc<AtomicBool>,
) -> impl Fn(WorkflowContext, ()) -> BoxFuture<'static, Result<String, WorkflowError>> + use<> {
    let (counts, may_work) = (Arc::clone(counts), Arc::clone(may_work));
    move |context, ()| {
        let (counts, may_work) = (Arc::clone(&counts), Arc::clone(&may_work));
        Box::pin(async move {
            for number in 0..3_usize {
                let (counts, may_work) = (Arc::clone(&counts), Arc::clone(&may_work));
                let step = move || {
                    counts[number].fetch_add(1, Ordering::SeqCst);
                    std::future::ready(match number == 1 && !may_work.load(Ordering::SeqCst) {
                        true => Err(TaskError::terminal(Failure::new("NO_SPACE", "no space"))),
                        false => Ok(()),
                    })
                };
                context.step(format!("s{number}"), step).await?;
            }
            context.signal::<String>("name").await
        })
    }
}

fn counted(counts: &[AtomicU32; 3]) -> [u32; 3] {
    [0, 1, 2].map(|number| counts[number].load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_retry_a_run_from_its_failed_operation() {
    for store in [store(), sqlite().await] {
        let (counts, may_work) = (Arc::<[AtomicU32; 3]>::default(), Arc::<AtomicBool>::default());
        let runtime =
            runtime(&store).workflow("flaky", flaky(&counts, &may_work)).start().await.unwrap();
        let run = runtime.start("flaky", &()).id("original");
        // A signal that comes before the failure is kept, although the run has not taken it.
        let run = run.signal("name", "Ada").await.unwrap();
        assert_eq!(result::<String>(&run).await.unwrap_err().code(), "NO_SPACE");
        let again = run.retry("again").await.unwrap();
        assert_eq!(result::<String>(&again).await.unwrap_err().code(), "NO_SPACE");
        assert_eq!(counted(&counts), [1, 2, 0], "the failed operation is done again");
        may_work.store(true, Ordering::SeqCst);
        let last = again.retry("last").await.unwrap();
        assert_eq!(result::<String>(&last).await.unwrap(), "Ada");
        assert_eq!(counted(&counts), [1, 3, 1]);
        let journal = last.journal(0, 1).await.unwrap();
        let started: Value = journal[0].event.data().unwrap();
        assert_eq!(
            (&started["retry_of"], &started["forked_from"]),
            (&json!("again"), &json!("again"))
        );
        assert_eq!(last.retry("more").await.unwrap_err().code(), "RUN_NOT_FAILED");
        assert_eq!(run.retry("last").await.unwrap_err().code(), "RUN_EXISTS");
    }
}

async fn broken(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    Err(WorkflowError::failed(Failure::new("BROKEN", "by its own code")))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_retry_a_run_without_a_failed_operation() {
    let runtime = runtime(&store()).workflow("broken", broken).start().await.unwrap();
    let run = runtime.start("broken", &()).await.unwrap();
    assert!(result::<()>(&run).await.is_err());
    assert_eq!(run.retry("again").await.unwrap_err().code(), "NO_FAILED_OPERATION");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_draw_in_a_fork_what_the_run_drew_before_it() {
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("drawer", drawer).start().await.unwrap();
        let run = runtime.start("drawer", &()).id("original").await.unwrap();
        let original: Seen = result(&run).await.unwrap();
        for operation in 1..=4 {
            let fork = run.fork(operation, format!("fork{operation}")).await.unwrap();
            let forked: Seen = result(&fork).await.unwrap();
            assert_forked(&original, &forked, operation);
            for again in 1..=4 {
                let second = fork.fork(again, format!("fork{operation}-{again}")).await.unwrap();
                let second: Seen = result(&second).await.unwrap();
                assert_forked(&forked, &second, again);
                assert_forked(&original, &second, operation.min(again));
            }
        }
    }
}

async fn kid(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.signal::<()>("grow").await?;
    Ok(number)
}

/// Has a child, a task and a timer open when it takes a step.
async fn busy(context: WorkflowContext, (): ()) -> Result<(u64, u64, u32), WorkflowError> {
    let child = context.child::<u64>("kid", &1);
    let task = context.task::<u64>("doubler", &2);
    let timer = context.sleep(Duration::from_millis(300));
    let step = async { context.step("gate", || async { Ok::<_, TaskError>(7) }).await };
    let (child, task, timer, step) = aios_agents::join!(child, task, timer, step);
    timer?;
    Ok((child?, task?, step?))
}

/// Operations that were open at the fork begin again in the fork, and belong to it alone.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_open_operations_again_in_a_fork() {
    for store in [store(), sqlite().await] {
        let asked = Arc::new(AtomicU32::new(0));
        let runtime = runtime(&store)
            .agent("doubler", Doubler(Arc::clone(&asked)))
            .workflow("busy", busy)
            .workflow("kid", kid)
            .start()
            .await
            .unwrap();
        let run = runtime.start("busy", &()).id("r").await.unwrap();
        eventually("the child of the original starts", || async {
            runtime.handle("r~1").await.is_ok()
        })
        .await;
        for operation in 1..=4_u64 {
            let fork = run.fork(operation, format!("f{operation}")).await.unwrap();
            let child = format!("f{operation}~1");
            eventually("the child of the fork starts", || async {
                runtime.handle(&child).await.is_ok()
            })
            .await;
            runtime.handle(&child).await.unwrap().signal("grow", &()).await.unwrap();
            let forked: (u64, u64, u32) = result(&fork).await.unwrap();
            assert_eq!(forked, (1, 4, 7), "fork at {operation}");
        }
        runtime.handle("r~1").await.unwrap().signal("grow", &()).await.unwrap();
        assert_eq!(result::<(u64, u64, u32)>(&run).await.unwrap(), (1, 4, 7));
        assert!(asked.load(Ordering::SeqCst) >= 4);
    }
}
