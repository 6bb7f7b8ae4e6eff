//! Signals follow a run that continues as another one, wherever the engine crashes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_core::{
    catalog::workflow::Started,
    clock::VirtualClock,
    event::Event,
    store::{Append, EventStoreExt, Store, StoreError},
};
use aios_store::{
    Retention,
    memory::{MemoryOptions, MemoryStore},
};
use aios_tests::log::Logged;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    faulty::{Fault, FaultyStore, holds, store_unavailable},
    workflows::{eventually, result, runtime, sqlite, store},
};

/// The number of signals that are sent, and of rounds.
const ROUNDS: u32 = 5;

/// Takes one signal in each round, and continues as new after it.
async fn collect(context: WorkflowContext, mut taken: Vec<u32>) -> Result<Vec<u32>, WorkflowError> {
    taken.push(context.signal("number").await?);
    match taken.len() == ROUNDS as usize {
        true => Ok(taken),
        false => Err(WorkflowError::continue_as_new(&taken)),
    }
}

/// Children of earlier rounds are cancelled with the last one.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_children_of_all_runs_of_a_chain() {
    const LAST: u32 = 3;
    async fn rounds(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        if round == LAST {
            return context.signal("never").await;
        }
        let child = context.child::<u32>("kid", &round).id(format!("kid{round}"));
        let left = context.child::<u32>("kid", &round).id(format!("left{round}")).leave_running();
        select! {
            _ = child => {}
            _ = left => {}
            _ = context.signal::<()>("go") => {}
        }
        Err(WorkflowError::continue_as_new(&(round + 1)))
    }
    async fn kid(context: WorkflowContext, _: u32) -> Result<u32, WorkflowError> {
        context.signal("number").await
    }
    for restarts in [false, true] {
        let store = store();
        let build = || runtime(&store).workflow("rounds", rounds).workflow("kid", kid).start();
        let mut runtime = build().await.unwrap();
        let mut run = runtime.start("rounds", &0).id("r").await.unwrap();
        for round in 0..LAST {
            for kind in ["kid", "left"] {
                let id = format!("{kind}{round}");
                eventually("it runs", || async { runtime.handle(&id).await.is_ok() }).await;
            }
            if round == LAST - 1 {
                let first = runtime.handle("kid0").await.unwrap();
                first.signal("number", &7).await.unwrap();
                assert_eq!(result::<u32>(&first).await.unwrap(), 7);
            }
            run.signal("go", &()).await.unwrap();
        }
        eventually("the last round runs", || async {
            run.status().await.unwrap().id.ends_with("~r4")
        })
        .await;
        if restarts {
            runtime.shutdown(Duration::from_secs(5)).await.unwrap();
            runtime = build().await.unwrap();
            run = runtime.handle("r").await.unwrap();
        }
        let started: Started = run.journal(0, 1).await.unwrap()[0].event.data().unwrap();
        let listed: Vec<_> = started.children.iter().map(|child| &*child.run_id).collect();
        assert_eq!(listed, ["kid1", "kid2"], "those that have not ended");
        run.cancel("enough").await.unwrap();
        assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
        for (id, status) in [("kid1", "cancelled"), ("kid2", "cancelled"), ("left1", "running")] {
            let kid = runtime.handle(id).await.unwrap();
            eventually(id, || async { kid.status().await.unwrap().status.as_str() == status })
                .await;
        }
    }
}

