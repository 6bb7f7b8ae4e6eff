//! Tells processes without a store which agents they must host, and records the state of those agents.
//!
//! Every process with an engine answers every report, so no election is needed, and a report is
//! answered while one such process runs. The order within an answer is: record the schemas of the
//! type, record which agents run or fail, read the desired state, answer. The answer thus includes
//! what the report changed.
//!
//! Reports are repeated at each announcement interval. One that fails, or that arrives while this
//! process is down, costs one interval.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    agent::Name,
    broker::{Broker, BrokerError, BrokerExt, Delivery, Group, OnExhausted, Subscription},
    catalog::agent::{self, AGENTS_REPORTED, AgentsReported, Seen, StatusChanged, TypeRegistered},
    clock::Clock,
    event::{Event, EventId, EventType},
    store::{AgentFilter, AgentStatus, Append, EventStoreExt, PageRequest, Store, StreamId},
};
use parking_lot::Mutex;
use serde::Serialize;

use super::{Definition, ManagedAgentError, desired, register};
use crate::agent::{AgentError, subscriber::Subscriber};

/// How long schemas count as in use after a report of them.
const IN_USE: Duration = Duration::from_secs(600);

/// The pattern of reports.
const REPORTED: &str = "agents.*.agents_reported";

/// Answers reports until the broker is closed.
pub(crate) async fn serve(server: Server) {
    let mut subscriber = match server.subscriber() {
        Ok(subscriber) => subscriber,
        Err(error) => return give_up(&error),
    };
    loop {
        match subscriber.next().await {
            Ok(delivery) => server.take(delivery).await,
            Err(BrokerError::Closed) => return,
            Err(error) => return give_up(&error.into()),
        }
    }
}

/// Reports that the broker refuses the subscription permanently.
fn give_up(error: &AgentError) {
    tracing::error!(code = error.code(), error = %Chain(error), "failed to receive reports of agents; processes without a store host no agents that are resources");
}

/// A process with a store and an engine, which answers reports.
#[derive(Debug)]
pub(crate) struct Server {
    /// Reports and answers go through it.
    pub(crate) broker: Arc<dyn Broker>,
    /// Where types, states of agents and their desired state are.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) source: Arc<str>,
    /// Read and changed by the task that answers.
    pub(crate) in_use: Mutex<SchemasInUse>,
}

/// The schemas of each type that processes have reported lately, with the time of the last report.
///
/// Processes of two versions report different schemas in turns. They are recorded when they are
/// new, and when those of the other version are no longer in use, but not at every turn.
#[derive(Debug, Default)]
pub(crate) struct SchemasInUse(BTreeMap<String, Vec<(TypeRegistered, Duration)>>);

impl SchemasInUse {
    /// Whether these schemas and others of their type are in use.
    fn is_one_of_several(
        &mut self,
        agent_type: &str,
        schemas: &TypeRegistered,
        now: Duration,
    ) -> bool {
        let Some(known) = self.0.get_mut(agent_type) else { return false };
        known.retain(|(_, reported)| now.saturating_sub(*reported) < IN_USE);
        known.len() > 1 && known.iter().any(|(known, _)| known == schemas)
    }

    /// Remembers a report whose schemas are recorded.
    fn reported(&mut self, agent_type: &str, schemas: TypeRegistered, now: Duration) {
        let known = self.0.entry(agent_type.to_owned()).or_default();
        known.retain(|(known, _)| *known != schemas);
        known.push((schemas, now));
    }
}

impl Server {
    /// A reader of reports, with a temporary group of its own.
    fn subscriber(&self) -> Result<Subscriber, AgentError> {
        let group = Group::new(format!("agents.reported.{}", EventId::generate()))?;
        let subscription = Subscription::group(group, [REPORTED.parse()?])
            .with_on_exhausted(OnExhausted::Discard)
            .temporary();
        let (broker, clock) = (Arc::clone(&self.broker), Arc::clone(&self.clock));
        Ok(Subscriber::new(broker, clock, subscription, "reports of agents"))
    }

    /// A report is repeated, so one that cannot be answered now is dropped.
    async fn take(&self, delivery: Delivery) {
        if let Err(error) = self.answer(&delivery.event).await {
            tracing::warn!(code = error.code(), error = %Chain(&error), "failed to answer a report of agents");
        }
        if let Err(error) = delivery.ack().await {
            tracing::debug!(error = %Chain(&error), "failed to acknowledge a report of agents");
        }
    }

