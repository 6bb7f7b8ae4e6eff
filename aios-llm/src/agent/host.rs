use std::{fmt, sync::Arc};

use aios_core::{
    agent::{DynAgent, ResultExt, TaskContext, TaskError},
    event::Payload,
    failure::Failure,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compiled::Compiled;
use crate::{
    model::{LanguageModel, ModelRequest, ModelResponse},
    schema::schema_of,
    tool::{CompiledTool, Effect, ToolContext, WriteState},
};

/// Makes the model calls of an agent.
pub(super) struct ModelAgent {
    model: Arc<dyn LanguageModel>,
    parameters: Value,
    output: Value,
}

/// Runs the tools of an agent.
pub(super) struct ToolAgent {
    agent: Arc<Compiled>,
    parameters: Value,
    output: Value,
}

/// Parameters of a task for a [`ToolAgent`].
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(super) struct ToolTask {
    /// Name of the tool.
    pub(super) tool: String,
    /// Id of the call.
    pub(super) call_id: String,
    /// The validated arguments.
    pub(super) arguments: Value,
}

impl ModelAgent {
    pub(super) fn new(model: Arc<dyn LanguageModel>) -> Self {
        let (parameters, output) = (schema_of::<ModelRequest>(), schema_of::<ModelResponse>());
        Self { model, parameters, output }
    }
}

impl ToolAgent {
    pub(super) fn new(agent: Arc<Compiled>) -> Self {
        Self { agent, parameters: schema_of::<ToolTask>(), output: schema_of::<String>() }
    }

    /// Runs a call of a `write` tool unless it began before.
    async fn run_once(
        &self,
        compiled: &CompiledTool,
        context: ToolContext,
        arguments: Value,
    ) -> Result<String, TaskError> {
        let tool = &compiled.tool;
        let Some(log) = &self.agent.write_log else {
            let reason = format!("tool {} has no write log", tool.name);
            return Err(TaskError::terminal(Failure::new("INVALID_LLM_AGENT", reason)));
        };
        let call = match log.begin(&tool.name, context.idempotency_key()).await? {
            WriteState::Ended(result) => return Ok(result),
            WriteState::Begun(call) => call,
        };
        let result = tool.run(context, arguments).await.terminal()?;
        if let Err(error) = call.end(&result).await {
            // The result is still the answer to this attempt. Only another attempt would be in doubt.
            tracing::warn!(tool = tool.name, %error, "the end of a write call could not be recorded");
        }
        Ok(result)
    }
}

#[async_trait]
impl DynAgent for ModelAgent {
    fn parameters_schema(&self) -> &Value {
        &self.parameters
    }

    fn output_schema(&self) -> &Value {
        &self.output
    }

    async fn process_task(
        &self,
        _: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let request: ModelRequest = parameters.decode().terminal()?;
        let response =
            self.model.complete(&request).await.map_err(|error| error.to_task_error())?;
        Payload::encode(&response).terminal()
    }
}

#[async_trait]
impl DynAgent for ToolAgent {
    fn parameters_schema(&self) -> &Value {
        &self.parameters
    }

    fn output_schema(&self) -> &Value {
        &self.output
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let ToolTask { tool, arguments, .. } = parameters.decode().terminal()?;
        let Some(compiled) = self.agent.tools.get(&tool) else {
            let reason =
                format!("this process has no tool {tool:?}; deploy the same agent everywhere");
            return Err(TaskError::retryable(Failure::new("TOOL_NOT_FOUND", reason)));
        };
        let tool_context =
            ToolContext::new(context.attempt(), context.idempotency_key().to_owned());
        let result = match compiled.tool.effect {
            Effect::Write => self.run_once(compiled, tool_context, arguments).await?,
            Effect::Read | Effect::Idempotent => compiled.tool.run(tool_context, arguments).await?,
        };
        Payload::encode(&result).terminal()
    }
}

impl fmt::Debug for ModelAgent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ModelAgent").field(&self.model.name()).finish()
    }
}

impl fmt::Debug for ToolAgent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ToolAgent").field(&self.agent.name).finish()
    }
}