/// Its children are cancelled with it, but those that have ended may be gone.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_after_retention_has_removed_a_child_of_an_earlier_run() {
    async fn rounds(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        if round == 2 {
            return Ok(round);
        }
        if round == 0 {
            let child = context.child::<u32>("kid", &round).id("kid");
            select! {
                _ = child => {}
                _ = context.signal::<()>("go") => {}
            }
        } else {
            context.signal::<()>("go").await?;
        }
        Err(WorkflowError::continue_as_new(&(round + 1)))
    }
    async fn kid(context: WorkflowContext, _: u32) -> Result<u32, WorkflowError> {
        context.signal("number").await
    }
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let builder = runtime(&store).workflow("rounds", rounds).workflow("kid", kid);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("rounds", &0).id("r").await.unwrap();
    eventually("the child runs", || async { runtime.handle("kid").await.is_ok() }).await;
    run.signal("go", &()).await.unwrap();
    eventually("it continues", || async { run.status().await.unwrap().id.ends_with("~r2") }).await;
    let child = runtime.handle("kid").await.unwrap();
    child.signal("number", &7).await.unwrap();
    assert_eq!(result::<u32>(&child).await.unwrap(), 7);
    let expire = || async {
        let other = runtime.start("kid", &0).await.unwrap();
        other.signal("number", &1).await.unwrap();
        result::<u32>(&other).await.unwrap();
        memory.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap();
        runtime.handle("kid").await.is_err()
    };
    eventually("the child is removed", expire).await;
    run.signal("go", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
}

fn in_order() -> Vec<u32> {
    (1..=ROUNDS).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_carry_signals_that_were_not_taken_to_the_next_run() {
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("collect", collect).start().await.unwrap();
        let mut start = runtime.start("collect", &Vec::<u32>::new()).id("c");
        for number in in_order() {
            start = start.signal("number", &number);
        }
        assert_eq!(result::<Vec<u32>>(&start.await.unwrap()).await.unwrap(), in_order());
    }
}

/// Signals are sent while the run continues again and again.
#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_signal_that_is_sent_while_a_run_continues() {
    async fn sum(context: WorkflowContext, so_far: (u32, u32)) -> Result<u32, WorkflowError> {
        let (mut count, mut sum) = so_far;
        for _ in 0..3 {
            sum += context.signal::<u32>("number").await?;
            count += 1;
            if count == 200 {
                return Ok(sum);
            }
        }
        Err(WorkflowError::continue_as_new(&(count, sum)))
    }
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("sum", sum).start().await.unwrap();
        let run = runtime.start("sum", &(0, 0)).id("s").await.unwrap();
        let senders = (0..4).map(|sender| {
            let run = run.clone();
            async move {
                for number in 1..=50 {
                    run.signal("number", &(sender * 50 + number)).await.unwrap();
                }
            }
        });
        join_all(senders).await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 200 * 201 / 2);
    }
}

/// The engine's process is gone before or after its n-th append; the next one finishes the work.
async fn crash_at(point: usize, after: bool) {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = faulty.clone();
    let client = runtime(&shared).client_only().workflow("collect", collect).start().await;
    let client = client.unwrap();
    let mut start = client.start("collect", &Vec::<u32>::new()).id("c");
    for number in in_order() {
        start = start.signal("number", &number);
    }
    let run = start.await.unwrap();

    let (appends, crashed) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&crashed);
    faulty.on_append(move |append| {
        append.stream.run_id()?;
        if seen.load(Ordering::SeqCst) {
            return Some(Fault::Hang);
        }
        if appends.fetch_add(1, Ordering::SeqCst) + 1 != point {
            return None;
        }
        seen.store(true, Ordering::SeqCst);
        match after {
            true => Some(Fault::LoseResponse(store_unavailable())),
            false => Some(Fault::Hang),
        }
    });
    let first = runtime(&shared).workflow("collect", collect).start().await.unwrap();
    let crashed_or_ended = || async {
        crashed.load(Ordering::SeqCst) || run.status().await.unwrap().status.is_final()
    };
    eventually("the engine crashes", crashed_or_ended).await;
    drop(first);
    faulty.heal();

    let second = runtime(&shared).workflow("collect", collect).start().await.unwrap();
    let run = second.handle("c").await.unwrap();
    let taken = result::<Vec<u32>>(&run).await;
    assert_eq!(taken.unwrap(), in_order(), "crashed at append {point}, after it: {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_lose_and_repeat_no_signal_wherever_the_engine_crashes() {
    let points = (1..=14).flat_map(|point| [(point, false), (point, true)]);
    join_all(points.map(|(point, after)| crash_at(point, after))).await;
}

