//! A broker, a clock that only tests advance, and agents whose behaviour a test defines.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use aios_agents::agent::{AgentError, AgentHost, AgentSet, HostOptions, TaskClient};
use aios_broker::memory::{MemoryBroker, MemoryOptions};
use aios_core::{
    BoxFuture,
    agent::{
        Agent, DynAgent, TaskAssigned, TaskContext, TaskControl, TaskError, TaskFailed, TaskId,
        TaskInfo,
    },
    broker::{Broker, BrokerExt, Deliveries, Delivery, Group, Mailbox, Subscription},
    clock::VirtualClock,
    event::{Event, Metadata, Payload},
    store::Store,
};
use aios_store::memory::MemoryStore;
use serde_json::{Value, json};

/// How often everything is polled before the clock advances.
const TURNS: usize = 100;

pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) store: Arc<MemoryStore>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = VirtualClock::default();
        let options = MemoryOptions::new().with_clock(Arc::new(clock.clone()));
        let broker = Arc::new(MemoryBroker::connect_with(options).unwrap());
        let store = Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())));
        Self { clock, broker, store }
    }

    pub(crate) async fn start(&self, agents: AgentSet) -> AgentHost {
        self.start_with(agents, HostOptions::new()).await.unwrap()
    }

    pub(crate) async fn start_with(
        &self,
        agents: AgentSet,
        options: HostOptions,
    ) -> Result<AgentHost, AgentError> {
        self.start_on(self.broker.clone(), agents, options).await
    }

    /// Starts a host on another broker than the world's own.
    pub(crate) async fn start_on(
        &self,
        broker: Arc<dyn Broker>,
        agents: AgentSet,
        options: HostOptions,
    ) -> Result<AgentHost, AgentError> {
        let store: Arc<dyn Store> = self.store.clone();
        let clock = Arc::new(self.clock.clone());
        let host = AgentHost::builder(agents).broker(broker).clock(clock).store(store);
        self.drive(host.source("test").options(options).start()).await
    }

    pub(crate) async fn caller(&self) -> TaskClient {
        TaskClient::new(self.broker.clone(), Arc::new(self.clock.clone()), "test").await.unwrap()
    }

    /// Polls `future`, and advances the clock whenever nothing else happens.
    pub(crate) async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Some(done) = settle(future.as_mut()).await {
                return done;
            }
            self.clock.advance_to_next();
        }
    }

    /// Runs everything that can run at the current time.
    pub(crate) async fn idle(&self) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Advances the clock in steps, so that everything due happens in order.
    pub(crate) async fn pass(&self, time: Duration) {
        for _ in 0..20 {
            self.idle().await;
            self.clock.advance(time / 20);
        }
        self.idle().await;
    }

    pub(crate) async fn subscribe(&self, group: &str, patterns: &[&str]) -> Inbox {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
        let subscription = Subscription::group(Group::new(group).unwrap(), patterns);
        Inbox(self.broker.subscribe(subscription).await.unwrap())
    }

    pub(crate) async fn mailbox(&self, name: &str) -> Inbox {
        let subscription = Subscription::mailbox(Mailbox::new(name).unwrap());
        Inbox(self.broker.subscribe(subscription).await.unwrap())
    }

    /// Assigns attempt 1 of a task as an engine does, with answers to the mailbox `engine`.
    pub(crate) async fn assign(&self, agent_type: &str, task_id: &str, parameters: Value) -> Event {
        let event = assigned(agent_type, task_id, 1, parameters, None);
        self.publish(event.clone()).await;
        event
    }

    pub(crate) async fn publish(&self, event: Event) {
        self.broker.publish_event(event).await.unwrap();
    }

    /// The number of events that wait in a group, found by reading them all.
    pub(crate) async fn waiting(&self, group: &str, pattern: &str) -> usize {
        let mut inbox = self.subscribe(group, &[pattern]).await;
        let mut count = 0;
        while inbox.try_next().await.is_some() {
            count += 1;
        }
        count
    }
}

