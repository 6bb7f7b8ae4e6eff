//! Agents and their tasks: `agents.<type>.<action>`.
//!
//! Events about an agent are in the stream `agents/<agent id>`, and those that change the desired state of
//! an agent, from `created` to `restart_requested`, in `agents/<agent id>/desired`. Types of agents are in
//! `system/agent-types`. Events about a task of a run are in
//! the journal of the run; the relay does not publish them, because the engine sends them to agents
//! itself. [`aios_core::agent`](crate::agent) holds the data of most of them.

use derive_new::new;
use serde::{Deserialize, Serialize};

use crate::{agent::TaskId, event::Payload, failure::Failure, store::AgentStatus};

events! {
    "agents";
    /// an agent was registered
    REGISTERED = "registered" (Registered) [projected];
    /// the status of an agent changed
    STATUS_CHANGED = "status_changed" (StatusChanged) [projected];
    /// an agent is running
    SEEN = "seen" (Seen) [projected];
    /// an agent was deregistered
    DEREGISTERED = "deregistered" (Deregistered) [projected];
    /// an agent was created as a resource
    CREATED = "created" (Registered) [projected relayed];
    /// an agent got another name or another config
    REPLACED = "replaced" (Registered) [projected relayed];
    /// an agent was deleted
    DELETED = "deleted" (Deregistered) [projected relayed];
    /// all processes that host an agent must create it again
    RESTART_REQUESTED = "restart_requested" (RestartRequested) [projected relayed];
    /// a process hosts agents of a type
    TYPE_REGISTERED = "type_registered" (TypeRegistered);
    /// a process without a store reports its agents and asks which it must host; on the broker only
    AGENTS_REPORTED = "agents_reported" (AgentsReported);
    /// the agents of a type that processes must host; on the broker only
    AGENTS_DESIRED = "agents_desired" (AgentsDesired);
    /// a task was assigned to an agent type
    TASK_ASSIGNED = "task_assigned" (TaskAssigned) [projected];
    /// a task was assigned to one agent
    TASK_DIRECTED = "task_directed" (TaskAssigned) [projected];
    /// an agent completed a task
    TASK_COMPLETED = "task_completed" (TaskCompleted) [projected external];
    /// an attempt at a task failed
    TASK_FAILED = "task_failed" (TaskFailed) [projected external];
    /// a task was cancelled
    TASK_CANCELLED = "task_cancelled" (TaskCancelled) [projected];
    /// no agent has begun a task for `unclaimed_after`
    TASK_UNCLAIMED = "task_unclaimed" (TaskUnclaimed) [projected];
    /// an agent has begun a task that was unclaimed
    TASK_CLAIMED = "task_claimed" (TaskUnclaimed) [projected];
    /// an agent works on a task; on the broker only
    TASK_HEARTBEAT = "task_heartbeat" (TaskHeartbeat);
    /// an engine confirms that an attempt is current; on the broker only
    ATTEMPT_CONFIRMED = "attempt_confirmed" (Attempt);
    /// an engine says that an attempt has ended; on the broker only
    ATTEMPT_CANCELLED = "attempt_cancelled" (Attempt);
    /// an engine asks which process has an attempt; on the broker only
    ATTEMPT_SOUGHT = "attempt_sought" (Attempt);
}

/// An agent was registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Registered {
    /// The agent.
    pub agent_id: String,
    /// Its name within its type.
    pub name: String,
    /// Input of its factory.
    #[serde(default)]
    pub config: Payload,
}

/// The status of an agent changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct StatusChanged {
    /// The agent.
    pub agent_id: String,
    /// Its status now.
    pub status: AgentStatus,
}

/// An agent is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Seen {
    /// The agent.
    pub agent_id: String,
}

/// An agent was deregistered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Deregistered {
    /// The agent.
    pub agent_id: String,
}

/// An agent must be created again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct RestartRequested {
    /// The agent.
    pub agent_id: String,
}

/// A process hosts agents of a type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TypeRegistered {
    /// JSON Schema of the config, if agents of this type can be created as resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Payload>,
    /// JSON Schema of the parameters of tasks, if it is known before an agent is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_schema: Option<Payload>,
    /// JSON Schema of the output of tasks, if it is known before an agent is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Payload>,
}

/// The state of the agents of a type in one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct AgentsReported {
    /// The type.
    pub registered: TypeRegistered,
    /// Ids of the agents that take tasks.
    pub running: Vec<String>,
    /// Ids of the agents whose factory fails.
    pub failed: Vec<String>,
}

/// The agents of a type that processes must host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct AgentsDesired {
    /// Position of the log at which this was so. A later one counts.
    pub position: u64,
    /// The agents.
    pub agents: Vec<DesiredAgent>,
    /// Ids of the agents whose changes can't be read. Processes leave them as they are.
    #[serde(default)]
    #[new(default)]
    pub unreadable: Vec<String>,
}

/// An agent that processes must host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct DesiredAgent {
    /// The agent.
    pub agent_id: String,
    /// Its name within its type.
    pub name: String,
    /// Input of its factory.
    #[serde(default)]
    pub config: Payload,
    /// Number of changes of the agent so far. An agent with another one is created again.
    pub version: u64,
}

/// No agent has begun a task for a while, or one has begun it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskUnclaimed {
    /// The task.
    pub task_id: TaskId,
    /// The attempt, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// Why the task is waiting; `None` once an agent has begun it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// An engine's answer to an agent that asked whether an attempt is current, or an engine's question
/// which process has an attempt. The question names the assignment as its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Attempt {
    /// The task.
    pub task_id: TaskId,
    /// The attempt, from 1.
    pub attempt: u32,
}