/// The run that should follow has started, then something else ends its predecessor.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_a_run_whose_predecessor_did_not_continue() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    async fn twice(_: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        if round == 0 {
            return Err(WorkflowError::continue_as_new(&1));
        }
        BEGUN.store(true, Ordering::SeqCst);
        Ok(round)
    }
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let shared: Arc<dyn Store> = faulty.clone();
    let is_over = AtomicBool::new(false);
    faulty.on_append(move |append| {
        if !holds(append, "continued") || is_over.swap(true, Ordering::SeqCst) {
            return None;
        }
        let (store, stream) = (Arc::clone(&inner), append.stream.clone());
        Some(Fault::After(Box::pin(async move {
            let failure = json!({ "failure": { "code": "ENDED", "message": "from outside" } });
            let failed = "workflows.twice.failed".parse().unwrap();
            let event = Event::new(failed, "test", &failure).unwrap();
            store.append_one(Append::new(stream, vec![event])).await.unwrap();
        })))
    });
    let runtime = runtime(&shared).workflow("twice", twice).start().await.unwrap();
    let run = runtime.start("twice", &0).id("t").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "ENDED");
    let void = runtime.handle("t~r2").await.unwrap();
    let error = result::<u32>(&void).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "NOT_CONTINUED");
    assert!(!BEGUN.load(Ordering::SeqCst));
    assert_eq!(run.status().await.unwrap().id, "t");
    assert_names_its_run(&void, "t~r2").await;
}

/// Every event in the journal of a run names the run.
async fn assert_names_its_run(run: &RunHandle, id: &str) {
    for recorded in run.journal(0, 100).await.unwrap() {
        let event = recorded.event;
        assert_eq!(event.metadata.run_id.as_deref(), Some(id), "{}", event.event_type);
        assert!(event.metadata.correlation_id.is_some(), "{}", event.event_type);
    }
}

/// A signal that arrives between the two appends of a continuation is taken once.
#[tokio::test(flavor = "multi_thread")]
async fn should_take_each_signal_once_that_races_with_the_end_of_a_run() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let shared: Arc<dyn Store> = faulty.clone();
    let outside = runtime(&inner).client_only().workflow("collect", collect).start().await;
    let (outside, next) = (Arc::new(outside.unwrap()), Arc::new(AtomicUsize::new(2)));
    let (racing, sent) = (Arc::clone(&outside), Arc::clone(&next));
    faulty.on_append(move |append| {
        if !holds(append, "continued") {
            return None;
        }
        let (outside, next) = (Arc::clone(&racing), Arc::clone(&sent));
        Some(Fault::After(Box::pin(async move {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number <= ROUNDS as usize {
                outside.handle("c").await.unwrap().signal("number", &number).await.unwrap();
            }
        })))
    });
    let runtime = runtime(&shared).workflow("collect", collect).start().await.unwrap();
    let start = runtime.start("collect", &Vec::<u32>::new()).id("c").signal("number", &1);
    let run = start.await.unwrap();
    assert_eq!(result::<Vec<u32>>(&run).await.unwrap(), in_order());
    tokio::time::timeout(Duration::from_secs(20), runtime.shutdown(Duration::from_secs(1)))
        .await
        .unwrap()
        .unwrap();
}

/// A client that has seen the end of a run sends a signal to its successor, before the successor has
/// copied the signals that its predecessor did not take.
#[tokio::test(flavor = "multi_thread")]
async fn should_take_inherited_signals_before_later_ones() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let shared: Arc<dyn Store> = faulty.clone();
    let outside = runtime(&inner).client_only().workflow("collect", collect).start().await;
    let (outside, is_sent) = (Arc::new(outside.unwrap()), AtomicBool::new(false));
    faulty.on_append(move |append| {
        if !holds(append, "continued") || is_sent.swap(true, Ordering::SeqCst) {
            return None;
        }
        let outside = Arc::clone(&outside);
        Some(Fault::Until(Box::pin(async move {
            outside.handle("c").await.unwrap().signal("number", &ROUNDS).await.unwrap();
        })))
    });
    let runtime = runtime(&shared).workflow("collect", collect).start().await.unwrap();
    let mut start = runtime.start("collect", &Vec::<u32>::new()).id("c");
    for number in 1..ROUNDS {
        start = start.signal("number", &number);
    }
    let run = start.await.unwrap();
    assert_eq!(result::<Vec<u32>>(&run).await.unwrap(), in_order());
    assert_names_its_run(&run, "c~r5").await;
}

