//! Failure codes that come from running a task rather than from the agent's own code.
//!
//! The agent host, the engine and [`TaskClient`](super::TaskClient) use them. An agent's own code
//! may use any other code.

/// The agent's code panicked. Retryable.
pub const AGENT_PANICKED: &str = "AGENT_PANICKED";

/// No agent with this type or id takes tasks. Retryable: one may be started.
pub const AGENT_NOT_FOUND: &str = "AGENT_NOT_FOUND";

/// No agent has begun the task for a while. The task is still waiting for one.
pub const TASK_UNCLAIMED: &str = "TASK_UNCLAIMED";

/// The attempt took longer than its timeout. Retryable.
pub const TASK_TIMEOUT: &str = "TASK_TIMEOUT";

/// The task was cancelled. Terminal.
pub const TASK_CANCELLED: &str = "TASK_CANCELLED";

/// The task became a dead letter. Terminal if its agent dead-lettered it because no answer to it
/// can be published; otherwise retryable.
pub const TASK_DEAD_LETTERED: &str = "TASK_DEAD_LETTERED";

/// The parameters are invalid for the agent. Terminal.
pub const INVALID_PARAMETERS: &str = "INVALID_PARAMETERS";

/// The agent's answer cannot be serialised to JSON. Terminal.
pub const INVALID_OUTPUT: &str = "INVALID_OUTPUT";

/// A circuit breaker refused the task. Retryable.
pub const CIRCUIT_OPEN: &str = "CIRCUIT_OPEN";
