//! The relay publishes the log at least once and in order, whatever fails.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RefusedEvents, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{BrokerError, Deliveries, Group, Publish, Subscription},
    event::{Event, Pattern},
    retry::Backoff,
    store::{Append, RecordedEvent, StreamId},
};
use aios_tests::log::Logged;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, store_unavailable},
    workflows::{PATIENCE, eventually, result, store},
};

/// How long to wait for further events once everything was relayed.
const QUIET: Duration = Duration::from_millis(500);

/// Emits its number between two steps.
async fn emit(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &number).unwrap();
    context.emit(event)?;
    context.step("a", || async { Ok::<_, TaskError>(()) }).await?;
    context.step("b", || async { Ok::<_, TaskError>(()) }).await?;
    Ok(number)
}

fn builder(store: &Arc<dyn Store>, broker: &Arc<FaultyBroker>) -> RuntimeBuilder {
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::clone(broker) as Arc<dyn Broker>)
        .workflow("emit", emit)
        .workflow("emit_many", emit_many)
}

async fn start(store: &Arc<dyn Store>, broker: &Arc<FaultyBroker>) -> Runtime {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
    builder(store, broker).engine_options(options).start().await.unwrap()
}

/// Subscribes to the events that are emitted from now on.
async fn placed(broker: &Arc<FaultyBroker>) -> Deliveries {
    let pattern: Pattern = "orders.order.placed".parse().unwrap();
    let group = Group::new("watch").unwrap();
    broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(placed: &mut Deliveries) -> u32 {
    let delivery = tokio::time::timeout(PATIENCE, placed.next()).await.expect("not relayed");
    let delivery = delivery.unwrap().unwrap();
    let number = delivery.event.data().unwrap();
    delivery.ack().await.unwrap();
    number
}

async fn run(runtime: &Runtime, number: u32) {
    let run = runtime.start("emit", &number).id(format!("e{number}")).await.unwrap();
    result::<u32>(&run).await.unwrap();
}

/// The log was restored from a backup that is older than the saved position: waiting would skip events.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_at_a_saved_position_after_the_end_of_the_log() {
    let store = store();
    store.save_checkpoint("relay", 1_000_000).await.unwrap();
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let runtime = start(&store, &broker).await;
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "POSITION_AFTER_END");
    assert!(failure.message.contains("the reader relay has the position 1000000"), "{failure}");
    assert!(failure.message.contains("aios readers retire relay"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_republish_in_order_what_the_broker_did_not_accept() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    let failures = AtomicUsize::new(0);
    broker.on_publish(move |publish| {
        let is_placed = publish.event.event_type.action() == "placed";
        let fails = is_placed && failures.fetch_add(1, Ordering::SeqCst) < 4;
        fails.then(|| Fault::Refuse(BrokerError::Timeout { operation: "publish", after: PATIENCE }))
    });
    let runtime = start(&store(), &broker).await;
    for number in 1..=3 {
        run(&runtime, number).await;
    }
    // Events that were published together with a failed one are published again after it.
    for expected in 1..=3 {
        while next(&mut placed).await != expected {}
    }
}

/// A relay that dies while it publishes has not moved its checkpoint past those events.
#[tokio::test(flavor = "multi_thread")]
async fn should_publish_what_an_earlier_relay_could_not() {
    let (store, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let mut placed = placed(&broker).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&tries);
    broker.on_publish(move |publish| {
        let is_placed = publish.event.event_type.action() == "placed";
        is_placed.then(|| {
            tried.fetch_add(1, Ordering::SeqCst);
            Fault::Hang
        })
    });
    let before = start(&store, &broker).await;
    run(&before, 1).await;
    eventually("it is tried", || async { tries.load(Ordering::SeqCst) > 0 }).await;
    drop(before);
    broker.heal();
    let after = start(&store, &broker).await;
    assert_eq!(next(&mut placed).await, 1);
    drop(after);
}

/// A store that does not accept the checkpoint, such as a full one, makes the relay wait. The broker
/// has the events and does not receive them again.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_publish_again_while_its_position_cannot_be_saved() {
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    faulty.on_call(|method| {
        (*method == "save_checkpoint").then(|| Fault::Refuse(store_unavailable()))
    });
    let runtime = start(&store, &broker).await;
    run(&runtime, 1).await;
    assert_eq!(next(&mut placed).await, 1);
    let before = faulty.count("save_checkpoint");
    eventually("it tries several times", || async { faulty.count("save_checkpoint") > before + 3 })
        .await;
    faulty.heal();
    run(&runtime, 2).await;
    assert_eq!(next(&mut placed).await, 2, "the first was published again");
}

