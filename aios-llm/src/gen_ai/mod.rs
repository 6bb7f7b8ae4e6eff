//! Attributes of OpenTelemetry for generative AI, which the spans of model calls and tool calls have.
//!
//! The names and values are those of the semantic conventions in [`VERSION`]. Each call has them in
//! two places:
//!
//! - The attempt of its task has them as attributes of its span, see
//!   [`TaskContext::set_attribute`]. They are in the journal, from which traces are computed and
//!   exported to collectors of OTLP. A replay adds none.
//! - While the call is made, there is a span of `tracing` around it, with the target [`TARGET`]. It is
//!   named `chat` or `execute_tool`, and exists on the process that makes the call. The name for
//!   OpenTelemetry, `chat <model>` or `execute_tool <tool>`, is in its field `otel.name`. A program that
//!   installs a layer of its own can see it, and log lines may show its fields.
//!
//! Messages, arguments and results may be secret. Only the spans of `tracing` have them, if
//! [`TraceContent::On`] is set, and so may log lines that are written inside of a call.
//!
//! Spans have no lists: there, a list or a message is its JSON as text.

mod messages;

use aios_core::{agent::TaskContext, event::Payload};
use serde::Serialize;
use tracing::{Span, field};

use crate::model::{FinishReason, ModelError, ModelRequest, ModelResponse};

/// Version of the semantic conventions.
pub const VERSION: &str = "1.42.0";
/// Target of the spans of `tracing`.
pub const TARGET: &str = "aios_llm::gen_ai";

/// Kind of operation: `chat` or `execute_tool`.
pub const OPERATION_NAME: &str = "gen_ai.operation.name";
/// Name of the provider: the part before the colon in the name of a model, or the name that the
/// conventions have for it, such as `aws.bedrock`. Models without such a part have no provider.
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
/// Kind of output that is requested: `json` if it has a schema; missing if not.
pub const OUTPUT_TYPE: &str = "gen_ai.output.type";
/// Whether the response is requested as a stream; missing if not.
pub const REQUEST_STREAM: &str = "gen_ai.request.stream";
/// Name of the model that answered.
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
/// Why the response ended, as a list with one reason.
pub const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Number of input tokens.
pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Number of output tokens.
pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Number of input tokens that came from the provider's cache; a part of the input tokens.
pub const USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
/// Number of output tokens of reasoning; a part of the output tokens.
pub const USAGE_REASONING_OUTPUT_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";
/// Name of the tool.
pub const TOOL_NAME: &str = "gen_ai.tool.name";
/// Id of the tool call.
pub const TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
/// Kind of the tool: `function`.
pub const TOOL_TYPE: &str = "gen_ai.tool.type";
/// Code of the error. Exported spans have it from the outcome of the attempt.
pub const ERROR_TYPE: &str = "error.type";
/// The instructions of a request, as JSON. Only with [`TraceContent::On`].
pub const SYSTEM_INSTRUCTIONS: &str = "gen_ai.system_instructions";
/// The messages of a request, as JSON. Only with [`TraceContent::On`].
pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
/// The response as a list with one message, as JSON. Only with [`TraceContent::On`].
pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
/// The arguments of a tool call, as JSON. Only with [`TraceContent::On`].
pub const TOOL_CALL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
/// The result of a tool call. Only with [`TraceContent::On`].
pub const TOOL_CALL_RESULT: &str = "gen_ai.tool.call.result";

/// Whether the spans of `tracing` have the content of model calls and tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceContent {
    /// They have none.
    #[default]
    Off,
    /// They have messages, arguments and results.
    On,
}

/// The name that the conventions have for a provider, where it differs from that in names of models.
const PROVIDER_NAMES: &[(&str, &str)] = &[
    ("bedrock", "aws.bedrock"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("moonshot", "moonshot_ai"),
    ("openai-responses", "openai"),
    ("xai", "x_ai"),
];

/// The attributes of one call: those of its span of `tracing`, and those of its attempt.
pub(crate) struct Call<'c> {
    /// Around the call.
    pub(crate) span: Span,
    /// Of the attempt.
    context: &'c TaskContext,
    /// Whether the span has content.
    content: TraceContent,
}

impl<'c> Call<'c> {
    /// A model call that begins.
    pub(crate) fn chat(
        context: &'c TaskContext,
        agent: &str,
        model: &str,
        request: &ModelRequest,
        content: TraceContent,
    ) -> Self {
        // Names of models are `<provider>:<model>`; the conventions separate the two.
        let (provider, name) = of_model(model);
        let call = Self { span: chat_span(name), context, content };
        call.set(OPERATION_NAME, "chat");
        call.set_known(PROVIDER_NAME, provider);
        call.set(AGENT_NAME, agent);
        call.set_known(CONVERSATION_ID, context.metadata().run_id.as_deref());
        call.set(REQUEST_MODEL, name);
        call.set_known(REQUEST_MAX_TOKENS, request.max_output_tokens);
        call.set_known(REQUEST_TEMPERATURE, request.temperature);
        call.set_known(OUTPUT_TYPE, request.output.as_ref().map(|_| "json"));
        if content == TraceContent::On {
            let instructions = request.instructions.as_deref();
            if let Some(instructions) = instructions {
                call.show(SYSTEM_INSTRUCTIONS, &messages::instructions(instructions));
            }
            call.show(INPUT_MESSAGES, &messages::input(&request.messages));
        }
        call
    }

    /// Takes note that the response is requested as a stream.
    pub(crate) fn streams(&self) {
        self.set(REQUEST_STREAM, true);
    }

