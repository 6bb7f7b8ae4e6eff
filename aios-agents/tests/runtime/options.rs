//! Options that would cause a busy loop, have no effect, or contradict each other are refused where
//! they are set.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    agent::{AgentDefinition, AgentHost, AgentSet, HostOptions, TaskClient},
    middleware::{CircuitBreaker, Deduplicate, Retry, Timeout},
    prelude::*,
    runtime::EngineOptions,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::TaskAssigned,
    broker::{Broker, Group, Subscription},
    clock::{Clock, SystemClock},
    retry::Backoff,
};

use crate::support::workflows::{Doubler, result, runtime, store};

const ZERO: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);

async fn refused_by_engine(change: impl FnOnce(&mut EngineOptions)) -> Option<String> {
    let mut options = EngineOptions::default();
    change(&mut options);
    let started = runtime(&store()).engine_options(options).start().await;
    started.err().map(|error| {
        assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
        error.to_string()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_engine_options() {
    type Change = fn(&mut EngineOptions);
    let changes: [(&str, Change); 16] = [
        ("lease_time", |it| it.lease_time = ZERO),
        ("lease_time", |it| it.lease_time = Duration::from_millis(99)),
        ("lease_time", |it| it.lease_time = Duration::MAX),
        ("eviction_delay", |it| it.eviction_delay = Duration::MAX),
        ("backoff.initial_delay", |it| it.backoff = Backoff::new(ZERO, SECOND)),
        ("backoff", |it| it.backoff = Backoff::new(SECOND * 2, SECOND)),
        ("backoff.max_delay", |it| it.backoff = Backoff::new(SECOND, Duration::MAX)),
        ("child_poll_interval", |it| it.child_poll_interval = ZERO),
        ("heartbeat_timeout", |it| it.heartbeat_timeout = ZERO),
        ("task_grace", |it| it.task_grace = Duration::MAX),
        ("dead_letter_check", |it| it.dead_letter_check = ZERO),
        ("dead_letter_check", |it| it.dead_letter_check = Duration::MAX),
        ("relay_patience", |it| it.relay_patience = Duration::MAX),
        ("unclaimed_after", |it| it.unclaimed_after = ZERO),
        ("redispatch_after", |it| it.redispatch_after = Some(ZERO)),
        ("redispatch_after", |it| it.redispatch_after = Some(Duration::MAX)),
    ];
    for (name, change) in changes {
        let refusal = refused_by_engine(change).await.unwrap_or_else(|| panic!("{name} was taken"));
        assert!(refusal.contains(name), "{refusal:?} should name {name}");
    }
    assert_eq!(refused_by_engine(|it| it.eviction_delay = ZERO).await, None);
}

async fn refused_by_host(options: HostOptions, definition: AgentDefinition) -> Option<String> {
    let builder = runtime(&store()).agents(definition).host_options(options);
    builder.start().await.err().map(|error| {
        assert_eq!(error.code(), "INVALID_AGENT_CONFIGURATION");
        aios_core::Chain(&error).to_string()
    })
}

fn doubler() -> AgentDefinition {
    AgentDefinition::instance("doubler", Doubler::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_host_options() {
    let options = HostOptions::new;
    for (name, options) in [
        ("heartbeat_interval", options().with_heartbeat_interval(ZERO)),
        ("announce_interval", options().with_announce_interval(Duration::MAX)),
        ("cancel_grace", options().with_cancel_grace(Duration::MAX)),
        ("create_timeout", options().with_create_timeout(ZERO)),
        ("early_ack_after", options().with_early_ack_after(Some(Duration::MAX))),
        ("blocked_after", options().with_blocked_after(Some(ZERO))),
        ("blocked_after", options().with_blocked_after(Some(Duration::MAX))),
        ("backoff", options().with_backoff(Backoff::new(ZERO, ZERO))),
    ] {
        let refusal = refused_by_host(options, doubler()).await;
        assert!(refusal.as_ref().is_some_and(|it| it.contains(name)), "{name}: {refusal:?}");
    }
    let unwatched = options().with_early_ack_after(None).with_blocked_after(None);
    assert_eq!(refused_by_host(unwatched, doubler()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_source_that_no_event_can_have() {
    for source in [String::new(), "s".repeat(256)] {
        let host = AgentHost::builder(AgentSet::new()).broker(Arc::new(MemoryBroker::new()));
        let refused = host.source(source.as_str()).start().await.unwrap_err();
        assert!(aios_core::Chain(&refused).to_string().contains("event source"), "{refused}");
        let runtime = Runtime::builder().broker(Arc::new(MemoryBroker::new())).store(store());
        let refused = runtime.source(source).start().await.unwrap_err();
        assert_eq!(refused.code(), "INVALID_RUNTIME_CONFIGURATION");
        assert!(refused.to_string().contains("event source"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_host_without_a_broker() {
    let started = AgentHost::builder(AgentSet::new()).start().await;
    let refusal = aios_core::Chain(&started.unwrap_err()).to_string();
    assert!(refusal.contains("needs a broker"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_middleware() {
    let clock = || -> Arc<dyn Clock> { Arc::new(SystemClock) };
    let breaker = CircuitBreaker::new(clock()).with_open_for(ZERO);
    for definition in [
        doubler().with_layer(Timeout::new(clock(), ZERO)),
        doubler().with_layer(Retry::new(clock(), RetryPolicy::fixed(0, ZERO))),
        doubler().with_layer(breaker),
        doubler().with_layer(Deduplicate::new(0)),
    ] {
        assert!(refused_by_host(HostOptions::new(), definition).await.is_some());
    }
}

async fn hasty(context: WorkflowContext, which: u64) -> Result<u64, WorkflowError> {
    let endless = RetryPolicy::fixed(0, ZERO);
    match which {
        0 => context.task("doubler", &1).timeout(ZERO).await,
        1 => context.task("doubler", &1).retry(endless).await,
        2 => context.step("x", async || Ok::<_, TaskError>(1_u64)).retry(endless).await,
        3 => context.task("doubler", &1).timeout(Duration::MAX).await,
        4 => context.task("doubler", &1).total_timeout(ZERO).await,
        5 => context.task("doubler", &1).total_timeout(Duration::MAX).await,
        6 => context.signal("never").timeout(Duration::MAX).await,
        7 => context.sleep(Duration::MAX).await.map(|()| 1),
        #[expect(clippy::reversed_empty_ranges, reason = "refused")]
        8 => context.version("swapped", 2..=1).map(u64::from),
        9 => context.step("x", async || Ok::<_, TaskError>(1_u64)).timeout(Duration::MAX).await,
        _ => context.step("x", async || Ok::<_, TaskError>(1_u64)).timeout(ZERO).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_call_options() {
    let store = store();
    let runtime = runtime(&store).agent("doubler", Doubler::default()).workflow("hasty", hasty);
    let brief = |context: WorkflowContext, (): ()| async move {
        let error = context.signal::<()>("x").timeout(ZERO).await.unwrap_err();
        assert_eq!(error.code(), "SIGNAL_TIMEOUT");
        Ok(())
    };
    let runtime = runtime.workflow("brief", brief);
    let runtime = runtime.start().await.unwrap();
    for which in 0..11_u64 {
        let run = runtime.start("hasty", &which).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "INVALID_OPTIONS", "{which}");
    }
    let error = runtime.task("doubler", &1).timeout(ZERO).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
    let error = runtime.task("doubler", &1).retry(RetryPolicy::fixed(0, ZERO)).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
    for timeout in [ZERO, Duration::MAX] {
        let error = runtime.task("doubler", &1).total_timeout(timeout).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
        assert!(error.to_string().contains("total_timeout"), "{error}");
    }
    let error = runtime.start("hasty", &0_u64).after(Duration::MAX).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION");
    let run = runtime.start("brief", &()).await.unwrap();
    assert!(result::<()>(&run).await.is_ok(), "a signal that is there now can be asked for");
}

#[tokio::test]
async fn should_refuse_the_timeout_of_a_direct_call_before_anything_is_sent() {
    let broker = Arc::new(MemoryBroker::new());
    let group = Subscription::group(Group::new("any").unwrap(), ["agents.#".parse().unwrap()]);
    let mut sent = broker.subscribe(group).await.unwrap();
    let client = TaskClient::new(broker.clone(), Arc::new(SystemClock), "test").await.unwrap();
    for timeout in [ZERO, Duration::from_micros(500), Duration::MAX] {
        let error = client.task("doubler", &1).timeout(timeout).await.unwrap_err();
        assert_eq!(error.failure.code, "INVALID_OPTIONS", "{timeout:?}");
        assert!(!error.retryable, "{timeout:?}");
    }
    let call = client.task("doubler", &1).timeout(SECOND);
    tokio::select! {
        _ = call => panic!("no agent answers"),
        task = sent.next() => {
            let task: TaskAssigned = task.unwrap().unwrap().event.data().unwrap();
            assert_eq!(task.timeout_ms, Some(1000), "the first that was sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_runtime_without_what_it_needs() {
    let broker = || Arc::new(MemoryBroker::new());
    let error = Runtime::builder().store(store()).start().await.unwrap_err();
    assert!(error.to_string().contains("broker"), "{error}");
    let runtime = Runtime::builder().broker(broker()).start().await.unwrap();
    let error = runtime.start("x", &1).await.unwrap_err();
    assert!(error.to_string().contains("store"), "{error}");
}
