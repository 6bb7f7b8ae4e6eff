use std::{sync::Arc, time::Duration};

use aios_agents::agent::{AgentDefinition, AgentSet, RegisteredAgent, TaskClient};
use aios_core::{
    agent::{TaskError, TaskHeartbeat},
    event::{Metadata, Payload},
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agents::{Scripted, World};

#[tokio::test]
async fn should_answer_many_calls_at_once_each_with_its_own() {
    let world = World::new();
    let _host = world.start(AgentSet::new().agent("echo", Scripted::echo())).await;
    let caller = world.caller().await;
    let calls = (0..1000).map(|number| caller.task("echo", &number).into_future());
    for (number, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().decode::<usize>().unwrap(), number);
    }
}

#[tokio::test]
async fn should_report_that_no_agent_receives_the_task() {
    let world = World::new();
    let caller = world.caller().await;
    let error = caller.task("missing", &1).await.unwrap_err();
    assert!(error.has_code("AGENT_NOT_FOUND") && error.retryable, "{error}");
    let error = caller.task("missing", &1).to_agent("missing-1").await.unwrap_err();
    assert!(error.has_code("AGENT_NOT_FOUND"), "{error}");
    let error = caller.task("No Body", &1).await.unwrap_err();
    assert!(error.has_code("AGENT_NOT_FOUND") && !error.retryable, "{error}");
}

#[tokio::test]
async fn should_pass_on_the_failure_of_the_agent() {
    let world = World::new();
    let agent = Scripted::new(|_, _| async {
        Err(TaskError::terminal(aios_core::failure::Failure::new("NO", "never")))
    });
    let _host = world.start(AgentSet::new().agent("no", agent)).await;
    let error = world.caller().await.task("no", &1).await.unwrap_err();
    assert!(error.has_code("NO") && !error.retryable);
}

#[tokio::test]
async fn should_not_wait_forever() {
    let world = World::new();
    let caller = world.caller().await;
    // The task is received, but never answered.
    let _listener = world.subscribe("agents.silent", &["agents.silent.task_assigned"]).await;
    let call = caller.task("silent", &1).timeout(Duration::from_secs(5));
    let error = world.drive(call.into_future()).await.unwrap_err();
    assert!(error.has_code("TASK_TIMEOUT"), "{error}");
}

#[tokio::test]
async fn should_fail_when_the_broker_is_closed() {
    let world = World::new();
    let _host = world.start(AgentSet::new().agent("stuck", Scripted::stuck())).await;
    let caller = world.caller().await;
    let call = tokio::spawn(caller.task("stuck", &1).into_future());
    world.idle().await;
    aios_core::broker::Broker::close(&*world.broker, Duration::ZERO).await.unwrap_err();
    let error = world.drive(call).await.unwrap().unwrap_err();
    assert!(error.has_code("BROKER_CLOSED"), "{error}");
}

#[tokio::test]
async fn should_direct_a_task_to_one_agent_alone() {
    let world = World::new();
    let definition = AgentDefinition::factory("named", |name: String| {
        Ok::<_, TaskError>(Scripted::new(move |context, _| {
            let answer = json!([name, context.agent_id()]);
            async move { Ok(answer) }
        }))
    });
    let anna = Payload::encode("Anna").unwrap();
    let anna = RegisteredAgent::new("named", "anna", anna).with_id("anna-1");
    let definition = definition.register_agent(anna).register("ben", "Ben");
    let _host = world.start(AgentSet::new().definition(definition)).await;
    let caller = world.caller().await;
    for _ in 0..10 {
        let answer = caller.task("named", &1).to_agent("anna-1").await.unwrap();
        assert_eq!(answer.decode::<Value>().unwrap(), json!(["Anna", "anna-1"]));
    }
    let calls = (0..10).map(|_| caller.task("named", &1).into_future());
    let answers = join_all(calls).await.into_iter().map(|answer| answer.unwrap());
    let bens = answers.filter(|answer| answer.as_str().contains("Ben")).count();
    assert_eq!(bens, 5, "agents of a type take turns");
}

#[tokio::test]
async fn should_refuse_a_caller_whose_source_no_event_can_have() {
    for source in [String::new(), "s".repeat(256)] {
        let world = World::new();
        let clock = Arc::new(world.clock.clone());
        let refused = TaskClient::new(world.broker.clone(), clock, source).await.unwrap_err();
        assert_eq!(refused.code(), "INVALID_AGENT_CONFIGURATION");
        assert!(aios_core::Chain(&refused).to_string().contains("event source"), "{refused}");
    }
}

/// An agent passes on the metadata of its own task, which belongs to a run. The one that it sends does
/// not.
#[tokio::test]
async fn should_take_no_task_of_a_caller_for_one_of_a_run() {
    let world = World::new();
    let agent = Scripted::stuck();
    let host = world.start(AgentSet::new().agent("stuck", agent.clone())).await;
    let caller = world.caller().await;
    let metadata = Metadata { incarnation: Some("of a run".into()), ..Metadata::default() };
    let call = tokio::spawn(caller.task("stuck", &1).metadata(metadata).into_future());
    world.idle().await;
    // The broker delivers it again, to another process.
    drop(host);
    let mut beats = world.subscribe("beats", &["agents.stuck.task_heartbeat"]).await;
    let host = world.start(AgentSet::new().agent("stuck", agent.clone())).await;
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(agent.calls(), 2, "no engine is asked");
    while let Some(beat) = beats.try_next().await {
        assert!(!beat.data::<TaskHeartbeat>().unwrap().asks);
    }
    call.abort();
    world.idle().await;
    drop(caller);
    world.idle().await;
    let cancelled = world.drive(host.shutdown(Duration::from_secs(9))).await;
    cancelled.expect("the task was cancelled with its caller");
}
