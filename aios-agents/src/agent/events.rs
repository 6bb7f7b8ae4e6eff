//! Names of the events and addresses of one agent type.

use aios_core::{
    agent::Segment,
    broker::{Group, InvalidName, Mailbox},
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
    pub(super) registered: EventType,
    pub(super) seen: EventType,
    pub(super) status_changed: EventType,
}

impl Names {
    pub(super) fn new(agent_type: &Segment) -> Result<Self, EventError> {
        let name = |action| EventType::new("agents", agent_type.as_str(), action);
        Ok(Self {
            assigned: name("task_assigned")?,
            completed: name("task_completed")?,
            failed: name("task_failed")?,
            heartbeat: name("task_heartbeat")?,
            cancelled: name("task_cancelled")?,
            registered: name("registered")?,
            seen: name("seen")?,
            status_changed: name("status_changed")?,
        })
    }
}

/// The group that shares the tasks of a type.
pub(crate) fn group_of(agent_type: &Segment) -> Result<Group, InvalidName> {
    Group::new(format!("agents.{agent_type}"))
}

/// The mailbox of one agent; an error for an id that no agent can have.
pub(crate) fn mailbox_of(agent_type: &Segment, agent_id: &str) -> Result<Mailbox, InvalidName> {
    Mailbox::new(agent_id)?;
    Mailbox::new(format!("agents.{agent_type}.{agent_id}"))
}
