//! Hosts the agents of this process's types that are resources.
//!
//! The desired agents of a type are compared with those that run here: others are stopped, missing
//! ones are created, and those with another version are created again. This is done at the start, when
//! a change is announced, and at each announcement interval, so that no change is missed.
//!
//! | process | desired state | report of its agents |
//! |---|---|---|
//! | with a store | reads it from the log | writes it as any host does |
//! | without a store | `agents_desired`, the answer of a process with an engine | `agents_reported` |
//!
//! One task owns all of this state, so it needs no lock. If it fails, the agents continue to take
//! tasks, and the state is compared again after a pause. A permanent error of the broker impairs
//! the host, and is retried nevertheless: agents that are resources have no other way to change.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::{
    Chain,
    broker::{BrokerError, Deliveries, Delivery, Group, OnExhausted, Publish, Subscription},
    catalog::agent::{AgentsDesired, AgentsReported, DesiredAgent},
    event::{EventId, Pattern},
};

use tokio::sync::oneshot;

use super::{Shared, hosted::HostedType, task::log_unsettled};
use crate::{
    agent::{AgentError, RegisteredAgent, backoff::BackoffTimer, managed},
    task::JoinSet,
};

/// The agents of one type that run here because they are desired.
///
/// Only the reconciler's task touches it.
struct Managed {
    /// The type; its definition has the factory.
    hosted: Arc<HostedType>,
    /// Position of the log of the desired state that was applied last.
    position: u64,
    /// By id. An agent is listed from the start of its creation on, even while its factory fails.
    agents: BTreeMap<String, RunningAgent>,
}

/// Dropping it stops the agent from taking tasks.
struct RunningAgent {
    /// Version of the desired state from which it was created.
    version: u64,
    /// Creates the agent and then consumes its mailbox.
    task: JoinSet<()>,
}

/// Hosts the desired agents while it exists.
#[derive(Debug, Default)]
pub(super) struct Reconciler {
    /// The task that compares; it stops its agents before it ends.
    task: JoinSet<()>,
    /// Tells the task to end. `None` if there is no task.
    stop: Option<oneshot::Sender<()>>,
}

impl Reconciler {
    /// Does nothing if no type has agents that are resources.
    pub(super) fn start(shared: &Arc<Shared>, types: &[Arc<HostedType>]) -> Self {
        let mut types: Vec<_> = types.iter().filter_map(Managed::new).collect();
        let mut task = JoinSet::new();
        if types.is_empty() {
            return Self { task, stop: None };
        }
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(shared);
        task.spawn(async move {
            tokio::select! {
                biased;
                // Also if the sender is dropped.
                _ = stopped => {}
                () = run(&shared, &mut types) => {}
            }
            // All at once first, because the factory of one of them may block.
            types.iter_mut().for_each(Managed::abort_all);
            for managed in &mut types {
                managed.stop_all().await;
            }
        });
        Self { task, stop: Some(stop) }
    }

    /// Stops the agents from taking tasks.
    pub(super) async fn stop(&mut self) {
        // The task is not aborted: it has to stop its agents first.
        drop(self.stop.take());
        while self.task.join_next().await.is_some() {}
    }
}

/// Hosts the desired agents until the broker is closed.
async fn run(shared: &Arc<Shared>, types: &mut [Managed]) {
    let mut backoff = BackoffTimer::new(shared.options.backoff);
    loop {
        match follow(shared, types, &mut backoff).await {
            Ok(()) => return,
            Err(error) if error.is_retryable() => {
                tracing::warn!(code = error.code(), error = %Chain(&error), "failed to follow the desired agents; subscribing again");
            }
            Err(error) => shared.fail("follow the desired agents", &error),
        }
        refresh(shared, types).await;
        backoff.wait(&*shared.clock).await;
    }
}

/// Subscribes to changes, and applies them until the broker is closed.
async fn follow(
    shared: &Arc<Shared>,
    types: &mut [Managed],
    backoff: &mut BackoffTimer,
) -> Result<(), AgentError> {
    let mut deliveries = subscribe(shared, types).await?;
    loop {
        // Only after the subscription, so that a change in between is announced.
        refresh(shared, types).await;
        let is_remote = shared.store.is_none();
        let mut is_due = false;
        while !is_due {
            tokio::select! {
                biased;
                next = deliveries.next() => match next {
                    Some(Ok(delivery)) => {
                        backoff.reset();
                        is_due = take(types, delivery).await;
                    }
                    None | Some(Err(BrokerError::Closed)) => return Ok(()),
                    Some(Err(error)) => return Err(error.into()),
                },
                // The process that records the state of these agents learns about it at once.
                () = shared.agents_changed.notified(), if is_remote => is_due = true,
                () = shared.clock.sleep(shared.options.announce_interval) => is_due = true,
            }
        }
    }
}

/// Subscribes with a temporary group to the changes of all types, and to the answers to reports.
async fn subscribe(shared: &Arc<Shared>, types: &[Managed]) -> Result<Deliveries, AgentError> {
    let group = Group::new(format!("agents.desired.{}", EventId::generate()))?;
    let patterns = types.iter().flat_map(|managed| {
        let names = &managed.hosted.names;
        names.changes.iter().chain([&names.desired]).map(Pattern::from)
    });
    let subscription =
        Subscription::group(group, patterns).with_on_exhausted(OnExhausted::Discard).temporary();
    Ok(shared.broker.subscribe(subscription).await?)
}

