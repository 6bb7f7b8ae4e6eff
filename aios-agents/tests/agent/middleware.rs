use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentDefinition, AgentSet, IntoDynAgent},
    middleware::{
        CircuitBreaker, ConcurrencyLimit, Deduplicate, Metrics, Middleware, RateLimit, Retry,
        Timeout, Trace,
    },
};
use aios_core::{
    agent::{Agent, DynAgent, TaskContext, TaskError},
    clock::{Clock, SystemClock, VirtualClock},
    event::{Event, Metadata, Payload, Timestamp},
    failure::Failure,
    retry::RetryPolicy,
};
use futures_util::{FutureExt, future::join_all};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde_json::{Value, json};

use crate::support::agents::{Scripted, World, assigned, cancelled, context, context_of, process};

const SECOND: Duration = Duration::from_secs(1);

fn wrap(layer: &impl Middleware, agent: &Scripted) -> Arc<dyn DynAgent> {
    layer.wrap(agent.clone().into_dyn().unwrap())
}

/// Fails while the counter `sick` is above zero.
fn recovering(sick: &Arc<AtomicUsize>, retryable: bool) -> Scripted {
    let sick = Arc::clone(sick);
    Scripted::new(move |context, parameters| {
        context
            .emit(Event::new("shop.order.placed".parse().unwrap(), "test", &1).unwrap())
            .unwrap();
        let fails =
            sick.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        async move {
            let failure = Failure::new("SICK", "not now");
            match fails {
                Ok(_) => Err(TaskError::retryable(failure).with_retryable(retryable)),
                Err(_) => Ok(parameters),
            }
        }
    })
}

fn clock(world: &World) -> Arc<dyn Clock> {
    Arc::new(world.clock.clone())
}

fn sleeping(clock: &VirtualClock, running: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> Scripted {
    let (clock, running, most) = (clock.clone(), Arc::clone(running), Arc::clone(most));
    Scripted::new(move |_, parameters| {
        let (clock, running, most) = (clock.clone(), Arc::clone(&running), Arc::clone(&most));
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            clock.sleep(SECOND).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(parameters)
        }
    })
}

#[tokio::test]
async fn should_give_up_after_the_timeout() {
    let world = World::new();
    let layer = Timeout::new(clock(&world), SECOND);
    let error = world.drive(process(&*wrap(&layer, &Scripted::stuck()), "t", json!(1))).await;
    assert!(error.unwrap_err().has_code("TASK_TIMEOUT"));
    assert_eq!(process(&*wrap(&layer, &Scripted::echo()), "t", json!(1)).await.unwrap(), json!(1));
}

#[tokio::test]
async fn should_try_again_and_forget_what_failed_tries_emitted() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(2)));
    let agent = recovering(&sick, true);
    let wrapped = wrap(&Retry::new(clock(&world), RetryPolicy::default()), &agent);
    let task = context("t");
    let parameters = Payload::encode(&7).unwrap();
    world.drive(wrapped.process_task(&task, parameters)).await.unwrap();
    assert_eq!((agent.calls(), task.take_emitted().len()), (3, 1));
}

/// Only what the tries emit is forgotten, not what a layer around them has emitted before.
#[tokio::test]
async fn should_keep_what_an_outer_layer_emitted_before_a_failed_try() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(2)));
    let wrapped =
        wrap(&Retry::new(clock(&world), RetryPolicy::default()), &recovering(&sick, true));
    let task = context("t");
    for number in [1, 2] {
        let event = Event::new("shop.order.checked".parse().unwrap(), "test", &number).unwrap();
        task.emit(event).unwrap();
    }
    let parameters = Payload::encode(&7).unwrap();
    world.drive(wrapped.process_task(&task, parameters)).await.unwrap();
    let emitted = task.take_emitted();
    let emitted: Vec<_> =
        emitted.iter().map(|it| (it.event_type.action(), it.payload.as_str())).collect();
    assert_eq!(emitted, [("checked", "1"), ("checked", "2"), ("placed", "1")]);
}

#[tokio::test]
async fn should_not_try_again_what_is_final_refused_or_used_up() {
    let twice = RetryPolicy::default().with_max_attempts(2);
    for (policy, retryable, calls) in [
        (RetryPolicy::default(), false, 1),
        (RetryPolicy::default().with_non_retryable("SICK"), true, 1),
        (twice, true, 2),
    ] {
        let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(9)));
        let agent = recovering(&sick, retryable);
        let wrapped = wrap(&Retry::new(clock(&world), policy), &agent);
        assert!(world.drive(process(&*wrapped, "t", json!(1))).await.unwrap_err().has_code("SICK"));
        assert_eq!(agent.calls(), calls);
    }
}

