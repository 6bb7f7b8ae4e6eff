//! The types of agents that processes host.
//!
//! A process records its types when it starts, so that a config can be checked where an agent is
//! created, which may be a process without the factory. The last record of a type counts. It is
//! written only if it differs from the one before: the stream grows with the versions of the code,
//! not with restarts.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::{
    agent::Name,
    catalog::agent::{self, TypeRegistered},
    clock::Clock,
    event::{Event, EventType, Payload},
    store::{AgentFilter, Append, EventStore, EventStoreExt, PageRequest, Store, StreamId},
};

use super::{ConfigFault, ManagedAgentError};
use crate::agent::validation::faults;

/// The stream of all types.
const STREAM: &str = "system/agent-types";
/// Events, or agents, that are read at once.
const PAGE: usize = 500;

/// A type of agents that some process hosts or has hosted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AgentType {
    /// Its name.
    pub agent_type: String,
    /// JSON Schema of the config, if agents of this type can be created as resources.
    pub config_schema: Option<Payload>,
    /// JSON Schema of the parameters of tasks, if it is known.
    pub parameters_schema: Option<Payload>,
    /// JSON Schema of the output of tasks, if it is known.
    pub output_schema: Option<Payload>,
}

impl AgentType {
    /// A type with these schemas.
    pub(super) fn new(agent_type: &str, registered: TypeRegistered) -> Self {
        let TypeRegistered { config_schema, parameters_schema, output_schema, .. } = registered;
        let agent_type = agent_type.to_owned();
        Self { agent_type, config_schema, parameters_schema, output_schema }
    }

    /// Whether the recorded schemas are these. Compares their text.
    fn is_same(&self, registered: &TypeRegistered) -> bool {
        self.config_schema == registered.config_schema
            && self.parameters_schema == registered.parameters_schema
            && self.output_schema == registered.output_schema
    }

    /// Checks the config of an agent of this type.
    pub(super) fn check_config(&self, config: &Payload) -> Result<(), ManagedAgentError> {
        let Some(schema) = &self.config_schema else { return Ok(()) };
        let agent_type = self.agent_type.clone();
        match faults(schema, config) {
            Ok(faults) if faults.is_empty() => Ok(()),
            Ok(faults) => {
                let fault = |(path, message)| ConfigFault { path, message };
                let faults = faults.into_iter().map(fault).collect();
                Err(ManagedAgentError::InvalidConfig { agent_type, faults })
            }
            Err(reason) => Err(ManagedAgentError::InvalidSchema { agent_type, reason }),
        }
    }
}

/// Reads all types.
pub(super) async fn read<S: EventStore + ?Sized>(
    store: &S,
) -> Result<BTreeMap<String, AgentType>, ManagedAgentError> {
    let stream = StreamId::new(STREAM)?;
    let mut after = 0;
    let mut types = BTreeMap::new();
    loop {
        let page = store.read_stream(&stream, after, PAGE).await?;
        // The stream is read until a page is empty.
        let Some(last) = page.last() else { return Ok(types) };
        after = last.version;
        for event in page.into_iter().map(|recorded| recorded.event) {
            let name = event.event_type.entity().to_owned();
            let agent_type = AgentType::new(&name, event.data()?);
            types.insert(name, agent_type);
        }
    }
}

/// The types that have agents.
pub(super) async fn of_agents(
    store: &dyn Store,
) -> Result<BTreeMap<String, AgentType>, ManagedAgentError> {
    let mut request = Some(PageRequest::first(PAGE));
    let mut types = BTreeMap::new();
    while let Some(page) = request {
        let page = store.agents(&AgentFilter::default(), &page).await?;
        for row in page.rows {
            let agent_type = AgentType::new(&row.agent_type, TypeRegistered::default());
            types.insert(row.agent_type, agent_type);
        }
        request = page.next;
    }
    Ok(types)
}

/// Records types that are new or have other schemas than before.
pub(crate) async fn register<S: EventStore + ?Sized>(
    store: &S,
    clock: &dyn Clock,
    source: &Arc<str>,
    types: Vec<(Name, TypeRegistered)>,
) -> Result<(), ManagedAgentError> {
    let known = read(store).await?;
    let is_new = |(name, registered): &(Name, TypeRegistered)| {
        known.get(name.as_str()).is_none_or(|known| !known.is_same(registered))
    };
    let mut events = Vec::new();
    for (name, registered) in types.into_iter().filter(is_new) {
        let event_type = EventType::new(agent::DOMAIN, name.as_str(), agent::TYPE_REGISTERED)?;
        let event = Event::new(event_type, Arc::clone(source), &registered)?;
        events.push(event.with_timestamp(clock.now()));
    }
    if events.is_empty() {
        return Ok(());
    }
    // Without an expected version: if two processes record the same type, it is recorded twice, and
    // the last one counts.
    store.append_one(Append::new(StreamId::new(STREAM)?, events)).await?;
    Ok(())
}