/// Events that a fork copies have already been published; its own are published.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_publish_again_what_a_fork_copied() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    let runtime = start(&store(), &broker).await;
    run(&runtime, 1).await;
    let original = runtime.handle("e1").await.unwrap();
    let fork = original.fork(3, "fork").await.unwrap();
    assert_eq!(result::<u32>(&fork).await.unwrap(), 1);
    let fresh = original.fork(1, "fresh").await.unwrap();
    assert_eq!(result::<u32>(&fresh).await.unwrap(), 1);
    run(&runtime, 2).await;
    let seen = [next(&mut placed).await, next(&mut placed).await, next(&mut placed).await];
    assert_eq!(seen, [1, 1, 2], "the original, the fork that begins again, and the last");
}

/// Emits its numbers in order.
async fn emit_many(context: WorkflowContext, count: u32) -> Result<(), WorkflowError> {
    for number in 1..=count {
        let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &number).unwrap();
        context.emit(event)?;
    }
    context.step("end", || async { Ok::<_, TaskError>(()) }).await
}

/// Runs that have emitted concurrently, and were not relayed.
async fn emitted(store: &Arc<dyn Store>, runs: u32, count: u32) {
    let all = Arc::new(tokio::sync::Barrier::new(runs.try_into().unwrap()));
    let together = move |context: WorkflowContext, count: u32| {
        let all = Arc::clone(&all);
        async move {
            let arrive = || {
                let all = Arc::clone(&all);
                async move {
                    all.wait().await;
                    Ok::<_, TaskError>(())
                }
            };
            context.step("together", arrive).await?;
            emit_many(context, count).await
        }
    };
    let options = EngineOptions::new().with_relay(false);
    let quiet = Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
        .workflow("emit_many", together)
        .start()
        .await
        .unwrap();
    let mut started = Vec::new();
    for run in 0..runs {
        started.push(quiet.start("emit_many", &count).id(format!("m{run}")).await.unwrap());
    }
    for run in started {
        result::<()>(&run).await.unwrap();
    }
    quiet.shutdown(PATIENCE).await.unwrap();
}

/// The events that the relay published of runs, in the order in which the broker received them: all
/// that are expected, and their repetitions.
async fn relayed(everything: &mut Deliveries, expected: &[Event]) -> Vec<Event> {
    let (mut seen, mut missing) = (Vec::new(), HashSet::new());
    missing.extend(expected.iter().map(|event| event.id.clone()));
    loop {
        let patience = if missing.is_empty() { QUIET } else { PATIENCE };
        let Ok(next) = tokio::time::timeout(patience, everything.next()).await else { break };
        let delivery = next.unwrap().unwrap();
        missing.remove(&delivery.event.id);
        seen.push(delivery.event.clone());
        delivery.ack().await.unwrap();
    }
    assert!(missing.is_empty(), "{} events were not relayed", missing.len());
    seen
}

async fn everything(broker: &Arc<FaultyBroker>) -> Deliveries {
    let patterns: [Pattern; 2] = ["workflows.#".parse().unwrap(), "orders.#".parse().unwrap()];
    broker.subscribe(Subscription::group(Group::new("all").unwrap(), patterns)).await.unwrap()
}

/// The events that must be relayed, in the order of the log.
async fn to_relay(store: &Arc<dyn Store>) -> Vec<Event> {
    let log = store.read_log(0, 10_000).await.unwrap();
    let told = ["started", "placed", "completed"];
    let events = log.into_iter().filter(|recorded| recorded.stream.run_id().is_some());
    events.map(|it| it.event).filter(|event| told.contains(&event.event_type.action())).collect()
}