#[tokio::test]
async fn should_share_the_limit_among_all_wrapped_agents() {
    let world = World::new();
    let (running, most) = (Arc::default(), Arc::default());
    let (layer, agent) = (ConcurrencyLimit::new(2), sleeping(&world.clock, &running, &most));
    let agents = [wrap(&layer, &agent), wrap(&layer, &agent)];
    let tasks = (0..8).map(|task| process(&*agents[task % 2], "t", json!(task)));
    let answers = world.drive(join_all(tasks)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn should_begin_no_more_tasks_than_the_rate_allows() {
    let world = World::new();
    let agent = Scripted::echo();
    let wrapped = wrap(&RateLimit::new(clock(&world), 2, SECOND).unwrap(), &agent);
    let tasks = tokio::spawn(async move {
        let calls = (0..6).map(|task| process(&*wrapped, "t", json!(task)));
        join_all(calls).await.into_iter().filter(Result::is_ok).count()
    });
    world.idle().await;
    assert_eq!(agent.calls(), 2, "the burst");
    world.clock.advance(SECOND);
    world.idle().await;
    assert!((3..=4).contains(&agent.calls()), "{}", agent.calls());
    assert_eq!(world.drive(tasks).await.unwrap(), 6);
    assert!(RateLimit::new(clock(&world), 0, SECOND).is_err());
    for per in [Duration::ZERO, SECOND * (u32::MAX - 1), Duration::MAX] {
        for tasks in [1, u32::MAX] {
            let refused = RateLimit::new(clock(&world), tasks, per).unwrap_err();
            assert_eq!(refused.code(), "INVALID_AGENT_CONFIGURATION");
        }
    }
}

#[tokio::test]
async fn should_open_probe_and_close_the_circuit() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(4)));
    let agent = recovering(&sick, true);
    let layer = CircuitBreaker::new(clock(&world)).with_threshold(3).with_open_for(SECOND);
    let wrapped = wrap(&layer, &agent);
    let code = async || match process(&*wrapped, "t", json!(1)).await {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.failure.code,
    };
    for expected in ["SICK", "SICK", "SICK", "CIRCUIT_OPEN"] {
        assert_eq!(code().await, expected);
    }
    world.clock.advance(SECOND);
    for expected in ["SICK", "CIRCUIT_OPEN"] {
        assert_eq!(code().await, expected, "the probe failed");
    }
    world.clock.advance(SECOND);
    for expected in ["OK", "OK"] {
        assert_eq!(code().await, expected);
    }
    assert_eq!(agent.calls(), 6);
}

#[tokio::test]
async fn should_say_that_a_probe_decides_when_the_next_task_is_admitted() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(1)));
    let layer = CircuitBreaker::new(clock(&world)).with_threshold(1).with_open_for(SECOND);
    let wrapped = wrap(&layer, &recovering(&sick, true));
    process(&*wrapped, "t", json!(1)).await.unwrap_err();
    let refused = async || process(&*wrapped, "t", json!(1)).await.unwrap_err().failure.message;
    let message = refused().await;
    assert!(message.ends_with("the next task is admitted in 1s"), "{message}");
    world.clock.advance(SECOND);
    let stuck = wrap(&layer, &Scripted::stuck());
    let mut probe = std::pin::pin!(process(&*stuck, "t", json!(1)));
    assert!(futures_util::poll!(probe.as_mut()).is_pending());
    let message = refused().await;
    assert!(
        message.ends_with("the next task is admitted once the running probe succeeds"),
        "{message}"
    );
}

#[tokio::test]
async fn should_probe_in_time_when_the_clock_is_set_back() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(1)));
    let layer = CircuitBreaker::new(clock(&world)).with_threshold(1).with_open_for(SECOND);
    let wrapped = wrap(&layer, &recovering(&sick, true));
    world.clock.set(Timestamp::UNIX_EPOCH + SECOND * 3600);
    process(&*wrapped, "t", json!(1)).await.unwrap_err();
    world.clock.set(Timestamp::UNIX_EPOCH);
    let refused = process(&*wrapped, "t", json!(1)).await.unwrap_err();
    assert_eq!(refused.failure.code, "CIRCUIT_OPEN");
    world.clock.advance(SECOND);
    process(&*wrapped, "t", json!(1)).await.unwrap();
}

#[tokio::test]
async fn should_not_open_the_circuit_for_final_failures() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(9)));
    let layer = CircuitBreaker::new(clock(&world)).with_threshold(2);
    let wrapped = wrap(&layer, &recovering(&sick, false));
    for _ in 0..9 {
        assert!(process(&*wrapped, "t", json!(1)).await.unwrap_err().has_code("SICK"));
    }
}

