use std::collections::BTreeMap;

use aios_core::agent::TaskError;
use serde::{Serialize, de::DeserializeOwned};

use super::{AgentDefinition, AgentError, IntoDynAgent};

/// The agents of a process: one definition a type.
///
/// Setters can't fail; whoever runs the agents checks what they were given.
#[derive(Clone, Debug, Default)]
pub struct AgentSet {
    definitions: BTreeMap<String, AgentDefinition>,
    fault: Option<AgentError>,
}

impl AgentSet {
    /// No agents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one agent that is there already; see [`AgentDefinition::instance`].
    #[must_use]
    pub fn agent<M>(self, agent_type: impl Into<String>, agent: impl IntoDynAgent<M>) -> Self {
        self.definition(AgentDefinition::instance(agent_type, agent))
    }

    /// Adds a type whose agents are made from configs; see [`AgentDefinition::factory`].
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

    /// Registers an agent of a type that was added before; any number of them.
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

    fn refuse(mut self, fault: AgentError) -> Self {
        self.fault.get_or_insert(fault);
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// The types of these agents.
    pub(crate) fn types(&self) -> Vec<Box<str>> {
        self.definitions.keys().map(|agent_type| agent_type.as_str().into()).collect()
    }

    /// The definitions, checked.
    pub(super) fn build(
        self,
    ) -> Result<Vec<(aios_core::agent::Name, AgentDefinition)>, AgentError> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self
                .definitions
                .into_values()
                .map(|definition| Ok((definition.validate()?, definition)))
                .collect(),
        }
    }
}
