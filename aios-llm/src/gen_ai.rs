//! Attributes of OpenTelemetry for generative AI, which the spans of model calls and tool calls have.
//!
//! The names are those of the semantic conventions in [`VERSION`]. A model call is a span `chat`, a tool
//! call a span `execute_tool`, both with the target [`TARGET`]. Messages, arguments and results are not
//! recorded, because they may be secret, unless [`TraceContent::On`] is set.
//!
//! Spans are created where a call is made, which is on the processes of the agent types. They
//! belong to the trace of the task, and a replay creates none.

use aios_core::event::Payload;
use tracing::{Span, field};

use crate::model::{FinishReason, ModelError, ModelRequest, ModelResponse};

/// Version of the semantic conventions.
pub const VERSION: &str = "1.41.0";
/// Target of the spans.
pub const TARGET: &str = "aios_llm::gen_ai";

/// Kind of operation: `chat` or `execute_tool`.
pub const OPERATION_NAME: &str = "gen_ai.operation.name";
/// Name of the provider: the part before the colon in the name of a model.
pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
/// Name of the agent.
pub const AGENT_NAME: &str = "gen_ai.agent.name";
/// Id of the conversation: that of the run.
pub const CONVERSATION_ID: &str = "gen_ai.conversation.id";
/// Name of the model that is asked.
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
/// Maximum number of output tokens.
pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
/// Sampling temperature.
pub const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
/// Name of the model that answered.
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
/// Why the response ended.
pub const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Number of input tokens.
pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Number of output tokens.
pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Name of the tool.
pub const TOOL_NAME: &str = "gen_ai.tool.name";
/// Id of the tool call.
pub const TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
/// Code of the error.
pub const ERROR_TYPE: &str = "error.type";
/// The messages of a request, as JSON. Only with [`TraceContent::On`].
pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
/// The parts of a response, as JSON. Only with [`TraceContent::On`].
pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
/// The arguments of a tool call, as JSON. Only with [`TraceContent::On`].
pub const TOOL_CALL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
/// The result of a tool call. Only with [`TraceContent::On`].
pub const TOOL_CALL_RESULT: &str = "gen_ai.tool.call.result";

/// Whether spans have the content of model calls and tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceContent {
    /// They have none.
    #[default]
    Off,
    /// They have messages, arguments and results.
    On,
}

/// The span of a model call.
pub(crate) fn chat(
    agent: &str,
    run_id: Option<&str>,
    model: &str,
    request: &ModelRequest,
    content: TraceContent,
) -> Span {
    // Names of models are `<provider>:<model>`; the conventions separate the two.
    let (provider, name) = model.split_once(':').unwrap_or(("", model));
    let span = tracing::info_span!(
        target: TARGET,
        "chat",
        otel.kind = "client",
        otel.name = format!("chat {name}"),
        { OPERATION_NAME } = "chat",
        { PROVIDER_NAME } = provider,
        { AGENT_NAME } = agent,
        { CONVERSATION_ID } = run_id,
        { REQUEST_MODEL } = name,
        { REQUEST_MAX_TOKENS } = request.max_output_tokens,
        { REQUEST_TEMPERATURE } = request.temperature,
        { RESPONSE_MODEL } = field::Empty,
        { RESPONSE_FINISH_REASONS } = field::Empty,
        { USAGE_INPUT_TOKENS } = field::Empty,
        { USAGE_OUTPUT_TOKENS } = field::Empty,
        { ERROR_TYPE } = field::Empty,
        { INPUT_MESSAGES } = field::Empty,
        { OUTPUT_MESSAGES } = field::Empty,
    );
    if content == TraceContent::On {
        record_json(&span, INPUT_MESSAGES, &request.messages);
    }
    span
}

/// Records the end of a model call.
pub(crate) fn answered(
    span: &Span,
    response: &Result<ModelResponse, ModelError>,
    content: TraceContent,
) {
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            span.record(ERROR_TYPE, error.code());
            return;
        }
    };
    let name = response.model.split_once(':').map_or(response.model.as_str(), |(_, name)| name);
    span.record(RESPONSE_MODEL, name);
    span.record(RESPONSE_FINISH_REASONS, reason(&response.finish_reason));
    span.record(USAGE_INPUT_TOKENS, response.usage.input_tokens);
    span.record(USAGE_OUTPUT_TOKENS, response.usage.output_tokens);
    if content == TraceContent::On {
        record_json(span, OUTPUT_MESSAGES, &response.content);
    }
}

/// The span of a tool call.
pub(crate) fn execute_tool(
    agent: &str,
    tool: &str,
    call_id: &str,
    arguments: &Payload,
    content: TraceContent,
) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        "execute_tool",
        otel.kind = "internal",
        otel.name = format!("execute_tool {tool}"),
        { OPERATION_NAME } = "execute_tool",
        { AGENT_NAME } = agent,
        { TOOL_NAME } = tool,
        { TOOL_CALL_ID } = call_id,
        { ERROR_TYPE } = field::Empty,
        { TOOL_CALL_ARGUMENTS } = field::Empty,
        { TOOL_CALL_RESULT } = field::Empty,
    );
    if content == TraceContent::On {
        record_json(&span, TOOL_CALL_ARGUMENTS, arguments);
    }
    span
}

/// Records the end of a tool call: its result, or the code of its failure.
pub(crate) fn executed(span: &Span, ended: Result<&str, &str>, content: TraceContent) {
    match ended {
        Ok(result) if content == TraceContent::On => drop(span.record(TOOL_CALL_RESULT, result)),
        Ok(_) => {}
        Err(code) => drop(span.record(ERROR_TYPE, code)),
    }
}

/// Records a value as JSON. Only called if content is enabled.
fn record_json<T: serde::Serialize + ?Sized>(span: &Span, name: &'static str, value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => drop(span.record(name, text.as_str())),
        Err(error) => tracing::warn!(%error, name, "an attribute cannot be encoded"),
    }
}

/// The reason in the words of the conventions.
fn reason(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls => "tool_call",
        FinishReason::Length => "length",
        FinishReason::Refusal => "content_filter",
        FinishReason::Other(other) => other,
    }
}