#[tokio::test]
async fn should_count_a_task_over_time_as_sick_and_probe_again_if_a_probe_is_dropped() {
    let world = World::new();
    let layer = CircuitBreaker::new(clock(&world)).with_threshold(1).with_open_for(SECOND);
    let wrapped = wrap(&layer, &Scripted::stuck());
    let outer = Timeout::new(clock(&world), SECOND).wrap(wrapped);
    let code = async || process(&*outer, "t", json!(1)).await.unwrap_err().failure.code;
    assert_eq!(world.drive(code()).await, "TASK_TIMEOUT");
    assert_eq!(code().await, "CIRCUIT_OPEN");
    world.clock.advance(SECOND);
    assert_eq!(world.drive(code()).await, "TASK_TIMEOUT");
}

#[tokio::test]
async fn should_do_a_task_once_and_keep_no_failure() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(1)));
    let agent = recovering(&sick, true);
    let wrapped = wrap(&Deduplicate::new(2), &agent);
    assert!(process(&*wrapped, "a", json!(1)).await.is_err());
    let both = join_all([process(&*wrapped, "a", json!(1)), process(&*wrapped, "a", json!(1))]);
    assert!(world.drive(both).await.iter().all(|answer| *answer.as_ref().unwrap() == json!(1)));
    assert_eq!(agent.calls(), 2);
    for task in ["b", "c", "a"] {
        process(&*wrapped, task, json!(1)).await.unwrap();
    }
    assert_eq!(agent.calls(), 5, "the oldest was forgotten");
}

/// After retention, a run may have the id of an earlier one, and so may its tasks.
#[tokio::test]
async fn should_not_take_a_task_for_one_of_an_earlier_run_with_the_same_id() {
    let agent = Scripted::echo();
    let wrapped = wrap(&Deduplicate::new(8), &agent);
    for (incarnation, number) in [("first", 1), ("second", 2), ("first", 1)] {
        let metadata = Metadata { incarnation: Some(incarnation.into()), ..Metadata::default() };
        let context = context_of("r/1", Arc::new(metadata));
        let parameters = Payload::encode(&number).unwrap();
        let output = wrapped.process_task(&context, parameters).await.unwrap();
        assert_eq!(output.decode::<u32>().unwrap(), number);
    }
    assert_eq!(agent.calls(), 2);
}

#[tokio::test]
async fn should_pass_everything_through_the_tracing_layer() {
    let wrapped = wrap(&Trace::new(), &Scripted::echo());
    assert_eq!(process(&*wrapped, "t", json!(1)).await.unwrap(), json!(1));
    assert_eq!(
        wrapped.parameters_schema(),
        Scripted::echo().into_dyn().unwrap().parameters_schema()
    );
}

#[test]
fn should_count_and_time_tasks() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(measure()));
    let mut outcomes: Vec<_> = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let outcome = key.key().labels().find(|label| label.key() == "outcome");
        let outcome = outcome.map(|label| label.value().to_owned());
        match value {
            DebugValue::Counter(count) => outcomes.push((outcome.unwrap(), count)),
            DebugValue::Gauge(running) => assert_eq!(running.into_inner(), 0.0),
            DebugValue::Histogram(times) => assert!(!times.is_empty()),
        }
    }
    outcomes.sort();
    let expected = [("completed", 2), ("dropped", 1), ("failed", 1)];
    assert_eq!(outcomes, expected.map(|(outcome, count)| (outcome.to_owned(), count)));
}

async fn measure() {
    let (world, sick) = (World::new(), Arc::new(AtomicUsize::new(1)));
    let layer = Metrics::new(clock(&world));
    let agent = wrap(&layer, &recovering(&sick, true));
    for _ in 0..3 {
        drop::<Result<Value, TaskError>>(process(&*agent, "t", json!(1)).await);
    }
    let stuck = Timeout::new(clock(&world), SECOND).wrap(wrap(&layer, &Scripted::stuck()));
    world.drive(process(&*stuck, "t", json!(1))).await.unwrap_err();
}

/// A clock that is set back would otherwise stop every task for as long as it was set back, and one
/// that is set forward would let too many begin.
#[tokio::test]
async fn should_limit_the_rate_by_the_time_that_passes() {
    let hour = SECOND * 3600;
    for forward in [false, true] {
        let world = World::new();
        world.clock.set(Timestamp::UNIX_EPOCH + hour);
        let agent = Scripted::echo();
        let wrapped = wrap(&RateLimit::new(clock(&world), 2, SECOND).unwrap(), &agent);
        let tasks = tokio::spawn(async move {
            join_all((0..6).map(|task| process(&*wrapped, "t", json!(task)))).await
        });
        world.idle().await;
        assert_eq!(agent.calls(), 2, "the burst");
        let set = if forward { Timestamp::UNIX_EPOCH + hour * 2 } else { Timestamp::UNIX_EPOCH };
        world.clock.set(set);
        world.clock.advance(SECOND / 2);
        world.idle().await;
        assert_eq!(agent.calls(), 3, "{forward}");
        world.pass(SECOND * 2).await;
        assert_eq!(agent.calls(), 6, "{forward}");
        tasks.await.unwrap();
    }
}

