//! Calls that are dropped before they complete: repeated, they have one effect, and nothing is missed.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use aios_agents::{prelude::*, runtime::EngineOptions};

use crate::support::workflows::{
    Doubler, PATIENCE, actions, eventually, result, runtime, sqlite, store,
};

/// The output of a future that completes within this number of polls. Otherwise it is dropped.
async fn within<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Collects three signals, and asks an agent about each.
async fn collect(context: WorkflowContext, (): ()) -> Result<Vec<u64>, WorkflowError> {
    let mut taken = Vec::new();
    for _ in 0..3 {
        let number: u64 = context.signal("number").await?;
        taken.push(context.task::<u64>("doubler", &number).await?);
        context.step("note", || async { Ok::<_, TaskError>(()) }).await?;
    }
    Ok(taken)
}

/// All calls of a client, which may begin again at any time.
async fn script(runtime: &Runtime) -> Result<Vec<u64>, RunError> {
    let start = runtime.start("collect", &()).id("r").signal("number", &1_u64).signal_id("r-1");
    let run = start.await?;
    for number in 2..=3_u64 {
        run.pause().await.or_else(ended)?;
        let sender = run.clone().with_request_id(format!("r-{number}"));
        sender.signal("number", &number).await.or_else(ended)?;
        run.resume().await.or_else(ended)?;
    }
    let mut events = run.events(0);
    while events.next().await?.is_some() {}
    let task: u64 = runtime.task("doubler", &4_u64).id("t").await?.result().await?;
    assert_eq!(task, 8);
    let fork = run.clone().with_request_id("r-fork").fork(1, "fork").await?;
    fork.cancel("enough").await.or_else(ended)?;
    run.result().await
}

fn ended(error: RuntimeError) -> Result<(), RuntimeError> {
    match error.code() {
        "RUN_ENDED" | "RUN_CANCELLING" => Ok(()),
        _ => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_have_one_effect_if_a_call_is_repeated_that_was_cancelled() {
    for in_memory in [true, false] {
        let mut polls = 0;
        loop {
            let store = if in_memory { store() } else { sqlite().await };
            let builder = runtime(&store).agent("doubler", Doubler::default());
            let runtime = builder.workflow("collect", collect).start().await.unwrap();
            let first = within(polls, script(&runtime)).await;
            let second = tokio::time::timeout(PATIENCE, script(&runtime)).await;
            let second = second.unwrap_or_else(|_| panic!("it ends after {polls} polls"));
            assert_eq!(second.unwrap(), [2, 4, 6], "{polls}");
            let journal = actions(&runtime.handle("r").await.unwrap()).await;
            let count = |action: &str| journal.iter().filter(|it| **it == action).count();
            assert_eq!((count("signaled"), count("started"), count("task_completed")), (3, 1, 3));
            runtime.shutdown(PATIENCE).await.unwrap();
            if first.is_some() {
                break;
            }
            polls += 1;
        }
        assert!(polls > 0, "nothing was cancelled");
    }
}

/// A reader that gives up waiting again and again sees every event once.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_every_event_once_however_often_the_read_is_cancelled() {
    for store in [store(), sqlite().await] {
        let builder = runtime(&store).agent("doubler", Doubler::default());
        let runtime = builder.workflow("collect", collect).start().await.unwrap();
        let run = runtime.start("collect", &()).await.unwrap();
        let (mut events, mut seen, mut polls) = (run.events(0), Vec::new(), 0);
        let reading = async {
            loop {
                match within(polls, events.next()).await {
                    // One poll more each time, so that it gets further.
                    None => polls += 1,
                    Some(read) => match read.unwrap() {
                        Some(recorded) => {
                            seen.push(recorded.version);
                            polls = 0;
                        }
                        None => break,
                    },
                }
            }
        };
        let signaling = async {
            for number in 1..=3_u64 {
                run.signal("number", &number).await.unwrap();
                tasks_completed(&run, number).await;
            }
        };
        let both = async { tokio::join!(reading, signaling) };
        tokio::time::timeout(PATIENCE, both).await.expect("it reads to the end");
        assert_eq!(seen.len(), actions(&run).await.len());
        assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");
    }
}

/// Waits until this number of tasks is completed.
async fn tasks_completed(run: &RunHandle, tasks: u64) {
    eventually("the task is completed", || async {
        let journal = actions(run).await;
        journal.iter().filter(|it| **it == "task_completed").count() as u64 == tasks
    })
    .await;
}

/// The next process continues, at whatever moment the shutdown of the first was given up.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_nothing_undone_if_a_shutdown_is_cancelled() {
    let mut polls = 0;
    loop {
        let store = store();
        let build = || {
            let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
            let builder = runtime(&store).agent("doubler", Doubler::default());
            builder.engine_options(options).workflow("collect", collect).start()
        };
        let first = build().await.unwrap();
        let run = first.start("collect", &()).id("r").await.unwrap();
        run.signal("number", &1_u64).await.unwrap();
        let stopped = within(polls, first.shutdown(PATIENCE)).await;
        let second = build().await.unwrap();
        let run = second.handle("r").await.unwrap();
        for number in 2..=3_u64 {
            run.signal("number", &number).await.unwrap();
        }
        assert_eq!(result::<Vec<u64>>(&run).await.unwrap(), [2, 4, 6], "{polls}");
        second.shutdown(PATIENCE).await.unwrap();
        if stopped.is_some() {
            break;
        }
        polls += 1;
    }
    assert!(polls > 0, "nothing was cancelled");
}
