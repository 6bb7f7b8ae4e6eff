//! Event types and addresses of an agent type.
//!
//! They are a contract between processes of different versions. Event types are
//! `agents.<type>.<action>`. The group of a type is `agents.<type>`, and the mailbox of one agent
//! is `agents.<type>.<agent id>`. A type consists of letters, digits and underscores, so the two
//! never collide.

use aios_core::{
    agent::Name,
    broker::{Group, InvalidAddress, Mailbox},
    catalog::agent,
    event::{EventError, EventType},
};

/// Types of the events of one agent type.
///
/// Built once per type and process, because each of them is parsed and checked.
#[derive(Clone, Debug)]
pub(super) struct AgentEventTypes {
    pub(super) assigned: EventType,
    pub(super) completed: EventType,
    pub(super) failed: EventType,
    pub(super) heartbeat: EventType,
    pub(super) cancelled: EventType,
    pub(super) attempt_confirmed: EventType,
    pub(super) attempt_cancelled: EventType,
    pub(super) attempt_sought: EventType,
    pub(super) registered: EventType,
    pub(super) seen: EventType,
    pub(super) status_changed: EventType,
    pub(super) reported: EventType,
    pub(super) desired: EventType,
    /// Types of the events that change the desired state.
    pub(super) changes: [EventType; 4],
}

impl AgentEventTypes {
    /// All names of a type.
    pub(super) fn new(agent_type: &Name) -> Result<Self, EventError> {
        let of = |action| EventType::new(agent::DOMAIN, agent_type.as_str(), action);
        Ok(Self {
            assigned: of(agent::TASK_ASSIGNED)?,
            completed: of(agent::TASK_COMPLETED)?,
            failed: of(agent::TASK_FAILED)?,
            heartbeat: of(agent::TASK_HEARTBEAT)?,
            cancelled: of(agent::TASK_CANCELLED)?,
            attempt_confirmed: of(agent::ATTEMPT_CONFIRMED)?,
            attempt_cancelled: of(agent::ATTEMPT_CANCELLED)?,
            attempt_sought: of(agent::ATTEMPT_SOUGHT)?,
            registered: of(agent::REGISTERED)?,
            seen: of(agent::SEEN)?,
            status_changed: of(agent::STATUS_CHANGED)?,
            reported: of(agent::AGENTS_REPORTED)?,
            desired: of(agent::AGENTS_DESIRED)?,
            changes: [
                of(agent::CREATED)?,
                of(agent::REPLACED)?,
                of(agent::DELETED)?,
                of(agent::RESTART_REQUESTED)?,
            ],
        })
    }
}

/// The group that shares the tasks of an agent type.
pub(crate) fn group_of(agent_type: &Name) -> Result<Group, InvalidAddress> {
    Group::new(format!("agents.{agent_type}"))
}

/// An agent id that is invalid.
///
/// The text that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of an agent consists of [A-Za-z0-9._-] and is not empty, too long, `.` or `..`, unlike {:?}",
    .0.text
)]
pub(crate) struct InvalidAgentId(pub(crate) InvalidAddress);

/// The mailbox of one agent.
pub(crate) fn mailbox_of(agent_type: &Name, agent_id: &str) -> Result<Mailbox, InvalidAgentId> {
    // Checked alone first, so that the error names the id and not the mailbox.
    let id = Mailbox::new(agent_id).map_err(InvalidAgentId)?;
    // Clients take these out of a URL (RFC 3986, section 5.2.4).
    if matches!(agent_id, "." | "..") {
        return Err(InvalidAgentId(InvalidAddress { text: agent_id.to_owned() }));
    }
    let too_long = |_| InvalidAgentId(InvalidAddress { text: id.as_str().to_owned() });
    Mailbox::new(format!("agents.{agent_type}.{agent_id}")).map_err(too_long)
}

/// The message for a task that no agent of its type, or not the one it was sent to, takes.
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
