use std::{fmt, sync::Arc, time::Duration};

use derive_new::new;
use serde::{Deserialize, Serialize};

use crate::{event::Payload, failure::Failure};

/// Name of a task. A task of a workflow is named `<run id>/<operation>`, so that a repeated
/// assignment is recognised.
///
/// # Examples
///
/// ```
/// use aios_core::agent::TaskId;
///
/// let task = TaskId::of_run("welcome-ada", 3);
/// assert_eq!(task.as_str(), "welcome-ada/3");
/// assert_eq!(task.run(), Some(("welcome-ada", 3)));
/// assert_eq!(TaskId::new("from elsewhere").run(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Names a task.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The task that a run assigns as this operation.
    #[must_use]
    pub fn of_run(run_id: &str, operation: u64) -> Self {
        Self(format!("{run_id}/{operation}").into())
    }

    /// The run and the operation, if a workflow assigned the task.
    #[must_use]
    pub fn run(&self) -> Option<(&str, u64)> {
        let (run_id, operation) = self.0.rsplit_once('/')?;
        Some((run_id, operation.parse().ok()?))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Data of `agents.<type>.task_assigned` (any agent of the type may take it) and of
/// `agents.<type>.task_directed` (one agent's mailbox gets it).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskAssigned {
    /// The task.
    pub task_id: TaskId,
    /// The one agent that has to perform it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub agent_id: Option<String>,
    /// The parameters.
    pub parameters: Payload,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// How long an attempt may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub timeout_ms: Option<u64>,
}

impl TaskAssigned {
    /// How long an attempt may take.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// Data of `agents.<type>.task_completed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskCompleted {
    /// The task.
    pub task_id: TaskId,
    /// Always success.
    #[new(default)]
    pub result: TaskResult,
    /// The answer of the agent.
    pub output: Payload,
}

/// The word `success` in a completed task's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskResult {
    /// The task succeeded.
    #[default]
    Success,
}

/// Data of `agents.<type>.task_failed`: one attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskFailed {
    /// The task.
    pub task_id: TaskId,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// The failure.
    pub failure: Failure,
    /// Whether a retry may help.
    pub retryable: bool,
}

/// Data of `agents.<type>.task_cancelled`: the result of the task is no longer awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskCancelled {
    /// The task.
    pub task_id: TaskId,
}

/// Data of `agents.<type>.task_heartbeat`: the agent is working on it, or is about to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TaskHeartbeat {
    /// The task.
    pub task_id: TaskId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Its progress, in the agent's own format.
    #[serde(default)]
    #[new(default)]
    pub progress: Payload,
    /// Whether the process of the agent holds the task and has not begun it: it waits there for
    /// others to end. The timeout of the attempt has not started yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[new(default)]
    pub waits: bool,
    /// Whether the process of the agent asks if the attempt is still open, before it begins one
    /// that may have begun elsewhere. The engine answers with `agents.<type>.attempt_confirmed` or
    /// `attempt_cancelled`, which name the asking event as their cause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[new(default)]
    pub asks: bool,
}