/// Any single event may fail, whether or not the broker accepted it, while all others around it are
/// accepted.
#[tokio::test(flavor = "multi_thread")]
async fn should_never_publish_an_event_before_an_earlier_one_of_its_run() {
    for seed in 0..3 {
        let (store, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
        emitted(&store, 12, 5).await;
        let mut all = everything(&broker).await;
        let (calls, lost) = (AtomicUsize::new(seed), || BrokerError::Uncertain);
        broker.on_publish(move |_| match (calls.fetch_add(7919, Ordering::SeqCst) >> 2) % 5 {
            0 => Some(Fault::Refuse(BrokerError::Rejected { reason: "full".to_owned() })),
            1 => Some(Fault::LoseResponse(lost())),
            _ => None,
        });
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
        let options = EngineOptions::new().with_backoff(backoff);
        let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
        let expected = to_relay(&store).await;
        assert_eq!(expected.len(), 12 * 7);
        let seen = relayed(&mut all, &expected).await;
        let mut first = HashMap::new();
        let mut last = HashMap::new();
        for (at, event) in seen.iter().enumerate() {
            first.entry(event.id.clone()).or_insert(at);
            last.insert(event.id.clone(), at);
        }
        for run in 0..12 {
            let run_id = format!("m{run}");
            let of_run = |event: &&Event| event.metadata.run_id.as_deref() == Some(run_id.as_str());
            let order: Vec<_> = expected.iter().filter(of_run).map(|it| first[&it.id]).collect();
            assert_eq!(order.len(), 7);
            assert!(order.is_sorted(), "seed {seed}, run {run}: {order:?}");
        }
        let order: Vec<_> = expected.iter().map(|event| last[&event.id]).collect();
        assert!(order.is_sorted(), "seed {seed}: the last copies have the order of the log");
        runtime.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_publish_many_runs_at_once_without_failures() {
    let (store, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    emitted(&store, 100, 1).await;
    let mut all = everything(&broker).await;
    let runtime = start(&store, &broker).await;
    let expected = to_relay(&store).await;
    let seen = relayed(&mut all, &expected).await;
    let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    let seen: Vec<Event> = seen.into_iter().filter(|it| it.metadata.run_id.is_some()).collect();
    assert_eq!(ids(&seen), ids(&expected), "once, in the order of the log");
    let calls = broker.batches().len();
    assert!(calls * 2 < expected.len(), "{} events in {calls} calls", expected.len());
    runtime.shutdown(PATIENCE).await.unwrap();
}

fn is_number(publish: &Publish, number: u32) -> bool {
    let event = &publish.event;
    event.event_type.action() == "placed" && event.data::<u32>().unwrap() == number
}

/// One event that the broker permanently refuses, and one that a full queue rejects for too long.
#[tokio::test]
async fn should_skip_and_report_what_the_broker_refuses_for_good() {
    let logged = Logged::here();
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    broker.on_publish(|publish| {
        let too_large = || BrokerError::TooLarge { bytes: 9, limit: 8 };
        let rejected = || BrokerError::Rejected { reason: "full".to_owned() };
        match () {
            () if is_number(publish, 2) => Some(Fault::Refuse(too_large())),
            () if is_number(publish, 3) => Some(Fault::Refuse(rejected())),
            () => None,
        }
    });
    let relay_patience = Duration::from_millis(200);
    let options = EngineOptions::new().with_relay_patience(relay_patience);
    let store = store();
    let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
    let run = runtime.start("emit_many", &4).await.unwrap();
    result::<()>(&run).await.unwrap();
    assert_eq!([next(&mut placed).await, next(&mut placed).await], [1, 4]);
    let position = |number| format!("position={number}");
    for (code, number) in [("EVENT_TOO_LARGE", 2), ("REJECTED", 3)] {
        let lines = logged.lines(&["ERROR", "refuses an event", code, "orders.order.placed"]);
        let log = store.read_log(0, 1000).await.unwrap();
        let is_it = |it: &&RecordedEvent| is_number(&Publish::new(it.event.clone()), number);
        let skipped = log.iter().find(is_it).unwrap();
        assert!(lines.len() == 1 && lines[0].contains(&position(skipped.position)), "{lines:?}");
        assert!(lines[0].contains(&skipped.event.id.to_string()));
    }
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_at_what_the_broker_refuses_if_the_options_say_so() {
    let (store, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let mut placed = placed(&broker).await;
    broker.on_publish(|publish| {
        let too_large = || BrokerError::TooLarge { bytes: 9, limit: 8 };
        is_number(publish, 2).then(|| Fault::Refuse(too_large()))
    });
    let options = EngineOptions::new().with_refused_events(RefusedEvents::Stop);
    let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
    runtime.start("emit_many", &3).await.unwrap();
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "EVENT_TOO_LARGE");
    assert!(failure.message.contains("relay the log"), "{failure}");
    drop(runtime);
    broker.heal();
    let runtime = start(&store, &broker).await;
    for expected in 1..=3 {
        while next(&mut placed).await != expected {}
    }
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// An event that cannot be decoded hides none of its neighbours, neither from the relay nor from
/// the discovery of appends by other processes.
#[tokio::test(flavor = "multi_thread")]
async fn should_skip_an_event_that_cannot_be_read() {
    let (inner, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let mut placed = placed(&broker).await;
    emitted(&inner, 1, 5).await;
    let log = inner.read_log(0, 1000).await.unwrap();
    let is_third = |it: &&RecordedEvent| is_number(&Publish::new(it.event.clone()), 3);
    let third = log.iter().find(is_third).unwrap().position;
    let faulty = FaultyStore::new(Arc::clone(&inner));
    faulty.spoil([third]);
    let spoiled = Arc::clone(&faulty) as Arc<dyn Store>;
    let wait = |context: WorkflowContext, (): ()| async move { context.signal::<u32>("go").await };
    let runtime = builder(&spoiled, &broker).workflow("wait", wait).start().await.unwrap();
    for expected in [1, 2, 4, 5] {
        assert_eq!(next(&mut placed).await, expected);
    }
    let run = runtime.start("wait", &()).await.unwrap();
    let outside = builder(&inner, &broker).workflow("wait", wait).client_only();
    let outside = outside.start().await.unwrap();
    let started = outside.start("wait", &()).await.unwrap();
    faulty.spoil([inner.head().await.unwrap()]);
    for waiting in [&run, &started] {
        outside.handle(waiting.id()).await.unwrap().signal("go", &7).await.unwrap();
    }
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// Refused events follow the same option. Everything before the event is published.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_at_an_event_that_cannot_be_read_if_configured() {
    let (inner, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let mut placed = placed(&broker).await;
    emitted(&inner, 1, 5).await;
    let log = inner.read_log(0, 1000).await.unwrap();
    let is_third = |it: &&RecordedEvent| is_number(&Publish::new(it.event.clone()), 3);
    let third = log.iter().find(is_third).unwrap().position;
    let faulty = FaultyStore::new(Arc::clone(&inner));
    faulty.spoil([third]);
    let spoiled = Arc::clone(&faulty) as Arc<dyn Store>;
    let options = EngineOptions::new().with_refused_events(RefusedEvents::Stop);
    let runtime = builder(&spoiled, &broker).engine_options(options).start().await.unwrap();
    for expected in [1, 2] {
        assert_eq!(next(&mut placed).await, expected);
    }
    let failure = tokio::time::timeout(PATIENCE, runtime.failed()).await.unwrap();
    assert_eq!(failure.code, "INVALID_ROW");
    assert!(failure.message.contains("relay the log"), "{failure}");
    drop(runtime);
    let runtime = start(&inner, &broker).await;
    for expected in [3, 4, 5] {
        assert_eq!(next(&mut placed).await, expected);
    }
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// The recorder is that of the thread, so everything runs on one thread.
#[tokio::test]
async fn should_report_its_lag_while_the_broker_takes_nothing_and_none_without_the_lease() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let lag = || {
        let metrics = snapshots.snapshot().into_vec().into_iter();
        let mut gauges = metrics.filter(|(key, ..)| key.key().name() == "aios_relay_lag_events");
        match gauges.next() {
            Some((.., DebugValue::Gauge(value))) => value.into_inner(),
            _ => 0.0,
        }
    };
    let (faulty, broker) =
        (FaultyStore::new(store()), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    broker.on_publish(|publish| {
        let is_placed = publish.event.event_type.action() == "placed";
        let late = || BrokerError::Timeout { operation: "publish", after: PATIENCE };
        is_placed.then(|| Fault::Refuse(late()))
    });
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
    let options = options.with_backoff(backoff);
    let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
    run(&runtime, 1).await;
    let tried = broker.batches().len();
    eventually("it is tried", || async { broker.batches().len() > tried + 3 }).await;
    for number in 0..20 {
        let event = Event::new("users.user.seen".parse().unwrap(), "shop", &number).unwrap();
        let stream = StreamId::new(format!("users/{number}")).unwrap();
        store.append_one(Append::new(stream, vec![event])).await.unwrap();
    }
    eventually("the lag grows with the log", || async { lag() >= 20.0 }).await;
    faulty.on_call(|method| (*method == "renew").then(|| Fault::Refuse(store_unavailable())));
    eventually("the lag is not that of this engine", || async { lag() == 0.0 }).await;
    faulty.heal();
    eventually("it relays again", || async { lag() >= 20.0 }).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    eventually("the lag is not that of this process", || async { lag() == 0.0 }).await;
}
