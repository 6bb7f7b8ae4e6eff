//! The contract of an agent, which performs tasks.
//!
//! ```
//! use aios_core::agent::{Agent, TaskContext, TaskError};
//!
//! struct Upper;
//!
//! impl Agent for Upper {
//!     type Parameters = String;
//!     type Output = String;
//!
//!     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
//!         Ok(text.to_uppercase())
//!     }
//! }
//! ```

mod context;
mod control;
mod error;
mod name;
mod task;

use std::future::Future;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::{
    context::{SPAN_ATTRIBUTES, TaskContext, TaskInfo, TaskStreams},
    control::{TaskControl, TaskQueued, TaskSlot},
    error::{ResultExt, TaskError},
    name::{InvalidName, Name},
    task::{
        TaskAssigned, TaskCancelled, TaskCompleted, TaskFailed, TaskHeartbeat, TaskId, TaskResult,
    },
};
use crate::{event::Payload, forward::forward};

/// Performs tasks of one kind.
pub trait Agent: Send + Sync + 'static {
    /// The parameters of a task. Invalid ones never reach the code.
    type Parameters: DeserializeOwned + JsonSchema + Send;
    /// The result of a task.
    type Output: Serialize + JsonSchema + Send;

    /// Performs one task.
    ///
    /// A task is performed at least once: the process may die after the work and before the answer
    /// is recorded. Pass [`TaskContext::idempotency_key`] to external systems.
    ///
    /// # Errors
    ///
    /// An error from `?` is retried according to the task's retry policy;
    /// [`terminal`](ResultExt::terminal) makes it final.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the task's timeout has passed or the task is cancelled.
    fn process_task(
        &self,
        context: &TaskContext,
        parameters: Self::Parameters,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}

/// An agent without its types: JSON in, JSON out. Typed agents are wrapped in one; agents in other
/// languages and scripted ones implement it directly.
///
/// # Examples
///
/// An agent whose schema is read from a file, and whose parameters stay JSON:
///
/// ```
/// use aios_core::{
///     agent::{DynAgent, TaskContext, TaskError},
///     event::Payload,
/// };
/// use async_trait::async_trait;
/// use serde_json::Value;
///
/// struct Forwarder {
///     parameters: Value,
///     output: Value,
/// }
///
/// #[async_trait]
/// impl DynAgent for Forwarder {
///     fn parameters_schema(&self) -> &Value {
///         &self.parameters
///     }
///
///     fn output_schema(&self) -> &Value {
///         &self.output
///     }
///
///     async fn process_task(
///         &self,
///         _: &TaskContext,
///         parameters: Payload,
///     ) -> Result<Payload, TaskError> {
///         Ok(parameters)
///     }
/// }
/// ```
#[async_trait]
pub trait DynAgent: Send + Sync + 'static {
    /// JSON Schema of the parameters.
    fn parameters_schema(&self) -> &Value;

    /// JSON Schema of the output.
    fn output_schema(&self) -> &Value;

    /// Performs one task; see [`Agent::process_task`].
    ///
    /// # Errors
    ///
    /// See [`Agent::process_task`].
    ///
    /// # Cancel safety
    ///
    /// See [`Agent::process_task`].
    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError>;
}

forward!(DynAgent {
    async process_task['a](
        context: &'a TaskContext,
        parameters: Payload
    ) -> Result<Payload, TaskError>;
    fn parameters_schema() -> &Value;
    fn output_schema() -> &Value;
});