    /// Answers one report. Events of other actions are ignored.
    async fn answer(&self, event: &Event) -> Result<(), AgentError> {
        let (_, agent_type, AGENTS_REPORTED) = event.event_type.segments() else { return Ok(()) };
        let agent_type = Name::new(agent_type)?;
        let report: AgentsReported = event.data()?;
        self.record_schemas(&agent_type, report.registered).await?;
        self.record_running(&agent_type, &report.running).await?;
        self.record_failed(&agent_type, &report.failed).await?;
        let desired = desired(&*self.store, &agent_type).await.map_err(unmanaged)?;
        let answer = self.event(&agent_type, agent::AGENTS_DESIRED, &desired)?.caused_by(event);
        self.broker.publish_event(answer).await?;
        Ok(())
    }

    /// Records the schemas of a type, unless they are recorded and processes of another version
    /// report others.
    async fn record_schemas(
        &self,
        agent_type: &Name,
        schemas: TypeRegistered,
    ) -> Result<(), AgentError> {
        let name = agent_type.as_str();
        let now = self.clock.elapsed();
        if !self.in_use.lock().is_one_of_several(name, &schemas, now) {
            let types = vec![(agent_type.clone(), schemas.clone())];
            register(&*self.store, &*self.clock, &self.source, types).await.map_err(unmanaged)?;
        }
        self.in_use.lock().reported(name, schemas, now);
        Ok(())
    }

    /// Records agents that run. Only those that the store did not know as running get an event.
    async fn record_running(&self, agent_type: &Name, ids: &[String]) -> Result<(), AgentError> {
        for id in self.store.touch_agents(ids, self.clock.now()).await? {
            let seen = Seen::new(id.clone());
            self.record(agent_type, &id, agent::SEEN, &seen).await?;
        }
        Ok(())
    }

    /// Records agents whose factory fails, unless their rows say so already.
    async fn record_failed(&self, agent_type: &Name, ids: &[String]) -> Result<(), AgentError> {
        for id in ids {
            let filter = AgentFilter { id: Some(id.clone()), ..AgentFilter::default() };
            let row = self.store.agents(&filter, &PageRequest::first(1)).await?.rows.pop();
            if row.is_some_and(|row| row.status != AgentStatus::Failed) {
                let status = AgentStatus::Failed;
                let changed = StatusChanged::new(id.clone(), status);
                self.record(agent_type, id, agent::STATUS_CHANGED, &changed).await?;
            }
        }
        Ok(())
    }

    /// Records the state of an agent that is a resource and was not deleted.
    async fn record<T: Serialize + Sync>(
        &self,
        agent_type: &Name,
        id: &str,
        action: &str,
        data: &T,
    ) -> Result<(), AgentError> {
        let found = match Definition::read(&*self.store, id).await {
            // The others are recorded nevertheless, and `desired` reports this one.
            Err(error) if error.is_unreadable() => return Ok(()),
            found => found.map_err(unmanaged)?,
        };
        // A process may report an agent that was deleted in the meantime.
        if found.version == 0 || found.is_deleted {
            return Ok(());
        }
        let event = self.event(agent_type, action, data)?;
        let stream = StreamId::new(format!("agents/{id}"))?;
        self.store.append_one(Append::new(stream, vec![event])).await?;
        Ok(())
    }

    /// An event about the type, by this process, now.
    fn event<T: Serialize>(
        &self,
        agent_type: &Name,
        action: &str,
        data: &T,
    ) -> Result<Event, AgentError> {
        let event_type = EventType::new(agent::DOMAIN, agent_type.as_str(), action)?;
        let event = Event::new(event_type, Arc::clone(&self.source), data)?;
        Ok(event.with_timestamp(self.clock.now()))
    }
}

/// Reading and registering fail only with errors of the store and of events.
pub(crate) fn unmanaged(error: ManagedAgentError) -> AgentError {
    match error {
        ManagedAgentError::Store(error) => error.into(),
        ManagedAgentError::Event(error) => error.into(),
        error => AgentError::InvalidConfiguration { reason: error.to_string() },
    }
}
