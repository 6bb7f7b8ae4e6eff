//! An engine discovers what other processes append, however busy it is, and sends few requests when
//! idle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use futures_util::future::join_all;

use crate::support::{
    faulty::FaultyStore,
    workflows::{PATIENCE, eventually, result, runtime, sqlite, store},
};

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

/// A workflow that steps without a pause until it is told to stop.
fn busy(
    stop: &Arc<AtomicBool>,
) -> impl Fn(WorkflowContext, ()) -> aios_core::BoxFuture<'static, Result<u32, WorkflowError>>
+ Clone
+ use<> {
    let stop = Arc::clone(stop);
    move |context, ()| {
        let stop = Arc::clone(&stop);
        Box::pin(async move {
            let mut steps = 0;
            while !stop.load(Ordering::SeqCst) {
                context.step("step", || async { Ok::<_, TaskError>(()) }).await?;
                steps += 1;
            }
            Ok(steps)
        })
    }
}

/// Signals from another process to runs that wait, while `busy_runs` others keep the engine busy.
/// Without discovery, the signals would not be seen before the busy runs end.
pub(crate) async fn sees_signals(store: Arc<dyn Store>, busy_runs: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let build = || runtime(&store).workflow("wait", wait).workflow("busy", busy(&stop));
    let engine = build().start().await.unwrap();
    let outside = build().client_only().start().await.unwrap();
    let starts = (0..busy_runs).map(|_| async { engine.start("busy", &()).await.unwrap() });
    let load = join_all(starts).await;
    for round in 0..3 {
        let waiting = engine.start("wait", &()).await.unwrap();
        let fresh = outside.start("wait", &()).await.unwrap();
        for run in [&waiting, &fresh] {
            outside.handle(run.id()).await.unwrap().signal("go", &round).await.unwrap();
            assert_eq!(result::<u32>(run).await.unwrap(), round);
        }
    }
    stop.store(true, Ordering::SeqCst);
    for run in load {
        result::<u32>(&run).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_see_signals_of_other_processes_however_busy_it_is() {
    sees_signals(sqlite().await, 1000).await;
    sees_signals(store(), 20).await;
}

/// Another process sends many signals and starts at once, interleaved with the engine's own
/// appends.
#[tokio::test(flavor = "multi_thread")]
async fn should_miss_nothing_that_other_processes_append() {
    for store in [store(), sqlite().await] {
        let build = || runtime(&store).workflow("wait", wait);
        let engine = build().start().await.unwrap();
        let outside = build().client_only().start().await.unwrap();
        let each = (0..300_u32).map(|number| {
            let (engine, outside) = (&engine, &outside);
            async move {
                let starter = if number % 2 == 0 { engine } else { outside };
                let run = starter.start("wait", &()).await.unwrap();
                tokio::task::yield_now().await;
                let sender = if number % 3 == 0 { engine } else { outside };
                let run = sender.handle(run.id()).await.unwrap();
                run.signal("go", &number).await.unwrap();
                assert_eq!(result::<u32>(&run).await.unwrap(), number);
            }
        });
        join_all(each).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_few_requests_to_the_store_when_idle() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = faulty.clone();
    let engine = runtime(&shared).workflow("wait", wait).start().await.unwrap();
    let run = engine.start("wait", &()).await.unwrap();
    eventually("the run waits", || async { run.status().await.is_ok() }).await;
    let queries = || {
        let counted = ["runs", "read_stream", "read_log", "read_log_except", "head"];
        counted.iter().map(|method| faulty.count(method)).sum::<usize>()
    };
    #[allow(clippy::disallowed_methods, reason = "the engine has to be idle for a while")]
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = queries();
    #[allow(clippy::disallowed_methods, reason = "the engine has to be idle for a while")]
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = queries() - before;
    assert!(asked <= 8, "an idle engine asked the store {asked} times in 3 s");
    engine.shutdown(PATIENCE).await.unwrap();
}

/// An event that cannot be decoded does not name its run: every run that it may be meant for reads
/// its stream.
#[tokio::test(flavor = "multi_thread")]
async fn should_wake_the_run_of_an_event_that_it_cannot_read() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let shared: Arc<dyn Store> = faulty.clone();
    let now = |_: WorkflowContext, (): ()| async { Ok::<_, WorkflowError>(5_u32) };
    let build = |store| runtime(store).workflow("wait", wait).workflow("now", now);
    let engine = build(&shared).start().await.unwrap();
    let outside = build(&inner).client_only().start().await.unwrap();
    // A start, a signal to a run that is registered as waiting, and one to a run in memory.
    let busy = engine.start("wait", &()).await.unwrap();
    let noted = engine.start("wait", &()).await.unwrap();
    eventually("the runs are noted", || async { faulty.count("note_waits") > 0 }).await;
    faulty.spoil([inner.head().await.unwrap() + 1]);
    let started = outside.start("now", &()).await.unwrap();
    assert_eq!(result::<u32>(&started).await.unwrap(), 5);
    for run in [&noted, &busy] {
        faulty.spoil([inner.head().await.unwrap() + 1]);
        outside.handle(run.id()).await.unwrap().signal("go", &7).await.unwrap();
        assert_eq!(result::<u32>(run).await.unwrap(), 7);
    }
    assert_eq!(engine.failure(), None);
    engine.shutdown(PATIENCE).await.unwrap();
}
