//! The desired state of agents, from their streams.
//!
//! The stream of an agent is short: one event per change. It is read in full, and
//! folded into a `Definition`. Events of unknown actions count as versions, so a restart changes
//! nothing but the version, and processes create the agent again because of it.

use aios_core::{
    Chain,
    agent::Name,
    catalog::agent::{self, AgentsDesired, DesiredAgent, Registered},
    event::{EventError, EventId, Payload},
    store::{AgentFilter, EventStore, PageRequest, RecordedEvent, Store, StoreError, StreamId},
};

use super::ManagedAgentError;
use crate::workflow::engine::is_unreadable;

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

    /// The state after these events, the first ones of the agent.
    fn of(events: &[RecordedEvent]) -> Result<Self, EventError> {
        let mut definition = Self::default();
        events.iter().try_for_each(|recorded| definition.apply(recorded))?;
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

/// Reads the agents of a type that processes must host. An agent whose changes can't be read does not
/// affect the others.
pub(crate) async fn desired(
    store: &dyn Store,
    agent_type: &Name,
) -> Result<AgentsDesired, ManagedAgentError> {
    // Read before the agents: the answer is at least as new as its position says, so a later
    // position never stands for an older state.
    let mut desired = AgentsDesired::new(store.head().await?, Vec::new());
    let agent_type = Some(agent_type.as_str().to_owned());
    let filter = AgentFilter { agent_type, ..AgentFilter::default() };
    let mut request = Some(PageRequest::first(AGENTS));
    while let Some(page) = request {
        let page = store.agents(&filter, &page).await?;
        let ids: Vec<_> = page.rows.into_iter().map(|row| row.id).collect();
        for (id, definition) in definitions(store, ids).await? {
            match definition {
                Ok(definition) => desired.agents.extend(definition.into_desired(id)),
                Err(error) => {
                    let (code, error) = (error.code(), Chain(&error));
                    tracing::error!(
                        code, %error, agent_id = id,
                        "can't read the changes of an agent; processes leave it as it is"
                    );
                    desired.unreadable.push(id);
                }
            }
        }
        request = page.next;
    }
    Ok(desired)
}

/// The definition of each agent, or why it could not be read.
type Definitions = Vec<(String, Result<Definition, ManagedAgentError>)>;

/// The definitions of these agents. Their streams are read together, or each by itself if one of them
/// can't be read. A long one is continued by itself.
async fn definitions(
    store: &dyn Store,
    ids: Vec<String>,
) -> Result<Definitions, ManagedAgentError> {
    let streams = ids.iter().map(|id| stream_of(id)).collect::<Result<Vec<_>, _>>()?;
    let read = match store.read_streams(&streams, EVENTS).await {
        Err(error) if !is_unreadable(&error) => return Err(error.into()),
        Err(_) => None,
        Ok(read) => Some(read),
    };
    let mut read = read.map(Vec::into_iter);
    let mut definitions = Vec::with_capacity(ids.len());
    for (id, stream) in ids.into_iter().zip(&streams) {
        let events = read.as_mut().and_then(Iterator::next).unwrap_or_default();
        let is_complete = read.is_some() && events.len() < EVENTS;
        let definition = match Definition::of(&events) {
            Ok(mut definition) if !is_complete => {
                definition.continue_from(store, stream).await.map(|()| definition)
            }
            definition => definition.map_err(Into::into),
        };
        match definition {
            Err(error) if !error.is_unreadable() => return Err(error),
            definition => definitions.push((id, definition)),
        }
    }
    Ok(definitions)
}
