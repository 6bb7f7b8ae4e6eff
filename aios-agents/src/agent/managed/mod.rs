//! Agents as resources: created, replaced, deleted and restarted while processes run.
//!
//! The desired state of an agent is the stream `agents/<agent id>/desired`. Every process with a
//! factory of its type hosts it. A process with a store reads the desired state; one without asks over
//! the broker, and a process with an engine answers it.
//!
//! | module | contents |
//! |---|---|
//! | `desired` | the desired state, folded from the events of an agent |
//! | `types` | the types that processes can host, with the JSON Schemas of their configs |
//! | `serve` | answers processes without a store |
//! | `expected` | the versions that a caller expects |
//! | `error` | why a change is refused |
//!
//! A change reads the stream, checks, and appends with the version that it has read. A concurrent
//! change makes the append conflict, and the change is then checked again. The version that the caller
//! expects is checked last: a change that would be refused anyway is refused for that reason. A change is
//! recognised by its event id, so a caller may repeat it after a lost
//! answer.

mod desired;
mod error;
mod expected;
mod serve;
mod types;

use std::sync::Arc;

use aios_core::{
    agent::Name,
    catalog::agent::{self, Deregistered, Registered, RestartRequested, TypeRegistered},
    clock::Clock,
    event::{Event, EventId, EventType, Metadata, Payload},
    store::{
        AgentFilter, AgentRecord, Append, EventStoreExt, Expected, PageRequest, Store, StoreError,
    },
};
use serde::Serialize;

use self::desired::{Definition, stream_of};
pub(crate) use self::{
    desired::desired,
    serve::{Server, serve, unmanaged},
    types::register,
};
pub use self::{
    error::{ConfigFault, ManagedAgentError},
    expected::ExpectedVersion,
    types::AgentType,
};
use super::names::mailbox_of;

/// Longest name of an agent, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Creates, replaces, deletes and restarts agents, in whichever processes host them.
///
/// Every change is an event in the log, and is durable once the call returns. Processes follow within
/// moments, and after a restart. Until a process has created the agent, its status is
/// [`Waiting`](aios_core::store::AgentStatus::Waiting), even if no process has a factory of the type.
///
/// # Examples
///
/// ```
/// use aios_agents::{agent::Change, prelude::*};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Config {
///     greeting: String,
/// }
///
/// struct Greeter(Config);
///
/// impl Agent for Greeter {
///     type Parameters = String;
///     type Output = String;
///
///     async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
///         Ok(format!("{}, {name}!", self.0.greeting))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .agent_factory("greeter", |config| Ok::<_, TaskError>(Greeter(config)))
///     .start()
///     .await?;
/// let agents = runtime.managed_agents()?;
///
/// let config = Payload::encode(&serde_json::json!({"greeting": "Hello"}))?;
/// agents.create("greeter", "formal", None, config, Change::default()).await?;
/// let run = runtime.task("greeter", "Ada").await?;
/// assert_eq!(run.result::<String>().await?, "Hello, Ada!");
///
/// // A config that does not match the schema is refused here, not when a task fails.
/// let wrong = Payload::encode(&serde_json::json!({"greeting": 7}))?;
/// let error = agents.create("greeter", "odd", None, wrong, Change::default()).await.unwrap_err();
/// assert_eq!(error.code(), "INVALID_AGENT_CONFIG");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManagedAgents {
    /// The desired state is read from its log and written to it.
    store: Arc<dyn Store>,
    /// Time of the events.
    clock: Arc<dyn Clock>,
    /// Source of the events.
    source: Arc<str>,
    /// The types that this process hosts.
    local: Vec<(Name, TypeRegistered)>,
}

/// About a change: who makes it, and for which request.
///
/// # Examples
///
/// A change that may be sent again after a crash, and that must not overwrite that of someone else:
///
/// ```
/// use aios_agents::agent::Change;
/// use aios_core::event::EventId;
///
/// let mut change = Change::default();
/// change.event_id = Some(EventId::derive("requests/81"));
/// change.expected = 3.into(); // refused with `PRECONDITION_FAILED` if the agent has another version
/// ```
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Metadata of the event.
    pub metadata: Metadata,
    /// Id of the event. Repeating a change with the same id has no effect. A new one unless set.
    pub event_id: Option<EventId>,
    /// The version that the agent is expected to have; any unless set.
    pub expected: ExpectedVersion,
}

/// An agent, and the version of its desired state.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ManagedAgent {
    /// Its row.
    pub record: AgentRecord,
    /// How often it was changed, never newer than the row; `None` if the code of a process registers it.
    pub version: Option<u64>,
}