/// Applies the desired state, if a delivery has it. Returns whether it has changed since.
async fn take(types: &mut [Managed], delivery: Delivery) -> bool {
    let event = &delivery.event;
    let answered =
        types.iter_mut().find(|managed| managed.hosted.names.desired == event.event_type);
    let is_change = answered.is_none();
    // A process with a store reads the state itself.
    if let Some(managed) = answered.filter(|managed| managed.hosted.shared.store.is_none()) {
        match event.data::<AgentsDesired>() {
            Ok(desired) => managed.apply(desired).await,
            Err(error) => {
                let error = Chain(&error);
                tracing::error!(%error, "failed to read the desired agents");
            }
        }
    }
    log_unsettled(delivery.ack().await);
    is_change
}

/// Applies the desired state of all types, or asks for it.
async fn refresh(shared: &Shared, types: &mut [Managed]) {
    // One type that fails does not delay the others.
    for managed in types {
        if let Err(error) = managed.refresh(shared).await {
            tracing::warn!(
                code = error.code(), error = %Chain(&error),
                agent_type = &*managed.hosted.type_name, "failed to find the desired agents"
            );
        }
    }
}

impl Managed {
    /// `None` if the agents of the type are not resources.
    fn new(hosted: &Arc<HostedType>) -> Option<Self> {
        hosted.definition.config_schema.as_ref()?;
        let hosted = Arc::clone(hosted);
        Some(Self { hosted, position: 0, agents: BTreeMap::new() })
    }

    /// Reads and applies the desired state, or asks for it if there is no store. The answer is then
    /// handled by `take`.
    async fn refresh(&mut self, shared: &Shared) -> Result<(), AgentError> {
        match &shared.store {
            Some(store) => {
                let desired = managed::desired(&**store, &self.hosted.agent_type).await;
                self.apply(desired.map_err(managed::unmanaged)?).await;
                Ok(())
            }
            None => self.report(shared).await,
        }
    }

    /// Reports the agents here. The answer is [`AgentsDesired`].
    async fn report(&self, shared: &Shared) -> Result<(), AgentError> {
        let running = self.hosted.taking_ids();
        let running: Vec<_> = running.iter().map(|id| id.to_string()).collect();
        let failed = self.agents.keys().filter(|id| !running.contains(id)).cloned();
        let failed = failed.filter(|id| self.hosted.has_failed(id)).collect();
        let registered = self.hosted.definition.registered()?;
        let report = AgentsReported::new(registered, running, failed);
        let event = shared.event(&self.hosted.names.reported, &report)?;
        let sent = shared.broker.publish(vec![Publish::new(event)]).await;
        Ok(sent.into_iter().collect::<Result<(), _>>()?)
    }

    /// Starts and stops agents until those that run are the desired ones.
    async fn apply(&mut self, desired: AgentsDesired) {
        // Several engines answer a report, in any order.
        if desired.position < self.position {
            return;
        }
        self.position = desired.position;
        let wanted: BTreeMap<_, _> =
            desired.agents.iter().map(|agent| (agent.agent_id.as_str(), agent.version)).collect();
        let is_wanted = |id: &str, agent: &RunningAgent| {
            wanted.get(id) == Some(&agent.version)
                || desired.unreadable.iter().any(|unreadable| *unreadable == *id)
        };
        let gone = self.agents.iter().filter(|(id, agent)| !is_wanted(id, agent));
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            // An agent with another version is stopped here and started below.
            self.stop(&id).await;
        }
        for agent in desired.agents {
            if !self.agents.contains_key(&agent.agent_id) {
                self.start(agent);
            }
        }
    }

    /// Stops all agents from taking tasks, without waiting for it.
    fn abort_all(&mut self) {
        self.agents.values_mut().for_each(|agent| agent.task.abort_all());
    }

    /// Stops all agents from taking tasks. Tasks that run continue.
    async fn stop_all(&mut self) {
        for agent in self.agents.values_mut() {
            agent.task.shutdown().await;
        }
    }

    /// Stops one agent from taking tasks, and forgets it.
    async fn stop(&mut self, id: &str) {
        if let Some(mut agent) = self.agents.remove(id) {
            agent.task.shutdown().await;
            self.hosted.remove(id);
            tracing::info!(agent_type = &*self.hosted.type_name, agent_id = id, "stopped an agent");
        }
    }

    /// Starts to create one agent. Does not wait for its factory.
    fn start(&mut self, agent: DesiredAgent) {
        let DesiredAgent { agent_id: id, name, config, version, .. } = agent;
        tracing::info!(agent_type = &*self.hosted.type_name, agent_id = id, "creating an agent");
        let mut task = JoinSet::new();
        let registered = RegisteredAgent { id: id.clone(), name, config };
        task.spawn(Arc::clone(&self.hosted).host(registered));
        self.agents.insert(id, RunningAgent { version, task });
    }
}