async fn settle<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    for _ in 0..TURNS {
        if let Poll::Ready(done) = futures_util::poll!(&mut future) {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[allow(clippy::needless_pass_by_value, reason = "calls read better")]
pub(crate) fn assigned(
    agent_type: &str,
    task_id: &str,
    attempt: u32,
    parameters: Value,
    timeout: Option<Duration>,
) -> Event {
    let parameters = Payload::encode(&parameters).unwrap();
    let mut data = TaskAssigned::new(TaskId::new(task_id), parameters, attempt);
    data.timeout_ms = timeout.map(|timeout| timeout.as_millis().try_into().unwrap());
    let event_type = format!("agents.{agent_type}.task_assigned").parse().unwrap();
    let metadata = Metadata { reply_to: Some("engine".into()), ..Metadata::default() };
    Event::new(event_type, "engine", &data).unwrap().with_metadata(metadata)
}

pub(crate) fn cancelled(agent_type: &str, task_id: &str) -> Event {
    let event_type = format!("agents.{agent_type}.task_cancelled").parse().unwrap();
    Event::new(event_type, "engine", &json!({ "task_id": task_id })).unwrap()
}

/// A subscription of a test; everything is acknowledged.
pub(crate) struct Inbox(Deliveries);

impl Inbox {
    pub(crate) async fn next(&mut self) -> Event {
        let delivery = self.0.next().await.unwrap().unwrap();
        let event = delivery.event.clone();
        delivery.ack().await.unwrap();
        event
    }

    /// The next delivery, which is not settled.
    pub(crate) async fn take(&mut self) -> Delivery {
        self.0.next().await.unwrap().unwrap()
    }

    /// The next delivery that has already arrived, or arrives without time passing.
    pub(crate) async fn try_next(&mut self) -> Option<Event> {
        settle(pin!(self.next())).await
    }

    /// The next failure.
    pub(crate) async fn failure(&mut self) -> TaskFailed {
        let event = self.next().await;
        assert_eq!(event.event_type.action(), "task_failed");
        event.data().unwrap()
    }
}

type Script =
    dyn Fn(&TaskContext, Value) -> BoxFuture<'static, Result<Value, TaskError>> + Send + Sync;

/// An agent whose behaviour a test defines, and which counts its calls.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn new<F: Future<Output = Result<Value, TaskError>> + Send + 'static>(
        script: impl Fn(&TaskContext, Value) -> F + Send + Sync + 'static,
    ) -> Self {
        let script: Arc<Script> =
            Arc::new(move |context, parameters| Box::pin(script(context, parameters)));
        Self { script, calls: Arc::default() }
    }

    /// Answers with its parameters.
    pub(crate) fn echo() -> Self {
        Self::new(|_, parameters| async { Ok(parameters) })
    }

    /// Never ends.
    pub(crate) fn stuck() -> Self {
        Self::new(|_, _| std::future::pending())
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Agent for Scripted {
    type Parameters = Value;
    type Output = Value;

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Value,
    ) -> Result<Value, TaskError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.script)(context, parameters).await
    }
}

/// A task outside a host.
pub(crate) struct Alone;

impl TaskControl for Alone {
    fn heartbeat(&self, _: Payload) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn cancelled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

pub(crate) fn context(task_id: &str) -> TaskContext {
    context_of(task_id, Metadata::empty())
}

pub(crate) fn context_of(task_id: &str, metadata: Arc<Metadata>) -> TaskContext {
    let info = TaskInfo {
        task_id: TaskId::new(task_id),
        agent_type: "test".into(),
        agent_id: "test-1".into(),
        attempt: 1,
        deadline: None,
        metadata,
    };
    TaskContext::new(info, Arc::new(Alone))
}

/// Runs one task without a host.
pub(crate) async fn process(
    agent: &dyn DynAgent,
    task_id: &str,
    parameters: Value,
) -> Result<Value, TaskError> {
    let parameters = Payload::encode(&parameters).unwrap();
    let output = agent.process_task(&context(task_id), parameters).await?;
    Ok(output.decode()?)
}
