//! The context that the function of a tool receives.

use aios_core::{
    event::Payload,
    output::{OutputError, OutputStream},
};
use serde::Serialize;

use crate::AgentUpdate;

/// The context of a tool while it runs.
///
/// # Examples
///
/// ```
/// use aios_llm::tool::{Effect, Tool, ToolContext};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Refund {
///     order: u64,
/// }
///
/// # async fn refund_once(_key: &str, order: u64) -> Result<u64, std::io::Error> { Ok(order) }
/// async fn refund(context: ToolContext, refund: Refund) -> Result<u64, std::io::Error> {
///     // The payment provider recognises the key, so a repetition after a crash has no effect.
///     refund_once(context.idempotency_key(), refund.order).await
/// }
///
/// let tool = Tool::with_context("refund", "Refunds an order.", Effect::Idempotent, refund);
/// assert_eq!(tool.effect(), Effect::Idempotent);
/// ```
#[derive(Clone, Debug)]
pub struct ToolContext {
    /// From 1.
    attempt: u32,
    /// That of the task.
    idempotency_key: String,
    /// Without effect if the agent does not stream.
    progress: Progress,
}

/// Where the progress of a call goes.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Connects the progress with its call.
    pub(crate) call_id: String,
    /// `None` if the agent does not stream.
    pub(crate) stream: Option<OutputStream>,
}

impl ToolContext {
    /// The context of one attempt.
    pub(crate) fn new(attempt: u32, idempotency_key: String, progress: Progress) -> Self {
        Self { attempt, idempotency_key, progress }
    }

    /// Number of the attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The same text in every attempt at this call, and in no other call. Pass it to external
    /// systems, so that they recognise a repeated call.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// Reports progress to the readers of the run's output stream
    /// [`TOKENS`](crate::TOKENS). Without effect if the agent does not
    /// [stream](crate::LlmAgent::streaming).
    ///
    /// # Errors
    ///
    /// [`OutputError`] if the progress cannot be encoded or is too large, or if the store has refused
    /// output.
    pub fn progress<T: Serialize + ?Sized>(&self, progress: &T) -> Result<(), OutputError> {
        let Progress { call_id, stream: Some(stream) } = &self.progress else { return Ok(()) };
        let progress = Payload::encode(progress)?;
        stream.write(&AgentUpdate::ToolProgress { call_id: call_id.clone(), progress })
    }
}
