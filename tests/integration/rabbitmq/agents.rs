//! Agents that are resources, in processes without a store.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    agent::{Change, ManagedAgents},
    prelude::*,
    runtime::RuntimeBuilder,
};
use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    event::Payload,
    store::{AgentStatus, Store},
};
use aios_tests::rabbitmq::RabbitMqServer;

use super::traffic::rest;

struct Greeter(String);

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("{}, {name}!", self.0))
    }
}

async fn builder(server: &RabbitMqServer) -> RuntimeBuilder {
    let broker = RabbitMqBroker::connect(&server.url()).await.unwrap();
    Runtime::builder().broker(Arc::new(broker))
}

/// A process that hosts agents, and has no store.
async fn remote(server: &RabbitMqServer) -> Runtime {
    let make = |greeting: String| Ok::<_, TaskError>(Greeter(greeting));
    builder(server).await.agent_factory("polite", make).start().await.unwrap()
}

async fn create(agents: &ManagedAgents, name: &str, greeting: &str) -> String {
    let config = Payload::encode(greeting).unwrap();
    let created = agents.create("polite", name, None, config, Change::default()).await.unwrap();
    assert_eq!(created.record.status, AgentStatus::Waiting);
    created.record.id
}

async fn until_running(agents: &ManagedAgents, id: &str) {
    while agents.get(id).await.unwrap().record.status != AgentStatus::Running {
        rest(Duration::from_millis(20)).await;
    }
}

async fn greet(runtime: &Runtime, id: &str) -> String {
    runtime.task(("polite", id), "Ada").await.unwrap().result().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_host_agents_without_a_store() {
    let Some(server) = RabbitMqServer::start() else { return };
    let store: Arc<dyn Store> = aios_store::connect("memory://").await.unwrap();
    let runtime = builder(&server).await.store(store).start().await.unwrap();
    let agents = runtime.managed_agents().unwrap();
    let early = create(&agents, "early", "Moin").await;
    let process = remote(&server).await;
    until_running(&agents, &early).await;
    assert_eq!(greet(&runtime, &early).await, "Moin, Ada!");
    let late = create(&agents, "late", "Hello").await;
    until_running(&agents, &late).await;
    assert_eq!(greet(&runtime, &late).await, "Hello, Ada!");

    // The process ends without a farewell; meanwhile one agent is deleted and the other replaced.
    drop(process);
    agents.delete(&early, Change::default()).await.unwrap();
    let config = Payload::encode("Hi").unwrap();
    agents.replace(&late, "late", config, Change::default()).await.unwrap();
    let process = remote(&server).await;
    until_running(&agents, &late).await;
    assert_eq!(greet(&runtime, &late).await, "Hi, Ada!");
    let deleted = agents.get(&early).await.unwrap().record;
    assert_eq!((deleted.status, deleted.deleted_at.is_some()), (AgentStatus::Stopped, true));

    process.shutdown(Duration::from_secs(10)).await.unwrap();
    runtime.shutdown(Duration::from_secs(10)).await.unwrap();
}
