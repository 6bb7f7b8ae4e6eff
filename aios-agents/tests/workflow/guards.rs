//! Code that panics, is dropped or never yields, and a clock that steps back.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RunExecutor},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    BoxFuture,
    broker::{Broker, BrokerError},
    clock::{Clock, SystemClock},
    event::Timestamp,
};

use crate::support::{
    faulty::{Fault, FaultyBroker},
    workflows::{Doubler, PATIENCE, actions, eventually, result, runtime, store},
};

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb");
    }
}

async fn is_blocked(run: &RunHandle) {
    eventually("it is blocked", || async {
        run.status().await.unwrap().status.as_str() == "blocked"
    })
    .await;
    let error = result::<u32>(run).await.unwrap_err();
    assert!(matches!(error, RunError::Blocked { .. }), "{error:?}");
    assert_eq!(error.failure().unwrap().code, "RUN_PANICKED");
}

/// Checks that every operation on a run returns.
async fn answers(run: &RunHandle) {
    let asked = async {
        run.signal("other", &1).await.unwrap();
        run.status().await.unwrap();
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_destructors_panic_when_it_is_evicted() {
    async fn bomb(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        for _ in 0..2 {
            let bomb = Bomb;
            context.compensate("bomb", move |_| async move {
                std::mem::forget(bomb);
                Ok(())
            });
        }
        context.signal("go").await
    }
    let runtime = runtime(&store()).workflow("bomb", bomb).start().await.unwrap();
    let run = runtime.start("bomb", &()).await.unwrap();
    is_blocked(&run).await;
    answers(&run).await;
    let before = actions(&run).await.len();
    run.signal("other", &2).await.unwrap();
    is_blocked(&run).await;
    assert_eq!(actions(&run).await.len(), before + 1, "it is not loaded again and again");
    run.cancel("enough").await.unwrap();
    assert!(matches!(cancelled(&run).await, RunError::Cancelled { .. }));
}

/// Reports that it was dropped, as a guard that releases something does.
struct Reports(WorkflowContext, Arc<AtomicU32>);

impl Drop for Reports {
    fn drop(&mut self) {
        let text = format!("left at {}", self.0.now());
        self.0.set_status(text);
        self.0.compensate("late", |_| async { Ok(()) });
        let _ = (self.0.uuid(), self.0.random(), self.0.sleep(Duration::ZERO));
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// Neither an idle run nor one whose runtime is dropped is blocked, and the process is not aborted.
#[tokio::test(flavor = "multi_thread")]
async fn should_do_nothing_in_destructors_of_code_that_leaves_memory() {
    async fn guarded(context: WorkflowContext, left: Arc<AtomicU32>) -> Result<u32, WorkflowError> {
        let reports = || Reports(context.clone(), Arc::clone(&left));
        let _outer = [reports(), reports()];
        let undo = reports();
        context.compensate("undo", move |_| async move {
            drop(undo);
            Ok(())
        });
        let in_step = reports();
        let mut in_step = Some(in_step);
        let code = move || {
            let in_step = in_step.take();
            async move {
                std::future::pending::<()>().await;
                drop(in_step);
            }
        };
        let _step = std::pin::pin!(context.run("never", code));
        {
            let _inner = reports();
            context.signal::<u32>("enter").await?;
        }
        context.signal("leave").await
    }
    let (store, left) = (store(), Arc::new(AtomicU32::new(0)));
    let start = || {
        let options = EngineOptions::new()
            .with_lease_time(Duration::from_secs(1))
            .with_eviction_delay(Duration::from_millis(5));
        let left = Arc::clone(&left);
        let code = move |context, (): ()| guarded(context, Arc::clone(&left));
        runtime(&store).engine_options(options).workflow("guarded", code).start()
    };
    let engine = start().await.unwrap();
    let run = engine.start("guarded", &()).id("guarded").await.unwrap();
    // A needless wake-up loads it once more.
    eventually("it leaves memory", || async { left.load(Ordering::SeqCst) >= 5 }).await;
    drop(engine);
    let engine = start().await.unwrap();
    let run = engine.handle(run.id()).await.unwrap();
    run.signal("enter", &1).await.unwrap();
    eventually("it reports", || async { run.status().await.unwrap().status_text.is_some() }).await;
    engine.shutdown(PATIENCE).await.unwrap();
    let engine = start().await.unwrap();
    let run = engine.handle(run.id()).await.unwrap();
    run.signal("leave", &2).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert!(!actions(&run).await.contains(&"blocked".to_owned()));
}

/// A second panic while the first one unwinds would abort the process.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_abort_when_destructors_use_the_context_outside_of_the_workflow() {
    async fn outside(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let step = context.clone();
        let code = move || {
            let guards = [1, 2].map(|_| Reports(step.clone(), Arc::default()));
            async move {
                let _guards = guards;
                Ok::<_, TaskError>(1)
            }
        };
        context.step("outside", code).await
    }
    let runtime = runtime(&store()).workflow("outside", outside).start().await.unwrap();
    let run = runtime.start("outside", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), WorkflowError::OUTSIDE);
}

async fn cancelled(run: &RunHandle) -> RunError {
    eventually("it is cancelled", || async { run.status().await.unwrap().status.is_final() }).await;
    result::<u32>(run).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_result_of_a_run_whose_destructors_panic_at_its_end() {
    async fn bomb(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let bomb = Bomb;
        context.compensate("bomb", move |_| async move {
            std::mem::forget(bomb);
            Ok(())
        });
        Ok(7)
    }
    let runtime = runtime(&store()).workflow("bomb", bomb).start().await.unwrap();
    let run = runtime.start("bomb", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

/// The ways in which an executor mishandles a run that it should drive.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    /// Drops it at once.
    Drops,
    /// Polls it a few times, then drops it without an error.
    Forgets,
    /// Panics when it is given the run.
    Panics,
    /// Panics when it should poll the run.
    PanicsLater,
}

impl RunExecutor for Mischief {
    fn drive(&self, mut run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        match self {
            Self::Drops => Box::pin(async {}),
            Self::Panics => panic!("no executor"),
            Self::PanicsLater => Box::pin(async move {
                let _run = run;
                panic!("no executor");
            }),
            Self::Forgets => Box::pin(async move {
                for _ in 0..2 {
                    poll_fn(|context| {
                        let _ = run.as_mut().poll(context);
                        Poll::Ready(())
                    })
                    .await;
                }
                drop(run);
                std::future::pending().await
            }),
        }
    }

    fn on_blocking(&self, _: &str, _: Duration) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_that_its_executor_drops() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("missing", &1).await
    }
    for mischief in [Mischief::Drops, Mischief::Forgets, Mischief::Panics, Mischief::PanicsLater] {
        let runtime = runtime(&store()).executor(Arc::new(mischief)).workflow("wait", wait);
        let runtime = runtime.start().await.unwrap();
        let run = runtime.start("wait", &()).await.unwrap();
        is_blocked(&run).await;
        answers(&run).await;
    }
}

/// Two runs that never yield, on two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_let_other_runs_progress_beside_runs_that_never_yield() {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let busy = move |context: WorkflowContext, (): ()| {
        let stop = Arc::clone(&stopped);
        async move {
            let mut steps = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                context.step("step", || async { Ok::<_, TaskError>(()) }).await?;
                steps += 1;
            }
            Ok(steps)
        }
    };
    async fn quick(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(Duration::from_millis(10)).await?;
        Ok(1)
    }
    let builder = runtime(&store()).workflow("busy", busy).workflow("quick", quick);
    let runtime = Arc::new(builder.start().await.unwrap());
    let others = tokio::spawn(async move {
        let mut busy = Vec::new();
        for _ in 0..4 {
            busy.push(runtime.start("busy", &()).await.unwrap());
        }
        for _ in 0..3 {
            let run = runtime.start("quick", &()).await.unwrap();
            assert_eq!(result::<u32>(&run).await.unwrap(), 1);
        }
        let are_running = futures_util::future::join_all(busy.iter().map(RunHandle::status)).await;
        stop.store(true, Ordering::SeqCst);
        assert!(are_running.iter().all(|row| !row.as_ref().unwrap().status.is_final()));
        for run in &busy {
            assert!(result::<u64>(run).await.unwrap() > 0);
        }
    });
    others.await.unwrap();
}

