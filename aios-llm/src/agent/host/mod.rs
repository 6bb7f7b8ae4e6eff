//! The agent types that make model calls and run tools.
//!
//! They run on any process that has registered them, as ordinary agents with tasks. A failure of a
//! provider is reported as a failure of the task, with the code of the error and the usage that is
//! billed. The workflow decides about repetitions, because each request has to be reserved first;
//! so a model task has a single attempt.
//!
//! A `write` tool is recorded in the write log before it begins. A second attempt finds the record:
//! it either returns the recorded result, or fails with `WRITE_IN_DOUBT`.
//!
//! A failure that the function of a tool returns is marked, so that its code is not taken for one of the
//! engine.

pub(super) mod interrupted;
mod meters;

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, ResultExt, TaskContext, TaskError},
    catalog::codes,
    clock::{Clock, SystemClock},
    event::{Payload, Timestamp},
    failure::Failure,
    output::OutputStream,
};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    future::{Either, select},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::Instrument as _;

use self::meters::Meter;
pub(super) use self::meters::Meters;
use super::{
    AgentUpdate, ModelTask, Streaming, TOKENS,
    calls::CallIds,
    compiled::Compiled,
    history::Histories,
    updates::{Pieces, write},
};
use crate::{
    gen_ai,
    model::{ModelError, ModelErrorKind, ModelRequest, ModelResponse, StreamEvent},
    schema::schema_of,
    tool::{CompiledTool, Effect, Progress, ToolContext, WriteState, left_out},
};

/// Makes the model calls of an agent.
pub(super) struct ModelAgent {
    /// Shared with the workflow of this process.
    agent: Arc<Compiled>,
    /// Conversations that this process remembers.
    histories: Histories,
    /// JSON Schema of [`ModelTask`].
    parameters: Value,
    /// JSON Schema of [`ModelResponse`].
    output: Value,
}

/// Runs the tools of an agent.
pub(super) struct ToolAgent {
    /// Shared with the workflow of this process.
    agent: Arc<Compiled>,
    /// JSON Schema of `ToolTask`.
    parameters: Value,
    /// JSON Schema of text.
    output: Value,
}

/// Longest time that is kept for the report of an error of a model: a tenth, but at most this.
const REPORT_TIME: Duration = Duration::from_secs(10);
/// The same for the error of a model that has not answered by then, so that its own error comes first.
const SHORT_REPORT_TIME: Duration = Duration::from_secs(5);

/// Parameters of a task for a [`ToolAgent`].
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct ToolTask {
    /// Name of the tool, or of a check.
    pub(super) tool: String,
    /// Id of the call; empty for a check.
    pub(crate) call_id: String,
    /// The validated arguments.
    #[schemars(with = "Value")]
    pub(super) arguments: Payload,
}

impl ModelAgent {
    /// Generates the schemas once.
    pub(super) fn new(agent: Arc<Compiled>) -> Self {
        let parameters = schema_of::<ModelTask>();
        let output = schema_of::<ModelResponse>();
        Self { agent, histories: Histories::new(), parameters, output }
    }

    /// Requests a response before the attempt times out or is cancelled. An error has the usage that the
    /// model has reported before.
    async fn respond(
        &self,
        context: &TaskContext,
        request: &ModelRequest,
        task: &ModelTask,
        call: &gen_ai::Call<'_>,
    ) -> Result<ModelResponse, ModelError> {
        let run_id = context.metadata().run_id.as_deref().unwrap_or_default();
        let meter = self.agent.meters.begin(run_id);
        // Boxed, so that it can be dropped before its usage is recorded.
        let responding = Box::pin(self.response_in_time(context, request, task, call, &meter));
        let ended = match select(responding, pin!(context.cancelled())).await {
            Either::Left((ended, _)) => ended,
            Either::Right((_, responding)) => {
                drop(responding);
                let reported = *meter.lock();
                // The meter stays for the engine of this process.
                interrupted::record(context, reported).await;
                let reason = "the request was cancelled";
                let error = ModelError::new(ModelErrorKind::Unavailable, reason);
                return Err(error.or_usage(reported));
            }
        };
        self.agent.meters.end(run_id, &meter);
        let reported = *meter.lock();
        ended.map_err(|error| error.or_usage(reported))
    }

    /// Requests a response, and gives up before the attempt times out.
    async fn response_in_time(
        &self,
        context: &TaskContext,
        request: &ModelRequest,
        task: &ModelTask,
        call: &gen_ai::Call<'_>,
        meter: &Meter,
    ) -> Result<ModelResponse, ModelError> {
        let responding = pin!(self.response(context, request, task, call, meter));
        let Some(time) = time_of(context, SHORT_REPORT_TIME) else { return responding.await };
        match select(responding, SystemClock.sleep(time)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => {
                let name = self.agent.model(task.is_cheaper).name();
                let reason = format!("{name} did not answer within {time:?}");
                Err(ModelError::new(ModelErrorKind::Timeout, reason))
            }
        }
    }

    /// Requests a response, whose calls have ids of their own in the conversation, and writes its pieces
    /// if the agent streams.
    async fn response(
        &self,
        context: &TaskContext,
        request: &ModelRequest,
        task: &ModelTask,
        call: &gen_ai::Call<'_>,
        meter: &Meter,
    ) -> Result<ModelResponse, ModelError> {
        let model = self.agent.model(task.is_cheaper);
        // A summary is not part of the answer.
        let mut ids = CallIds::after(&request.messages);
        let Some(stream) = stream_of(&self.agent, context).filter(|_| !task.is_summary) else {
            return Ok(ids.applied_to(model.complete(request).await?));
        };
        call.streams();
        if task.is_repeated {
            // By this writer, so that no reader gets it after the first piece.
            write(&stream, &AgentUpdate::Restarted).await;
        }
        let mut pieces = Pieces::new(stream, &self.agent.output, ids);
        let mut events = model.stream(request).await?;
        while let Some(event) = events.next().await {
            match event? {
                StreamEvent::Finished(response) => return Ok(pieces.finish(response).await),
                StreamEvent::Usage(usage) => *meter.lock() = usage,
                event => pieces.write(&event).await,
            }
        }
        // A stream without its end is not a response: it may have been cut off.
        let reason = "the stream ended before the response was complete";
        Err(ModelError::new(ModelErrorKind::InvalidResponse, reason))
    }
}

