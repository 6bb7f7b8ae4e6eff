//! The workflows for which an engine has code.
//!
//! A registry is complete before the engine starts and never changes afterwards. Versions of one
//! workflow stand next to each other: a run keeps the version that it began with, and new runs get the
//! highest one. The engine adds a workflow of its own, `single_task`, which is left out wherever users
//! see a list.

use std::{collections::BTreeMap, fmt, sync::Arc};

use aios_core::{agent::Name, event::EventError};

use super::{Workflow, journal::Codec};

/// Name of the workflow that runs a task outside of a workflow.
pub(crate) const SINGLE_TASK: &str = "single_task";

/// A registered workflow, and the codec of its journals.
#[derive(Clone)]
pub(crate) struct Registered {
    /// The code.
    pub(crate) workflow: Arc<dyn Workflow>,
    /// Encodes and decodes the entries of journals of this workflow, whose names contain that of the
    /// workflow.
    pub(crate) codec: Arc<Codec>,
}

/// The workflows of an engine, by name and version.
#[derive(Debug, Default)]
pub(crate) struct Registry(BTreeMap<Name, BTreeMap<u32, Registered>>);

impl Registry {
    /// Adds a workflow; `false` if its name and version are taken.
    pub(crate) fn add(
        &mut self,
        workflow: Arc<dyn Workflow>,
        source: &Arc<str>,
    ) -> Result<bool, EventError> {
        let codec = Arc::new(Codec::new(workflow.name(), Arc::clone(source))?);
        let name = workflow.name().clone();
        let version = workflow.version();
        let versions = self.0.entry(name).or_default();
        Ok(versions.insert(version, Registered { workflow, codec }).is_none())
    }

    /// The code for exactly this version; `None` if this engine does not have it.
    pub(crate) fn find(&self, name: &str, version: u32) -> Option<&Registered> {
        self.versions(name)?.get(&version)
    }

    /// The version for new runs.
    pub(crate) fn latest(&self, name: &str) -> Option<&Registered> {
        self.versions(name)?.last_key_value().map(|(_, latest)| latest)
    }

    /// All versions of all workflows, including that of the engine.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// The highest versions of the user's workflows, by name.
    pub(crate) fn all_latest(&self) -> impl Iterator<Item = &Arc<dyn Workflow>> {
        let ours = self.0.iter().filter(|(name, _)| name.as_str() != SINGLE_TASK);
        let latest = ours.filter_map(|(_, versions)| versions.last_key_value());
        latest.map(|(_, registered)| &registered.workflow)
    }

    /// The names of the user's workflows, sorted.
    /// The engine announces them to other engines.
    pub(crate) fn names(&self) -> Vec<String> {
        let ours = |name: &&Name| name.as_str() != SINGLE_TASK;
        let mut names: Vec<String> = self.0.keys().filter(ours).map(Name::to_string).collect();
        names.sort_unstable();
        names
    }

    /// The versions of a workflow. A name that is not valid has none.
    fn versions(&self, name: &str) -> Option<&BTreeMap<u32, Registered>> {
        self.0.get(&Name::new(name).ok()?)
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.workflow.name(), self.workflow.version())
    }
}