impl ManagedAgents {
    /// Agents of a store. `local` are the types that this process hosts.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        source: Arc<str>,
        local: Vec<(Name, TypeRegistered)>,
    ) -> Self {
        Self { store, clock, source, local }
    }

    /// Checks the name of an agent: 1 to 255 bytes without control characters.
    ///
    /// # Errors
    ///
    /// [`ManagedAgentError::InvalidName`] if it is anything else.
    pub fn check_name(name: &str) -> Result<(), ManagedAgentError> {
        match (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control) {
            true => Ok(()),
            false => Err(ManagedAgentError::InvalidName { bytes: name.len() }),
        }
    }

    /// Creates an agent. Its id derives from type and name unless it is given, so a type has only one
    /// agent of a name. A deleted agent can be created again.
    ///
    /// # Errors
    ///
    /// [`ManagedAgentError`] if an agent with this id exists, if the config does not match the JSON
    /// Schema of the type, if a name is invalid, or if the store fails.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have created the agent.
    pub async fn create(
        &self,
        agent_type: &str,
        name: &str,
        id: Option<&str>,
        config: Payload,
        change: Change,
    ) -> Result<ManagedAgent, ManagedAgentError> {
        let agent_type = Name::new(agent_type)?;
        Self::check_name(name)?;
        let derived = || super::RegisteredAgent::new(agent_type.as_str(), name, Payload::null()).id;
        let id = id.map_or_else(derived, ToOwned::to_owned);
        mailbox_of(&agent_type, &id).map_err(|invalid| invalid.0)?;
        let found = Definition::read(&*self.store, &id).await?;
        // The caller has lost the answer to this change and repeats it.
        if found.has(change.event_id.as_ref()) {
            return self.get(&id).await;
        }
        // A row without a desired state comes from the code of a process.
        let is_in_code = found.version == 0 && self.row(&id).await?.is_some();
        if is_in_code || (found.version > 0 && !found.is_deleted) {
            return Err(ManagedAgentError::Exists { agent_id: id });
        }
        self.check_config(&agent_type, &config).await?;
        let created = Registered::new(id.clone(), name.to_owned(), config);
        match self.append(&agent_type, agent::CREATED, &id, &created, &found, &change).await {
            // Another process has created it at the same moment.
            Err(ManagedAgentError::Changed { .. }) => {
                Err(ManagedAgentError::Exists { agent_id: id })
            }
            Err(error) => Err(error),
            Ok(()) => self.get(&id).await,
        }
    }

    /// Gives an agent another name and another config. Processes create it again from them. The id and
    /// the type stay.
    ///
    /// # Errors
    ///
    /// [`ManagedAgentError`] if there is no such agent, if it was deleted, if the code of a process
    /// registers it, if it does not have the expected version, if the config does not match the JSON
    /// Schema of the type, or if the store fails.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have changed the agent.
    pub async fn replace(
        &self,
        id: &str,
        name: &str,
        config: Payload,
        change: Change,
    ) -> Result<ManagedAgent, ManagedAgentError> {
        Self::check_name(name)?;
        let replaced = Registered::new(id.to_owned(), name.to_owned(), config);
        self.change(id, agent::REPLACED, &replaced, Some(&replaced.config), &change).await
    }

    /// Deletes an agent. Processes stop it; the tasks that it works on end as usual. Its row stays, with
    /// the time of the deletion.
    ///
    /// # Errors
    ///
    /// See [`replace`](Self::replace).
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have deleted the agent.
    pub async fn delete(
        &self,
        id: &str,
        change: Change,
    ) -> Result<ManagedAgent, ManagedAgentError> {
        let deleted = Deregistered::new(id.to_owned());
        self.change(id, agent::DELETED, &deleted, None, &change).await
    }

    /// Lets every process that hosts an agent create it again. A process that does not run creates it
    /// anyway when it starts.
    ///
    /// # Errors
    ///
    /// See [`replace`](Self::replace).
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have restarted the agent.
    pub async fn restart(
        &self,
        id: &str,
        change: Change,
    ) -> Result<ManagedAgent, ManagedAgentError> {
        let restart = RestartRequested::new(id.to_owned());
        self.change(id, agent::RESTART_REQUESTED, &restart, None, &change).await
    }

    /// Returns an agent, also one that was deleted, or that the code of a process registers.
    ///
    /// # Errors
    ///
    /// [`ManagedAgentError::Unknown`] if there is no such agent; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get(&self, id: &str) -> Result<ManagedAgent, ManagedAgentError> {
        // Read before the row: a change in between makes the row newer than the version, and a change
        // that expects this version is refused. The other way around, it would overwrite that change.
        let found = Definition::read(&*self.store, id).await?;
        let record = self.row(id).await?.ok_or_else(|| unknown(id))?;
        Ok(ManagedAgent { record, version: (found.version > 0).then_some(found.version) })
    }

    /// The types of agents, by name: those of this process, those that have agents, and those whose
    /// agents are resources. Schemas are known of the first and the last.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn types(&self) -> Result<Vec<AgentType>, ManagedAgentError> {
        let mut types = types::of_agents(&*self.store).await?;
        for (name, registered) in &self.local {
            types.insert(
                name.as_str().to_owned(),
                AgentType::new(name.as_str(), registered.clone()),
            );
        }
        // The recorded schemas come last: they are those that configs are checked against.
        types.extend(types::read(&*self.store).await?);
        Ok(types.into_values().collect())
    }

    /// Appends a change. If another one comes first, the change is checked again, and made after it
    /// unless another version is expected.
    async fn change<T: Serialize + Sync>(
        &self,
        id: &str,
        action: &str,
        data: &T,
        config: Option<&Payload>,
        change: &Change,
    ) -> Result<ManagedAgent, ManagedAgentError> {
        loop {
            let Some((agent_type, found)) = self.changeable(id, change).await? else {
                return self.get(id).await;
            };
            if let Some(config) = config {
                self.check_config(&agent_type, config).await?;
            }
            // The last check: an expectation counts only for a change that could be made without it.
            let version = found.version;
            if !change.expected.allows(version) {
                return Err(ManagedAgentError::Changed { agent_id: id.to_owned(), version });
            }
            match self.append(&agent_type, action, id, data, &found, change).await {
                // Another change came first: check and append again.
                Err(ManagedAgentError::Changed { .. }) => {}
                Err(error) => return Err(error),
                Ok(()) => return self.get(id).await,
            }
        }
    }

    /// The type and the desired state of an agent that can be changed; `None` if the change was made
    /// before.
    async fn changeable(
        &self,
        id: &str,
        change: &Change,
    ) -> Result<Option<(Name, Definition)>, ManagedAgentError> {
        let found = Definition::read(&*self.store, id).await?;
        if found.has(change.event_id.as_ref()) {
            return Ok(None);
        }
        let agent_id = id.to_owned();
        let Some(agent_type) = found.agent_type.clone() else {
            return Err(match self.row(id).await? {
                Some(_) => ManagedAgentError::InCode { agent_id },
                None => ManagedAgentError::Unknown { agent_id },
            });
        };
        if found.is_deleted {
            return Err(ManagedAgentError::Deleted { agent_id });
        }
        Ok(Some((Name::new(&agent_type)?, found)))
    }

    /// Checks a config against the recorded schema of its type. A type that no process has
    /// registered accepts every config, because a process with its factory may start later.
    async fn check_config(
        &self,
        agent_type: &Name,
        config: &Payload,
    ) -> Result<(), ManagedAgentError> {
        let mut known = types::read(&*self.store).await?;
        match known.remove(agent_type.as_str()) {
            Some(known) => known.check_config(config),
            None => Ok(()),
        }
    }

    /// Appends one change to the stream of the agent, at the version that was read. A conflict is
    /// reported as [`ManagedAgentError::Changed`].
    async fn append<T: Serialize + Sync>(
        &self,
        agent_type: &Name,
        action: &str,
        id: &str,
        data: &T,
        found: &Definition,
        change: &Change,
    ) -> Result<(), ManagedAgentError> {
        let event_type = EventType::new(agent::DOMAIN, agent_type.as_str(), action)?;
        let event = Event::new(event_type, Arc::clone(&self.source), data)?
            .with_timestamp(self.clock.now())
            .with_metadata(change.metadata.clone())
            .with_id(change.event_id.clone().unwrap_or_else(EventId::generate));
        // An agent that was never created has no stream.
        let expected = match found.version {
            0 => Expected::Empty,
            version => Expected::Exact(version),
        };
        let append = Append::new(stream_of(id)?, vec![event]).with_expected(expected);
        match self.store.append_one(append).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { actual, .. }) => {
                Err(ManagedAgentError::Changed { agent_id: id.to_owned(), version: actual })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The row of an agent in the read model, even if the agent was deleted.
    async fn row(&self, id: &str) -> Result<Option<AgentRecord>, StoreError> {
        let id = Some(id.to_owned());
        let filter = AgentFilter { id, include_deleted: true, ..AgentFilter::default() };
        Ok(self.store.agents(&filter, &PageRequest::first(1)).await?.rows.pop())
    }
}

fn unknown(id: &str) -> ManagedAgentError {
    ManagedAgentError::Unknown { agent_id: id.to_owned() }
}
