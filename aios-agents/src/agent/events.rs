//! Names of the events and addresses of one agent type.

use aios_core::{
    agent::Name,
    broker::{Group, InvalidAddress, Mailbox},
    catalog::agent,
    event::{EventError, EventType},
};

/// Types of the events around agents of one type.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) assigned: EventType,
    pub(super) completed: EventType,
    pub(super) failed: EventType,
    pub(super) heartbeat: EventType,
    pub(super) cancelled: EventType,
    pub(super) attempt_confirmed: EventType,
    pub(super) attempt_cancelled: EventType,
    pub(super) registered: EventType,
    pub(super) seen: EventType,
    pub(super) status_changed: EventType,
}

impl Names {
    pub(super) fn new(agent_type: &Name) -> Result<Self, EventError> {
        let name = |action| EventType::new(agent::DOMAIN, agent_type.as_str(), action);
        Ok(Self {
            assigned: name(agent::TASK_ASSIGNED)?,
            completed: name(agent::TASK_COMPLETED)?,
            failed: name(agent::TASK_FAILED)?,
            heartbeat: name(agent::TASK_HEARTBEAT)?,
            cancelled: name(agent::TASK_CANCELLED)?,
            attempt_confirmed: name(agent::ATTEMPT_CONFIRMED)?,
            attempt_cancelled: name(agent::ATTEMPT_CANCELLED)?,
            registered: name(agent::REGISTERED)?,
            seen: name(agent::SEEN)?,
            status_changed: name(agent::STATUS_CHANGED)?,
        })
    }
}

/// The group that shares the tasks of a type.
pub(crate) fn group_of(agent_type: &Name) -> Result<Group, InvalidAddress> {
    Group::new(format!("agents.{agent_type}"))
}

/// An id that no agent can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of an agent consists of [A-Za-z0-9._-] and is not empty or too long, unlike {:?}", .0.text)]
pub(crate) struct InvalidAgentId(pub(super) InvalidAddress);

/// The mailbox of one agent.
pub(crate) fn mailbox_of(agent_type: &Name, agent_id: &str) -> Result<Mailbox, InvalidAgentId> {
    let id = Mailbox::new(agent_id).map_err(InvalidAgentId)?;
    let cut = |_| InvalidAgentId(InvalidAddress { text: id.as_str().to_owned() });
    Mailbox::new(format!("agents.{agent_type}.{agent_id}")).map_err(cut)
}

/// What to say if no agent takes the tasks that a type, or one agent, was given.
pub(crate) fn no_agent(agent_type: &str, mailbox: Option<&Mailbox>) -> String {
    let agent_id = mailbox.and_then(|mailbox| {
        mailbox.as_str().strip_prefix("agents.")?.strip_prefix(agent_type)?.strip_prefix('.')
    });
    match agent_id {
        Some(agent_id) => {
            format!("no agent of type {agent_type} with the id {agent_id} takes tasks")
        }
        None => format!("no agent of type {agent_type} takes tasks"),
    }
}