/// Steps back by 5 ms at every third reading.
#[derive(Debug, Default)]
struct Shaky(AtomicU64);

impl Clock for Shaky {
    fn now(&self) -> Timestamp {
        let steps_back = self.0.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        let now = SystemClock.now();
        if steps_back { now - Duration::from_millis(5) } else { now }
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until(deadline)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_timer_when_the_clock_steps_back() {
    async fn naps(context: WorkflowContext, count: u32) -> Result<u32, WorkflowError> {
        for _ in 0..count {
            context.sleep(Duration::from_millis(8)).await?;
            let signal = context.signal::<u32>("never").timeout(Duration::from_millis(8));
            signal.await.unwrap_err();
            let failing = || async { Err::<u32, _>("no") };
            let retry = RetryPolicy::fixed(2, Duration::from_millis(8));
            context.step("fails", failing).retry(retry).await.unwrap_err();
        }
        Ok(count)
    }
    let clock = Arc::new(Shaky::default());
    let runtime = runtime(&store()).clock(clock).workflow("naps", naps).start().await.unwrap();
    let mut runs = Vec::new();
    for _ in 0..20 {
        // Some of them stay in memory, and some start later.
        runs.push(runtime.start("naps", &5).after(Duration::from_millis(8)).await.unwrap());
    }
    for run in &runs {
        assert_eq!(result::<u32>(run).await.unwrap(), 5);
    }
}

/// More runs want to assign tasks than the engine accepts at once.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_delay_other_runs_while_the_broker_is_down() {
    const RUNS: u64 = 3000;
    async fn assigns(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        context.sleep(Duration::from_millis(50)).await?;
        context.task("doubler", &number).await
    }
    async fn naps(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        for _ in 0..3 {
            context.sleep(Duration::from_millis(30)).await?;
        }
        context.signal("go").await
    }
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    broker.on_publish(|publish| {
        let is_task = publish.event.event_type.action() == "task_assigned";
        is_task.then(|| Fault::Refuse(BrokerError::Uncertain))
    });
    let options = EngineOptions::new().with_eviction_delay(Duration::from_millis(10));
    let doubler = Doubler(Arc::new(AtomicU32::new(0)));
    let runtime = runtime(&store())
        .broker(Arc::clone(&broker) as Arc<dyn Broker>)
        .engine_options(options)
        .agent("doubler", doubler)
        .workflow("assigns", assigns)
        .workflow("naps", naps)
        .start()
        .await
        .unwrap();
    let mut runs = Vec::new();
    for number in 0..RUNS {
        runs.push(runtime.start("assigns", &number).await.unwrap());
    }
    let run = runtime.start("naps", &()).await.unwrap();
    eventually("its timers fire", || async { actions(&run).await.len() == 7 }).await;
    run.signal("go", &5).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
    let first = result::<u64>(&runs[0]);
    assert!(tokio::time::timeout(Duration::from_millis(50), first).await.is_err(), "it waits");

    broker.heal();
    for (number, run) in (0..).zip(&runs) {
        assert_eq!(result::<u64>(run).await.unwrap(), number * 2_u64);
    }
}