#[tokio::test]
async fn should_begin_no_further_try_of_a_cancelled_task() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = recovering(&Arc::new(AtomicUsize::new(9)), true);
    let layer = Retry::new(clock(&world), RetryPolicy::fixed(9, SECOND / 2));
    let definition = AgentDefinition::instance("flaky", agent.clone()).with_layer(layer);
    let _host = world.start(AgentSet::new().definition(definition)).await;
    world.assign("flaky", "t1", json!(1)).await;
    world.idle().await;
    world.publish(cancelled("flaky", "t1")).await;
    world.idle().await;
    world.pass(SECOND * 2).await;
    assert_eq!(agent.calls(), 1, "it was cancelled during the delay");
    assert_eq!(engine.failure().await.failure.code, "TASK_CANCELLED");
}

/// A task whose turn would come during the time that it has for its cancellation.
#[tokio::test]
async fn should_begin_no_task_that_was_cancelled_while_it_waited() {
    for is_rate in [true, false] {
        let world = World::new();
        let mut engine = world.mailbox("engine").await;
        let clock_of_agent = world.clock.clone();
        let agent = Scripted::new(move |_, parameters| {
            let clock = clock_of_agent.clone();
            async move {
                clock.sleep(SECOND / 2).await;
                Ok(parameters)
            }
        });
        let definition = AgentDefinition::instance("slow", agent.clone());
        let definition = match is_rate {
            true => definition.with_layer(RateLimit::new(clock(&world), 1, SECOND / 2).unwrap()),
            false => definition.with_layer(ConcurrencyLimit::new(1)),
        };
        let _host = world.start(AgentSet::new().definition(definition)).await;
        world.assign("slow", "t1", json!(1)).await;
        world.idle().await;
        world.assign("slow", "t2", json!(2)).await;
        world.idle().await;
        world.publish(cancelled("slow", "t2")).await;
        world.pass(SECOND * 2).await;
        assert_eq!(agent.calls(), 1, "{is_rate}");
        let answers = [engine.next().await, engine.next().await];
        let mut actions = answers.map(|answer| answer.event_type.action().to_owned());
        actions.sort();
        assert_eq!(actions, ["task_completed", "task_failed"]);
    }
}

/// Ends with an error once it is cancelled.
#[derive(Clone, Default)]
struct Obedient(Arc<AtomicUsize>);

impl Agent for Obedient {
    type Parameters = Value;
    type Output = Value;

    async fn process_task(&self, context: &TaskContext, _: Value) -> Result<Value, TaskError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        context.cancelled().await;
        Err(Failure::new("STOPPED", "as told").into())
    }
}

#[tokio::test]
async fn should_not_begin_a_cancelled_task_again_that_was_repeated() {
    let world = World::new();
    let _engine = world.mailbox("engine").await;
    let agent = Obedient::default();
    let definition = AgentDefinition::instance("obedient", agent.clone());
    let definition = definition.with_layer(Deduplicate::new(9));
    let _host = world.start(AgentSet::new().definition(definition)).await;
    for attempt in [1, 2] {
        world.publish(assigned("obedient", "t1", attempt, json!(1), None)).await;
        world.idle().await;
    }
    world.publish(cancelled("obedient", "t1")).await;
    world.pass(SECOND * 3).await;
    assert_eq!(agent.0.load(Ordering::SeqCst), 1);
}

/// The first task makes the keys of the metrics.
#[tokio::test]
async fn should_allocate_nothing_for_metrics_without_a_recorder() {
    let (layer, agent) = (Metrics::new(Arc::new(SystemClock)), Immediate);
    let context = context("t1");
    let allocations = |call: &dyn Fn()| {
        call();
        allocation_counter::measure(call).count_total
    };
    let bare = allocations(&|| drop(agent.process_task(&context, Payload::null()).now_or_never()));
    let layered =
        allocations(&|| drop(layer.call(&agent, &context, Payload::null()).now_or_never()));
    assert_eq!(layered, bare);
}

/// Answers without waiting.
struct Immediate;

#[async_trait::async_trait]
impl DynAgent for Immediate {
    fn parameters_schema(&self) -> &Value {
        &Value::Null
    }

    fn output_schema(&self) -> &Value {
        &Value::Null
    }

    async fn process_task(&self, _: &TaskContext, task: Payload) -> Result<Payload, TaskError> {
        Ok(task)
    }
}
