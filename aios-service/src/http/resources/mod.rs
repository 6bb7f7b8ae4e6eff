//! The resources of the API: one module for each, with its routes, its requests and its answers.

pub(super) mod agent_types;
pub(super) mod agents;
pub(super) mod dead_letters;
pub(super) mod engines;
pub(super) mod events;
pub(super) mod me;
pub(super) mod outputs;
pub(super) mod projections;
pub(super) mod runs;
pub(super) mod scaling;
pub(super) mod tasks;
pub(super) mod workflows;

pub(crate) use self::{agents::managed, events::recorded};