impl ToolAgent {
    /// Generates the schemas once.
    pub(super) fn new(agent: Arc<Compiled>) -> Self {
        Self { agent, parameters: schema_of::<ToolTask>(), output: schema_of::<String>() }
    }

    /// Runs a call as soon as there is a place for it.
    async fn run(
        &self,
        compiled: &CompiledTool,
        context: ToolContext,
        arguments: Payload,
    ) -> Result<String, TaskError> {
        // Held until the call has ended.
        let _place = compiled.place().await;
        match compiled.tool.effect {
            Effect::Write => self.run_once(compiled, context, arguments).await,
            Effect::Read | Effect::Idempotent => compiled.tool.run(context, arguments).await,
        }
    }

    /// Runs a call of a `write` tool unless it began before.
    async fn run_once(
        &self,
        compiled: &CompiledTool,
        context: ToolContext,
        arguments: Payload,
    ) -> Result<String, TaskError> {
        let tool = &compiled.tool;
        let Some(log) = &self.agent.write_log else {
            let reason = format!("tool {} has no write log", tool.name);
            return Err(TaskError::terminal(Failure::new(codes::INVALID_LLM_AGENT, reason)));
        };
        let call = match log.begin(&tool.name, context.idempotency_key()).await? {
            WriteState::Ended(result) => return Ok(result),
            WriteState::Begun(call) => call,
        };
        // Terminal, because the record says that the call began: another attempt would be in doubt.
        let mut result = tool.run(context, arguments).await.terminal()?;
        let mut ended = call.end(&result).await;
        if let Err(error) = &ended
            && error.failure.code == codes::EVENT_TOO_LARGE
        {
            result = left_out(&error.failure.message);
            ended = call.end(&result).await;
        }
        if let Err(error) = ended {
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
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let task: ModelTask = parameters.decode().terminal()?;
        let mut request = self.histories.request(context, &task).await?;
        request.timeout = time_of(context, REPORT_TIME);
        let name = self.agent.name.as_str();
        let content = self.agent.options.trace_content;
        let model = self.agent.model(task.is_cheaper).name();
        let call = gen_ai::Call::chat(context, name, model, &request, content);
        let responding = self.respond(context, &request, &task, &call);
        let response = responding.instrument(call.span.clone()).await;
        call.answered(&response);
        let response = response.map_err(|error| error.to_task_error())?;
        Payload::encode(&response).terminal()
    }
}

/// The time that a request has: what is left of that of its attempt, less a part for the report of its
/// error, which is at most this long.
fn time_of(context: &TaskContext, report: Duration) -> Option<Duration> {
    let left = context.deadline()?.duration_since(Timestamp::now());
    let share = left / if report < REPORT_TIME { 20 } else { 10 };
    Some(left.saturating_sub(share.min(report))).filter(|left| !left.is_zero())
}

/// The failure of a task for something that this process lacks. Retryable, because another process
/// may have it.
fn not_found(what: &str) -> TaskError {
    let reason = format!("this process has no {what}; deploy the same agent everywhere");
    TaskError::retryable(Failure::new(codes::TOOL_NOT_FOUND, reason))
}

/// The output stream that an agent writes to, if it does and there is one.
fn stream_of(agent: &Compiled, context: &TaskContext) -> Option<OutputStream> {
    if agent.options.streaming == Streaming::Off || !context.has_streams() {
        return None;
    }
    let opened = context.stream(TOKENS);
    opened.inspect_err(|error| tracing::warn!(%error, "updates are not written")).ok()
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
        let ToolTask { tool, call_id, arguments } = parameters.decode().terminal()?;
        if Compiled::is_check(&tool) {
            let verdict = self.agent.perform(&tool, &arguments).await;
            return verdict.unwrap_or_else(|| Err(not_found(&tool)));
        }
        let Some(compiled) = self.agent.tools.get(&tool) else {
            return Err(not_found(&format!("tool {tool:?}")));
        };
        let stream = stream_of(&self.agent, context);
        if let Some(stream) = &stream {
            write(stream, &AgentUpdate::ToolStarted { call_id: call_id.clone(), tool }).await;
        }
        let progress = Progress { call_id: call_id.clone(), stream: stream.clone() };
        let key = context.idempotency_key().to_owned();
        let tool_context = ToolContext::new(context.attempt(), key, progress);
        let agent = self.agent.name.as_str();
        let content = self.agent.options.trace_content;
        let name = &compiled.tool.name;
        let call = gen_ai::Call::execute_tool(context, agent, name, &call_id, &arguments, content);
        let running = self.run(compiled, tool_context, arguments);
        let result = running.instrument(call.span.clone()).await;
        call.executed(result.as_ref().map(String::as_str).map_err(|it| it.failure.code.as_str()));
        if let Some(stream) = &stream {
            write(stream, &AgentUpdate::ToolEnded { call_id, is_error: result.is_err() }).await;
        }
        Payload::encode(&result?).terminal()
    }
}

impl fmt::Debug for ModelAgent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ModelAgent").field(&self.agent.model.name()).finish()
    }
}

impl fmt::Debug for ToolAgent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ToolAgent").field(&self.agent.name).finish()
    }
}