    /// Takes note of the end of a model call.
    pub(crate) fn answered(&self, response: &Result<ModelResponse, ModelError>) {
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                self.span.record(ERROR_TYPE, error.code());
                return;
            }
        };
        let usage = response.usage;
        self.set(RESPONSE_MODEL, of_model(&response.model).1);
        self.set_list(RESPONSE_FINISH_REASONS, &[reason(&response.finish_reason)]);
        self.set(USAGE_INPUT_TOKENS, usage.input_tokens);
        self.set(USAGE_OUTPUT_TOKENS, usage.output_tokens);
        let some = |tokens: u64| Some(tokens).filter(|tokens| *tokens > 0);
        self.set_known(USAGE_CACHE_READ_INPUT_TOKENS, some(usage.cached_input_tokens));
        self.set_known(USAGE_REASONING_OUTPUT_TOKENS, some(usage.reasoning_tokens));
        if self.content == TraceContent::On {
            self.show(OUTPUT_MESSAGES, &messages::output(response));
        }
    }

    /// A tool call that begins.
    pub(crate) fn execute_tool(
        context: &'c TaskContext,
        agent: &str,
        tool: &str,
        call_id: &str,
        arguments: &Payload,
        content: TraceContent,
    ) -> Self {
        let call = Self { span: tool_span(tool), context, content };
        call.set(OPERATION_NAME, "execute_tool");
        call.set(AGENT_NAME, agent);
        call.set_known(CONVERSATION_ID, context.metadata().run_id.as_deref());
        call.set(TOOL_NAME, tool);
        call.set(TOOL_TYPE, "function");
        call.set(TOOL_CALL_ID, call_id);
        if content == TraceContent::On {
            call.show(TOOL_CALL_ARGUMENTS, arguments);
        }
        call
    }

    /// Takes note of the end of a tool call: its result, or the code of its failure.
    pub(crate) fn executed(&self, ended: Result<&str, &str>) {
        match ended {
            Ok(result) if self.content == TraceContent::On => {
                self.span.record(TOOL_CALL_RESULT, result);
            }
            Ok(_) => {}
            Err(code) => drop(self.span.record(ERROR_TYPE, code)),
        }
    }

    /// Sets an attribute in both places.
    fn set<T: tracing::Value + Serialize>(&self, name: &'static str, value: T) {
        self.span.record(name, &value);
        self.export(name, &value);
    }

    /// Sets an attribute that may have no value.
    fn set_known<T: tracing::Value + Serialize>(&self, name: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Sets a list of texts.
    fn set_list(&self, name: &'static str, list: &[&str]) {
        self.span.record(name, field::debug(list));
        self.export(name, list);
    }

    /// Sets an attribute of the attempt.
    fn export<T: Serialize + ?Sized>(&self, name: &'static str, value: &T) {
        if let Err(error) = self.context.set_attribute(name, value) {
            tracing::warn!(%error, name, "an attribute cannot be encoded");
        }
    }

    /// Sets content as JSON. Only called if content is enabled.
    fn show<T: Serialize + ?Sized>(&self, name: &'static str, value: &T) {
        match serde_json::to_string(value) {
            Ok(text) => drop(self.span.record(name, text.as_str())),
            Err(error) => tracing::warn!(%error, name, "an attribute cannot be encoded"),
        }
    }
}

/// The span of a model call.
fn chat_span(model: &str) -> Span {
    tracing::info_span!(
        target: TARGET,
        "chat",
        otel.kind = "client",
        otel.name = format!("chat {model}"),
        { OPERATION_NAME } = field::Empty,
        { PROVIDER_NAME } = field::Empty,
        { AGENT_NAME } = field::Empty,
        { CONVERSATION_ID } = field::Empty,
        { REQUEST_MODEL } = field::Empty,
        { REQUEST_MAX_TOKENS } = field::Empty,
        { REQUEST_TEMPERATURE } = field::Empty,
        { OUTPUT_TYPE } = field::Empty,
        { REQUEST_STREAM } = field::Empty,
        { RESPONSE_MODEL } = field::Empty,
        { RESPONSE_FINISH_REASONS } = field::Empty,
        { USAGE_INPUT_TOKENS } = field::Empty,
        { USAGE_OUTPUT_TOKENS } = field::Empty,
        { USAGE_CACHE_READ_INPUT_TOKENS } = field::Empty,
        { USAGE_REASONING_OUTPUT_TOKENS } = field::Empty,
        { ERROR_TYPE } = field::Empty,
        { SYSTEM_INSTRUCTIONS } = field::Empty,
        { INPUT_MESSAGES } = field::Empty,
        { OUTPUT_MESSAGES } = field::Empty,
    )
}

/// The span of a tool call.
fn tool_span(tool: &str) -> Span {
    tracing::info_span!(
        target: TARGET,
        "execute_tool",
        otel.kind = "internal",
        otel.name = format!("execute_tool {tool}"),
        { OPERATION_NAME } = field::Empty,
        { AGENT_NAME } = field::Empty,
        { CONVERSATION_ID } = field::Empty,
        { TOOL_NAME } = field::Empty,
        { TOOL_TYPE } = field::Empty,
        { TOOL_CALL_ID } = field::Empty,
        { ERROR_TYPE } = field::Empty,
        { TOOL_CALL_ARGUMENTS } = field::Empty,
        { TOOL_CALL_RESULT } = field::Empty,
    )
}

/// The provider and the model that the name of a model consists of, in the words of the conventions.
fn of_model(name: &str) -> (Option<&str>, &str) {
    let Some((provider, model)) = name.split_once(':') else { return (None, name) };
    let known = PROVIDER_NAMES.iter().find(|(known, _)| *known == provider);
    (Some(known.map_or(provider, |(_, name)| name)), model)
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
