//! Code of a workflow that does not return when it is polled.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RunExecutor},
};
use aios_core::BoxFuture;
use aios_tests::log::Logged;
use tokio::{runtime::Handle, task::JoinSet};

use crate::support::workflows::{PATIENCE, eventually, result, runtime, sqlite, store};

/// Polls all runs on one thread, as the event loop of another language does.
#[derive(Debug)]
struct EventLoop(Handle);

impl EventLoop {
    fn start() -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = tokio.handle().clone();
        std::thread::spawn(move || tokio.block_on(std::future::pending::<()>()));
        Self(handle)
    }
}

impl RunExecutor for EventLoop {
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let mut driven = JoinSet::new();
        driven.spawn_on(run, &self.0);
        Box::pin(async move { drop(driven.join_next().await) })
    }

    fn on_blocking(&self, _: &str, _: Duration) {}
}

async fn block(
    context: WorkflowContext,
    until: Arc<Mutex<Receiver<()>>>,
) -> Result<u32, WorkflowError> {
    let one = context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
    until.lock().unwrap().recv().ok();
    Ok(one)
}

#[tokio::test]
async fn should_name_a_run_that_blocks_its_event_loop() {
    let logged = Logged::here();
    let (release, until) = channel();
    let until = Arc::new(Mutex::new(until));
    let blocked_after = Some(Duration::from_millis(200));
    let options = EngineOptions::new().with_blocked_after(blocked_after);
    let builder = runtime(&store()).engine_options(options).executor(Arc::new(EventLoop::start()));
    let builder =
        builder.workflow("block", move |context, (): ()| block(context, Arc::clone(&until)));
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("block", &()).id("b").await.unwrap();
    let blocks = || async { runtime.blocking_runs().iter().any(|run| **run == *"b") };
    eventually("it is reported", blocks).await;
    let words = ["WARN", "has not returned", "run=\"b\"", "workflow=block", "after_operation=1"];
    assert_eq!(logged.lines(&words).len(), 1, "{:?}", logged.lines(&["WARN"]));
    release.send(()).unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    eventually("it is not reported any more", || async { runtime.blocking_runs().is_empty() })
        .await;
    assert_eq!(logged.lines(&["WARN", "has returned", "workflow=block"]).len(), 1);
}

/// The callers of starts, on as few threads as possible: as many as block, and one that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn should_return_from_starts_of_runs_that_block_their_thread_at_once() {
    async fn block_at_once(
        _: WorkflowContext,
        until: Arc<Mutex<Receiver<()>>>,
    ) -> Result<u32, WorkflowError> {
        until.lock().unwrap().recv().ok();
        Ok(1)
    }
    for store in [store(), sqlite().await] {
        let (release, until) = channel();
        let until = Arc::new(Mutex::new(until));
        let code = move |context, (): ()| block_at_once(context, Arc::clone(&until));
        let runtime = runtime(&store).workflow("block", code).start().await.unwrap();
        let runtime = Arc::new(runtime);
        let mut starts = JoinSet::new();
        for number in 0..2 {
            let runtime = Arc::clone(&runtime);
            starts.spawn(async move {
                let run = runtime.start("block", &()).id(format!("b{number}")).await.unwrap();
                // A caller may yield before it tells that the run was started.
                aios_core::yield_now().await;
                run
            });
        }
        let runs = tokio::time::timeout(PATIENCE, starts.join_all()).await.unwrap();
        release.send(()).unwrap();
        release.send(()).unwrap();
        for run in runs {
            assert_eq!(result::<u32>(&run).await.unwrap(), 1);
        }
    }
}

/// Makes requests that are answered at once, without end.
async fn ask_without_end(context: WorkflowContext, what: String) -> Result<u32, WorkflowError> {
    loop {
        match what.as_str() {
            "time" => drop(context.now()),
            "id" => drop(context.uuid()),
            "version" => drop(context.version("change", 1..=2)),
            "status" => context.set_status("asking"),
            "stream" => drop(context.set_progress("asking", &1)),
            "timer" => drop(context.sleep(Duration::from_secs(1))),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_that_makes_requests_without_end() {
    let runtime = runtime(&store()).workflow("asks", ask_without_end).start().await.unwrap();
    for what in ["time", "id", "version", "status", "stream", "timer"] {
        let run = runtime.start("asks", what).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!((error.code(), &*failure.code), ("RUN_BLOCKED", "WORKFLOW_BUSY"), "{what}");
        assert!(failure.message.contains("without awaiting"), "{what}: {failure}");
    }
}
