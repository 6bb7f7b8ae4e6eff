//! The fields of event data that the projection reads; other fields are ignored.

use serde::Deserialize;

use crate::{event::Payload, store::AgentStatus};

#[derive(Deserialize)]
pub(super) struct WorkflowRegistered {
    pub(super) version: u32,
}

#[derive(Deserialize)]
pub(super) struct Started {
    pub(super) version: u32,
    #[serde(default)]
    pub(super) parent: Option<Parent>,
    #[serde(default)]
    pub(super) first_run_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Parent {
    pub(super) run_id: String,
}

#[derive(Deserialize)]
pub(super) struct Ended {
    #[serde(default)]
    pub(super) result: Option<Payload>,
    #[serde(default)]
    pub(super) failure: Option<Payload>,
}

#[derive(Deserialize)]
pub(super) struct StatusSet {
    pub(super) text: String,
    #[serde(default)]
    pub(super) progress: Option<Payload>,
}

#[derive(Deserialize)]
pub(super) struct Blocked {
    pub(super) failure: Payload,
}

#[derive(Deserialize)]
pub(super) struct OperationFailed {
    pub(super) operation: u64,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) failure: Payload,
}

#[derive(Deserialize)]
pub(super) struct Registered {
    pub(super) agent_id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) config: Payload,
}

#[derive(Deserialize)]
pub(super) struct StatusChanged {
    pub(super) agent_id: String,
    pub(super) status: AgentStatus,
}

#[derive(Deserialize)]
pub(super) struct Seen {
    pub(super) agent_id: String,
}

#[derive(Deserialize)]
pub(super) struct Deregistered {
    pub(super) agent_id: String,
}

#[derive(Deserialize)]
pub(super) struct TaskGiven {
    pub(super) task_id: String,
    #[serde(default)]
    pub(super) agent_id: Option<String>,
    pub(super) attempt: u32,
}

#[derive(Deserialize)]
pub(super) struct TaskEnded {
    pub(super) task_id: String,
    #[serde(default)]
    pub(super) failure: Option<Payload>,
}