/// Runs of an earlier chain under the same first id still exist: the next free number follows.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_continue_as_a_run_of_an_earlier_chain() {
    async fn twice(_: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        match round {
            0 => Err(WorkflowError::continue_as_new(&1)),
            _ => Ok(round),
        }
    }
    for store in [store(), sqlite().await] {
        let data = json!({
            "version": 1,
            "input": 7,
            "predecessor": { "run_id": "t", "incarnation": "of-an-earlier-run" },
            "first_run_id": "t",
        });
        let started = Event::new("workflows.twice.started".parse().unwrap(), "test", &data);
        let end = json!({ "result": 9 });
        let ended = Event::new("workflows.twice.completed".parse().unwrap(), "test", &end);
        let stream = aios_core::store::StreamId::of_run("t~r2").unwrap();
        let events = vec![started.unwrap(), ended.unwrap()];
        store.append_one(Append::new(stream, events)).await.unwrap();
        let runtime = runtime(&store).workflow("twice", twice).start().await.unwrap();
        let run = runtime.start("twice", &0).id("t").await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 1);
        assert_eq!(run.status().await.unwrap().id, "t~r3");
    }
}

/// The code has ended in order to continue as another run when the cancellation arrives: it applies
/// to that run.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_run_that_a_run_is_about_to_continue_as() {
    async fn wait(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        match round {
            0 => Err(WorkflowError::continue_as_new(&1)),
            _ => context.signal("never").await,
        }
    }
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let shared: Arc<dyn Store> = faulty.clone();
    let outside = runtime(&inner).client_only().workflow("wait", wait).start().await;
    let (outside, is_over) = (Arc::new(outside.unwrap()), AtomicBool::new(false));
    faulty.on_append(move |append| {
        if !holds(append, "continued") || is_over.swap(true, Ordering::SeqCst) {
            return None;
        }
        let outside = Arc::clone(&outside);
        Some(Fault::After(Box::pin(async move {
            outside.handle("w").await.unwrap().cancel("enough").await.unwrap();
        })))
    });
    let runtime = runtime(&shared).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &0).id("w").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
    assert_eq!(error.failure().unwrap().message, "enough");
}

/// The store refuses the copies of the signals for good: the run is blocked, and can be cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_run_that_can_not_inherit_its_signals() {
    let faulty = FaultyStore::new(store());
    let shared: Arc<dyn Store> = faulty.clone();
    faulty.on_append(|append| {
        let is_copy = append.stream.run_id() == Some("c~r2") && holds(append, "signaled");
        let id = append.events.first().filter(|_| is_copy)?.id.clone();
        Some(Fault::Refuse(StoreError::TooLarge { id, bytes: 9, limit: 8 }))
    });
    let runtime = runtime(&shared).workflow("collect", collect).start().await.unwrap();
    let start = runtime.start("collect", &Vec::<u32>::new()).id("c");
    let run = start.signal("number", &1).signal("number", &2).await.unwrap();
    let status = || async { run.status().await.unwrap().status.to_string() };
    eventually("it is blocked", || async { status().await == "blocked" }).await;
    run.cancel("not needed").await.unwrap();
    eventually("it is cancelled", || async { status().await == "cancelled" }).await;
    assert!(matches!(result::<Vec<u32>>(&run).await, Err(RunError::Cancelled { .. })));
}

/// Takes texts of which each is about as large as what is copied at once, and returns their numbers.
async fn texts(context: WorkflowContext, mut taken: Vec<u32>) -> Result<Vec<u32>, WorkflowError> {
    let (number, _): (u32, String) = context.signal("text").await?;
    taken.push(number);
    match taken.len() == ROUNDS as usize {
        true => Ok(taken),
        false => Err(WorkflowError::continue_as_new(&taken)),
    }
}

