//! Commands and signals that arrive at the moment when a run ends or continues as another one, and
//! concurrent starts of the same run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use futures_util::future::join_all;

use crate::support::workflows::{PATIENCE, eventually, result, runtime, sqlite, store};

/// Runs of a chain.
const LINKS: u32 = 20;

/// Takes the signals that were sent in the meantime, and continues as the next link until it is
/// asked to stop. Every link runs a step. Returns the number of links and the sum of the signals.
async fn link(context: WorkflowContext, state: (u32, u64)) -> Result<(u32, u64), WorkflowError> {
    let (number, mut sum) = state;
    context.run("step", || async {}).await?;
    while let Ok(amount) = context.signal::<u64>("add").timeout(Duration::ZERO).await {
        sum += amount;
    }
    if number >= LINKS {
        context.signal::<()>("stop").await?;
        while let Ok(amount) = context.signal::<u64>("add").timeout(Duration::ZERO).await {
            sum += amount;
        }
        return Ok((number, sum));
    }
    Err(WorkflowError::continue_as_new(&(number + 1, sum)))
}

/// Sends from two processes while the chain grows; every signal that was accepted is taken once.
pub(crate) async fn takes_every_signal(store: Arc<dyn Store>) {
    let build = || runtime(&store).workflow("link", link);
    let engine = build().start().await.unwrap();
    let outside = build().client_only().start().await.unwrap();
    let run = engine.start("link", &(1, 0)).id("chain").await.unwrap();
    let accepted = AtomicU32::new(0);
    let senders = (0..4_u32).map(|sender| {
        let (accepted, engine, outside) = (&accepted, &engine, &outside);
        async move {
            for round in 0..25_u32 {
                let runtime = if (sender + round) % 2 == 0 { engine } else { outside };
                match sender {
                    // A start with a signal reaches the current run.
                    3 => drop(
                        runtime
                            .signal_with_start("link", "chain", &(1, 0), "add", &1_u64)
                            .await
                            .unwrap(),
                    ),
                    _ => {
                        runtime.handle("chain").await.unwrap().signal("add", &1_u64).await.unwrap()
                    }
                }
                accepted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    join_all(senders).await;
    run.signal("stop", &()).await.unwrap();
    let (links, sum) = result::<(u32, u64)>(&run).await.unwrap();
    assert_eq!((links, sum), (LINKS, u64::from(accepted.load(Ordering::SeqCst))));
    for name in ["signal", "cancel", "pause", "resume"] {
        let refused = command(&run, name).await.unwrap_err();
        assert_eq!(refused.code(), "RUN_ENDED", "{name}");
    }
    engine.shutdown(PATIENCE).await.unwrap();
}

async fn command(run: &RunHandle, name: &str) -> Result<(), RuntimeError> {
    match name {
        "signal" => run.signal("add", &1_u64).await,
        "cancel" => run.cancel("enough").await,
        "pause" => run.pause().await,
        _ => run.resume().await,
    }
}

/// A command that arrives while the chain grows reaches the current link.
pub(crate) async fn obeys_every_command(store: Arc<dyn Store>) {
    let build = || runtime(&store).workflow("link", link);
    let engine = build().start().await.unwrap();
    let outside = build().client_only().start().await.unwrap();
    for round in 0..6_u64 {
        let (from, other) = if round % 2 == 0 { (&engine, &outside) } else { (&outside, &engine) };
        let id = format!("cancelled-{round}");
        let run = engine.start("link", &(1, 0)).id(&id).await.unwrap();
        pause(round).await;
        from.handle(&id).await.unwrap().cancel("enough").await.unwrap();
        let cancelled = result::<(u32, u64)>(&run).await.unwrap_err();
        assert!(matches!(cancelled, RunError::Cancelled { .. }), "{id}: {cancelled:?}");

        let id = format!("paused-{round}");
        let run = engine.start("link", &(1, 0)).id(&id).await.unwrap();
        pause(round).await;
        from.handle(&id).await.unwrap().pause().await.unwrap();
        let is_paused = || async { run.status().await.unwrap().status.as_str() == "paused" };
        eventually(&format!("{id} is paused"), is_paused).await;
        // A fork of a paused run is not paused.
        let fork = run.fork(1, format!("fork-{round}")).await;
        other.handle(&id).await.unwrap().signal("stop", &()).await.unwrap();
        other.handle(&id).await.unwrap().resume().await.unwrap();
        let (links, _) = result::<(u32, u64)>(&run).await.unwrap();
        assert_eq!(links, LINKS, "{id}");
        match fork {
            Ok(fork) => {
                fork.cancel("enough").await.unwrap();
                let ended = result::<(u32, u64)>(&fork).await.unwrap_err();
                assert!(matches!(ended, RunError::Cancelled { .. }), "{id}: {ended:?}");
            }
            // It was paused before its first step.
            Err(error) => assert_eq!(error.code(), "OPERATION_NOT_FOUND", "{id}"),
        }
    }
    engine.shutdown(PATIENCE).await.unwrap();
}

#[allow(clippy::disallowed_methods, reason = "the command comes when it does")]
async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis * 5)).await;
}

/// Waits for a given number of signals, and returns their sum.
async fn collect(context: WorkflowContext, count: u32) -> Result<u64, WorkflowError> {
    let mut sum = 0;
    for _ in 0..count {
        sum += context.signal::<u64>("add").await?;
    }
    Ok(sum)
}

/// Many callers start the same run with a signal at once. There is one run, and it gets every
/// signal once, including one that several callers send under one id.
pub(crate) async fn starts_once_with_every_signal(store: Arc<dyn Store>) {
    const RIVALS: u32 = 12;
    let build = || runtime(&store).workflow("collect", collect);
    let engine = build().start().await.unwrap();
    let outside = build().client_only().start().await.unwrap();
    for round in 0..4 {
        let id = format!("collect-{round}");
        let starts = (0..RIVALS).map(|rival| {
            let runtime = if rival % 2 == 0 { &engine } else { &outside };
            let id = id.clone();
            async move {
                let start = runtime
                    .signal_with_start("collect", id, &(RIVALS + 1), "add", &1_u64)
                    .signal("add", &1000_u64)
                    .signal_id("shared");
                start.await.unwrap()
            }
        });
        let runs = join_all(starts).await;
        assert_eq!(result::<u64>(&runs[0]).await.unwrap(), u64::from(RIVALS) + 1000, "{id}");
        let again = engine.start("collect", &(RIVALS + 1)).id(&id).await.unwrap();
        assert_eq!(result::<u64>(&again).await.unwrap(), u64::from(RIVALS) + 1000);
        let late = engine.signal_with_start("collect", id.clone(), &0, "add", &1_u64).await;
        assert_eq!(late.unwrap_err().code(), "RUN_ENDED", "{id}");
    }
    engine.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_every_signal_to_a_chain_of_runs_once() {
    takes_every_signal(store()).await;
    takes_every_signal(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_obey_commands_to_any_run_of_a_chain() {
    obeys_every_command(store()).await;
    obeys_every_command(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_start_one_run_with_the_signals_of_all_callers() {
    starts_once_with_every_signal(store()).await;
    starts_once_with_every_signal(sqlite().await).await;
}

/// Returns the name of its owner.
struct OwnerId(&'static str);

impl Agent for OwnerId {
    type Parameters = u32;
    type Output = (String, u32);

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<(String, u32), TaskError> {
        tokio::task::yield_now().await;
        Ok((self.0.to_owned(), number))
    }
}

/// Two stores on one broker have runs with the same ids at the same time, each with two engines:
/// every task is answered to the run that assigned it.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_runs_of_two_stores_on_one_broker_apart() {
    async fn ask(context: WorkflowContext, number: u32) -> Result<Vec<u32>, WorkflowError> {
        let mut answers = Vec::new();
        for round in 0..5 {
            let asked = number * 10 + round;
            let (_, answer) = context.task::<(String, u32)>("owner", &asked).await?;
            answers.push(answer);
        }
        Ok(answers)
    }
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let build =
        |store: &Arc<dyn Store>| runtime(store).broker(Arc::clone(&broker)).workflow("ask", ask);
    let (stores, mut engines): ([Arc<dyn Store>; 2], Vec<Runtime>) = ([store(), store()], vec![]);
    for (number, store) in stores.iter().enumerate() {
        let name = if number == 0 { "first" } else { "second" };
        engines.push(build(store).agent("owner", OwnerId(name)).start().await.unwrap());
        engines.push(build(store).start().await.unwrap());
    }
    let runs = (0..40_u32).map(|number| {
        let engines = &engines;
        async move {
            let each = engines.iter().step_by(2).enumerate().map(|(tenant, engine)| async move {
                let tenant = u32::try_from(tenant).unwrap();
                let asked = tenant * 1000 + number;
                let id = format!("run-{number}");
                let run = engine.start("ask", &asked).id(id).await.unwrap();
                let answers = result::<Vec<u32>>(&run).await.unwrap();
                let expected: Vec<u32> = (0..5).map(|round| asked * 10 + round).collect();
                assert_eq!(answers, expected, "run {number} of tenant {tenant}");
            });
            join_all(each).await;
        }
    });
    join_all(runs).await;
    for engine in engines {
        engine.shutdown(PATIENCE).await.unwrap();
    }
}
