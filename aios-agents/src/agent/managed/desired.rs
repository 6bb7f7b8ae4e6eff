//! The desired state of agents, from their streams.
//!
//! The stream of an agent is short: one event per change. It is read in full, and
//! folded into a `Definition`. Events of unknown actions count as versions, so a restart changes
//! nothing but the version, and processes create the agent again because of it.

use aios_core::{
    agent::Name,
    catalog::agent::{self, AgentsDesired, DesiredAgent, Registered},
    event::{EventError, EventId, Payload},
    store::{AgentFilter, EventStore, PageRequest, RecordedEvent, Store, StoreError, StreamId},
};

use super::ManagedAgentError;

/// Agents that are read at once.
const AGENTS: usize = 100;
/// Events of an agent that are read at once.
const EVENTS: usize = 100;

/// The stream of the events that change the desired state of an agent.
pub(super) fn stream_of(agent_id: &str) -> Result<StreamId, StoreError> {
    StreamId::new(format!("agents/{agent_id}/desired"))
}

/// The desired state of one agent. Version 0 means that there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Definition {
    /// How many changes there were: the version of the stream.
    pub(super) version: u64,
    /// `None` if the agent was never created.
    pub(super) agent_type: Option<String>,
    /// A deleted agent keeps its version, and can be created again.
    pub(super) is_deleted: bool,
    /// Display name.
    name: String,
    /// Input of the factory.
    config: Payload,
    /// Ids of all changes, to recognise one that is repeated.
    events: Vec<EventId>,
}

impl Definition {
    /// Reads one agent.
    pub(super) async fn read<S: EventStore + ?Sized>(
        store: &S,
        agent_id: &str,
    ) -> Result<Self, ManagedAgentError> {
        let mut definition = Self::default();
        definition.continue_from(store, &stream_of(agent_id)?).await?;
        Ok(definition)
    }

    /// Applies all events after the version so far.
    async fn continue_from<S: EventStore + ?Sized>(
        &mut self,
        store: &S,
        stream: &StreamId,
    ) -> Result<(), ManagedAgentError> {
        loop {
            let page = store.read_stream(stream, self.version, EVENTS).await?;
            let is_last = page.len() < EVENTS;
            page.iter().try_for_each(|recorded| self.apply(recorded))?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Whether a change with this id was made.
    pub(super) fn has(&self, event_id: Option<&EventId>) -> bool {
        event_id.is_some_and(|id| self.events.contains(id))
    }

    /// Applies one event.
    fn apply(&mut self, recorded: &RecordedEvent) -> Result<(), EventError> {
        let event = &recorded.event;
        self.version = recorded.version;
        self.events.push(event.id.clone());
        match event.event_type.segments() {
            (agent::DOMAIN, agent_type, agent::CREATED | agent::REPLACED) => {
                let Registered { name, config, .. } = event.data()?;
                self.agent_type = Some(agent_type.to_owned());
                (self.name, self.config, self.is_deleted) = (name, config, false);
            }
            (_, _, agent::DELETED) => self.is_deleted = true,
            _ => {}
        }
        Ok(())
    }

    /// The agent as processes must host it; `None` if it was never created, or was deleted.
    fn into_desired(self, agent_id: String) -> Option<DesiredAgent> {
        let is_desired = self.agent_type.is_some() && !self.is_deleted;
        let Self { name, config, version, .. } = self;
        is_desired.then_some(DesiredAgent::new(agent_id, name, config, version))
    }
}

/// Reads the agents of a type that processes must host.
pub(crate) async fn desired(
    store: &dyn Store,
    agent_type: &Name,
) -> Result<AgentsDesired, ManagedAgentError> {
    // Read before the agents: the answer is at least as new as its position says, so a later
    // position never stands for an older state.
    let position = store.head().await?;
    let agent_type = Some(agent_type.as_str().to_owned());
    let filter = AgentFilter { agent_type, ..AgentFilter::default() };
    let mut request = Some(PageRequest::first(AGENTS));
    let mut agents = Vec::new();
    while let Some(page) = request {
        let page = store.agents(&filter, &page).await?;
        let ids: Vec<_> = page.rows.into_iter().map(|row| row.id).collect();
        agents.extend(desired_of(store, ids).await?);
        request = page.next;
    }
    Ok(AgentsDesired::new(position, agents))
}

/// The desired ones among these agents. Streams are read together; a long one is continued alone.
async fn desired_of(
    store: &dyn Store,
    ids: Vec<String>,
) -> Result<Vec<DesiredAgent>, ManagedAgentError> {
    let streams = ids.iter().map(|id| stream_of(id)).collect::<Result<Vec<_>, _>>()?;
    let read = store.read_streams(&streams, EVENTS).await?;
    let mut agents = Vec::new();
    for ((id, stream), events) in ids.into_iter().zip(&streams).zip(read) {
        let mut definition = Definition::default();
        events.iter().try_for_each(|recorded| definition.apply(recorded))?;
        // There may be more than were read together.
        if events.len() >= EVENTS {
            definition.continue_from(store, stream).await?;
        }
        agents.extend(definition.into_desired(id));
    }
    Ok(agents)
}
