//! The set of definitions that a host or a runtime starts with.

use std::collections::{BTreeMap, BTreeSet};

use aios_core::agent::TaskError;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{AgentDefinition, AgentError, IntoDynAgent};

/// The agents of a process: one definition per type.
///
/// Setters never fail; their arguments are checked when the agents are started.
///
/// # Examples
///
/// ```
/// use aios_agents::{agent::AgentSet, prelude::*};
///
/// struct Greeter {
///     greeting: String,
/// }
///
/// impl Agent for Greeter {
///     type Parameters = String;
///     type Output = String;
///
///     async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
///         Ok(format!("{}, {name}!", self.greeting))
///     }
/// }
///
/// let agents = AgentSet::new()
///     .agent("greeter", Greeter { greeting: "Hello".to_owned() })
///     // One agent for each registered config:
///     .factory("translator", |greeting: String| Ok::<_, TaskError>(Greeter { greeting }))
///     .register("translator", "french", "Bonjour")
///     .register("translator", "german", "Hallo");
/// assert!(!agents.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct AgentSet {
    /// By type, so that hosts start them in the same order everywhere.
    definitions: BTreeMap<String, AgentDefinition>,
    /// The first error of a setter; `build` reports it.
    error: Option<AgentError>,
}

impl AgentSet {
    /// Creates an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an existing agent instance; see [`AgentDefinition::instance`].
    #[must_use]
    pub fn agent<M>(self, agent_type: impl Into<String>, agent: impl IntoDynAgent<M>) -> Self {
        self.definition(AgentDefinition::instance(agent_type, agent))
    }

    /// Adds a type whose agents are created from configs; see [`AgentDefinition::factory`].
    #[must_use]
    pub fn factory<C, A, E, M>(
        self,
        agent_type: impl Into<String>,
        make: impl Fn(C) -> Result<A, E> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned,
        A: IntoDynAgent<M>,
        E: Into<TaskError>,
    {
        self.definition(AgentDefinition::factory(agent_type, make))
    }

    /// Adds a type whose agents are resources; see [`AgentDefinition::managed`].
    #[must_use]
    pub fn agent_factory<C, A, E, M>(
        self,
        agent_type: impl Into<String>,
        make: impl Fn(C) -> Result<A, E> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned + JsonSchema,
        A: IntoDynAgent<M>,
        E: Into<TaskError>,
    {
        self.definition(AgentDefinition::managed(agent_type, make))
    }

    /// Registers an agent of a type that was added before. A type can have any number of agents.
    #[must_use]
    pub fn register<C: Serialize + ?Sized>(
        mut self,
        agent_type: &str,
        name: impl Into<String>,
        config: &C,
    ) -> Self {
        match self.definitions.remove(agent_type) {
            Some(definition) => self.definition(definition.register(name, config)),
            None => self.refuse(AgentError::UnknownType { agent_type: agent_type.to_owned() }),
        }
    }

    /// Adds a definition.
    #[must_use]
    pub fn definition(mut self, definition: AgentDefinition) -> Self {
        let agent_type = definition.agent_type.clone();
        match self.definitions.insert(agent_type.clone(), definition) {
            None => self,
            Some(_) => self.refuse(AgentError::DuplicateType { agent_type }),
        }
    }

    /// Keeps the first error.
    fn refuse(mut self, error: AgentError) -> Self {
        self.error.get_or_insert(error);
        self
    }

    /// Returns whether the set has no agents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// The agent types of the set.
    pub(crate) fn types(&self) -> Vec<Box<str>> {
        self.definitions.keys().map(|agent_type| agent_type.as_str().into()).collect()
    }

    /// Checks and returns the definitions.
    pub(super) fn build(
        self,
    ) -> Result<Vec<(aios_core::agent::Name, AgentDefinition)>, AgentError> {
        match self.error {
            Some(error) => Err(error),
            None => {
                self.check_ids()?;
                let definitions = self.definitions.into_values();
                definitions.map(|definition| Ok((definition.validate()?, definition))).collect()
            }
        }
    }

    /// Checks that no id is used twice. The events and the row of an agent have the id without the type.
    fn check_ids(&self) -> Result<(), AgentError> {
        let mut ids = BTreeSet::new();
        for definition in self.definitions.values() {
            if let Some(twice) = definition.agents.iter().find(|agent| !ids.insert(&agent.id)) {
                return Err(AgentError::DuplicateAgent {
                    agent_type: definition.agent_type.clone(),
                    agent_id: twice.id.clone(),
                });
            }
        }
        Ok(())
    }
}
