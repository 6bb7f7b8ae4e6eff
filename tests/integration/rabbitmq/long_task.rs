//! Tasks that take longer than the server's consumer timeout.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::agent::{AgentDefinition, AgentHost, AgentSet, HostOptions, TaskClient};
use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    agent::{Agent, TaskContext, TaskError},
    broker::Broker,
    clock::{Clock, SystemClock},
};
use aios_tests::rabbitmq::RabbitMqServer;

use super::traffic::rest;

/// The server's consumer timeout, in milliseconds, and how often it checks.
const CONSUMER_TIMEOUT: &str = "consumer_timeout = 3000";
const LOOK: &str = "application:set_env(rabbit, channel_tick_interval, 500).";
const TIMED_OUT: &str = "delivery acknowledgement on channel";

const LONG: Duration = Duration::from_secs(8);
const SHORT: Duration = Duration::from_millis(10);

/// Records the tasks that it began.
#[derive(Clone, Default)]
struct Sleeper(Arc<Mutex<Vec<Duration>>>);

impl Agent for Sleeper {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, millis: u64) -> Result<u64, TaskError> {
        let duration = Duration::from_millis(millis);
        self.0.lock().unwrap().push(duration);
        rest(duration).await;
        Ok(millis)
    }
}

impl Sleeper {
    fn began(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }
}

async fn connect(server: &RabbitMqServer) -> Arc<dyn Broker> {
    Arc::new(RabbitMqBroker::connect(&server.url()).await.unwrap())
}

async fn host(
    server: &RabbitMqServer,
    agent_type: &str,
    agent: &Sleeper,
    early_ack_after: Option<Duration>,
) -> AgentHost {
    let options = HostOptions::new()
        .with_heartbeat_interval(Duration::from_secs(1))
        .with_early_ack_after(early_ack_after);
    let definition = AgentDefinition::instance(agent_type, agent.clone()).with_concurrency(1);
    let broker = connect(server).await;
    let agents = AgentSet::new().definition(definition);
    AgentHost::builder(agents).broker(broker).options(options).start().await.unwrap()
}

async fn sleep(caller: &TaskClient, agent_type: &str, duration: Duration) -> Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap();
    let answer = caller.task(agent_type, &millis).await.unwrap();
    Duration::from_millis(answer.decode().unwrap())
}

/// A server with a short consumer timeout, and a caller.
async fn impatient() -> Option<(RabbitMqServer, TaskClient)> {
    let server = RabbitMqServer::start_with(&[CONSUMER_TIMEOUT])?;
    assert_eq!(server.ctl(&["eval", LOOK]), "ok");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let caller = TaskClient::new(connect(&server).await, clock, "test").await.unwrap();
    Some((server, caller))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_do_a_task_once_that_outlives_the_consumer_timeout() {
    let Some((server, caller)) = impatient().await else { return };
    let agent = Sleeper::default();
    let _host = host(&server, "patient", &agent, Some(Duration::from_secs(1))).await;
    let long = tokio::spawn({
        let caller = caller.clone();
        async move { sleep(&caller, "patient", LONG).await }
    });
    while agent.began().is_empty() {
        rest(SHORT).await;
    }
    // It is queued behind the long one.
    assert_eq!(sleep(&caller, "patient", SHORT).await, SHORT);
    assert_eq!(long.await.unwrap(), LONG);
    assert_eq!(agent.began(), [LONG, SHORT]);
    assert!(!server.log().contains(TIMED_OUT), "{}", server.log());
}

/// The counterpart without the early acknowledgement: the server redelivers the task to another
/// replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_repeat_such_a_task_without_an_early_acknowledgement() {
    let Some((server, caller)) = impatient().await else { return };
    let agent = Sleeper::default();
    let _first = host(&server, "hasty", &agent, None).await;
    let _second = host(&server, "hasty", &agent, None).await;
    assert_eq!(sleep(&caller, "hasty", LONG).await, LONG);
    assert!(agent.began().len() > 1, "{:?}", agent.began());
    // RabbitMQ 4.3 logs nothing about it.
    let is_logged = server.log().contains(TIMED_OUT);
    assert!(is_logged || server.ctl(&["version"]).starts_with("4.3."), "{}", server.log());
}
