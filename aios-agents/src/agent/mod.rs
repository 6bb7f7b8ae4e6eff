//! Agents: definitions, the host that runs them in this process, and a caller without a journal.
//!
//! An [`AgentDefinition`] says how agents of one type are made, [`Agents`] collects them, and an
//! [`AgentHost`] runs them on a broker. Whoever wants an answer without durability gives tasks
//! with a [`Caller`]; everybody else gives them from a workflow.

pub(crate) mod backoff;
mod caller;
pub mod codes;
mod definition;
mod error;
mod events;
mod faults;
mod host;
mod registry;
mod typed;

pub(crate) use self::events::mailbox_of;
pub use self::{
    caller::{Caller, TaskCall},
    definition::{AgentDefinition, RegisteredAgent},
    error::AgentError,
    host::{AgentHost, HostOptions},
    registry::Agents,
    typed::{Boxed, Dynamic, IntoDynAgent, Typed, TypedAgent},
};