/// The engine's process is gone before or after it has copied the first of several large signals.
#[tokio::test(flavor = "multi_thread")]
async fn should_copy_many_signals_in_parts() {
    const BYTES: usize = 3 * 1024 * 1024;
    for after in [false, true] {
        let faulty = FaultyStore::new(store());
        let shared: Arc<dyn Store> = faulty.clone();
        let client = runtime(&shared).client_only().workflow("texts", texts).start().await;
        let client = client.unwrap();
        let run = client.start("texts", &Vec::<u32>::new()).id("c").await.unwrap();
        for number in in_order() {
            run.signal("text", &(number, "x".repeat(BYTES))).await.unwrap();
        }
        let crashed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&crashed);
        faulty.on_append(move |append| {
            let run_id = append.stream.run_id()?;
            if seen.load(Ordering::SeqCst) {
                return Some(Fault::Hang);
            }
            if run_id != "c~r2" || !holds(append, "signaled") {
                return None;
            }
            assert_eq!(append.events.len(), 1, "two of them would be too much at once");
            seen.store(true, Ordering::SeqCst);
            match after {
                true => Some(Fault::LoseResponse(store_unavailable())),
                false => Some(Fault::Hang),
            }
        });
        let first = runtime(&shared).workflow("texts", texts).start().await.unwrap();
        eventually("the engine crashes", || async { crashed.load(Ordering::SeqCst) }).await;
        drop(first);
        faulty.heal();
        let second = runtime(&shared).workflow("texts", texts).start().await.unwrap();
        let run = second.handle("c").await.unwrap();
        assert_eq!(result::<Vec<u32>>(&run).await.unwrap(), in_order(), "after it: {after}");
    }
}

/// The copy of a signal has more to say than the signal.
#[tokio::test(flavor = "multi_thread")]
async fn should_inherit_the_largest_signal_that_the_store_accepts() {
    const LIMIT: usize = 8_000;
    let options = MemoryOptions::new().with_max_event_bytes(LIMIT);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    async fn second(context: WorkflowContext, round: u32) -> Result<usize, WorkflowError> {
        match round {
            4 => Ok(context.signal::<String>("text").await?.len()),
            round => Err(WorkflowError::continue_as_new(&(round + 1))),
        }
    }
    let runtime = runtime(&store).workflow("second", second).start().await.unwrap();
    let mut bytes = LIMIT;
    let run = loop {
        let text = "x".repeat(bytes);
        match runtime.start("second", &0).id("s").signal("text", &text).await {
            Ok(run) => break run,
            Err(error) => assert_eq!(error.code(), "EVENT_TOO_LARGE"),
        }
        bytes -= 1;
    };
    assert_eq!(result::<usize>(&run).await.unwrap(), bytes);
}

/// Continues without waiting for anything, and says how far it is.
async fn spin(context: WorkflowContext, round: u32) -> Result<(), WorkflowError> {
    context.set_status(round.to_string());
    Err(WorkflowError::continue_as_new(&(round + 1)))
}

/// Without a delay, such a chain would fill the log as fast as the store permits.
#[tokio::test]
async fn should_delay_runs_that_continue_as_new_without_requesting_anything() {
    const FREE: u32 = 16;
    let logged = Logged::here();
    let (clock, store) = (VirtualClock::new(Timestamp::now()), store());
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(360_000));
    let builder = runtime(&store).engine_options(options).clock(Arc::new(clock.clone()));
    let runtime = builder.workflow("spin", spin).start().await.unwrap();
    let run = runtime.start("spin", &0).id("s").await.unwrap();
    let delayed = || async { !logged.lines(&["WARN", "continues as new again"]).is_empty() };
    eventually("it says so", delayed).await;
    for round_before in [FREE, FREE + 1, FREE + 2] {
        let next = format!("s~r{}", round_before + 2);
        eventually("the next run is started", || async { runtime.handle(&next).await.is_ok() })
            .await;
        let later = format!("s~r{}", round_before + 3);
        assert!(runtime.handle(&later).await.is_err(), "the clock is paused");
        clock.advance(Duration::from_secs(1));
    }
    run.cancel("enough").await.unwrap();
    clock.advance(Duration::from_secs(1));
    let error = result::<()>(&run).await.unwrap_err();
    assert_eq!(error.code(), "RUN_CANCELLED");
}
