//! The protocol of Anthropic: Messages, version 2023-06-01.
//!
//! A response is a list of blocks. In a stream, the events of a block come between its start and
//! the start of the next one, so the numbers of blocks are not needed:
//!
//! ```text
//! message_start
//! for each block: content_block_start, content_block_delta…, content_block_stop
//! message_delta, message_stop
//! ```
//!
//! The reason why the response ended comes with `message_delta`. A stream or a body without it is
//! not complete. Input tokens are reported without cached ones, so the three numbers are added.
//! Reasoning is signed and has to be sent back with its signature, or not at all. Redacted reasoning is
//! encrypted as a whole: it becomes reasoning without text whose signature is the encrypted data, with a
//! mark.

use async_trait::async_trait;
use reqwest::Response;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions, arguments, body, call_id, closed,
    connection::Connection,
    error::{check_event, invalid_response},
    events::ResponseEvents,
    in_turns, sent_arguments, signature,
    stream::{self, Assemble, Framing},
    tool_name, without_last_reasoning,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelRequest,
    ModelResponse, ModelStream, Part, Role, StreamEvent, ToolCall, ToolChoice, Usage,
};

/// The default base URL.
const URL: &str = "https://api.anthropic.com";
/// The only path that is used.
const PATH: &str = "v1/messages";
/// Marks the data of redacted reasoning among signatures.
const REDACTED: &str = "anthropic-redacted";
/// Sent with requests that have files by their ids, which the protocol still treats as an extension.
const FILES: &str = "files-api-2025-04-14";
/// Sent with each request, as the protocol requires.
const VERSION: &str = "2023-06-01";

/// A model behind the messages of Anthropic.
///
/// The protocol requires a maximum number of output tokens; requests without one get
/// [`DEFAULT_MAX_OUTPUT_TOKENS`](Self::DEFAULT_MAX_OUTPUT_TOKENS).
///
/// An agent requests output in a schema as a tool. With
/// [`Capabilities::with_native_output`], it is requested natively, which newer models support for
/// schemas without bounds and maps.
///
/// # Examples
///
/// ```
/// use aios_llm::{model::LanguageModel, providers::{AnthropicModel, ProviderOptions}};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let model = AnthropicModel::new(ProviderOptions::new("claude-sonnet-4-5").with_api_key("sk-secret"))?;
/// assert_eq!(model.name(), "anthropic:claude-sonnet-4-5");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AnthropicModel {
    /// Client, key and name.
    connection: Connection,
    /// Those of the options, or tools only: output in a schema is then requested as a tool, because older
    /// models, and many schemas, are refused otherwise.
    capabilities: Capabilities,
}

impl AnthropicModel {
    /// The maximum number of output tokens of requests that have none.
    pub const DEFAULT_MAX_OUTPUT_TOKENS: u32 = 4096;

    /// Creates the model. Nothing is requested yet. The default base URL is
    /// `https://api.anthropic.com`.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the URL or the key is invalid.
    pub fn new(options: ProviderOptions) -> Result<Self, ModelError> {
        let headers =
            [("x-api-key", options.api_key.clone()), ("anthropic-version", VERSION.to_owned())];
        let capabilities = options.capabilities.unwrap_or(Capabilities::none().with_tools(true));
        let connection = Connection::new(options, "anthropic", URL, &headers)?;
        Ok(Self { connection, capabilities })
    }

    /// The body of a request without streaming, as JSON, for programs that send it with a client of
    /// their own. Arguments of calls are in it as the model wrote them.
    #[must_use]
    pub fn request_body(&self, request: &ModelRequest) -> String {
        body::write(&self.body(request).into())
    }

    /// The header that a request needs in addition to the headers of the key and the version, for programs
    /// that send it with a client of their own.
    #[must_use]
    pub fn request_header(&self, request: &ModelRequest) -> Option<(&'static str, &'static str)> {
        has_uploads(request).then_some(("anthropic-beta", FILES))
    }

    /// Reads a whole message, as the provider sends it: JSON, in which arguments of calls stay as the model
    /// wrote them.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_RESPONSE` if it is not complete, and the error of the provider if it is one.
    pub fn read_response(&self, json: &str) -> Result<ModelResponse, ModelError> {
        self.response(&self.connection.read(json)?)
    }

    /// Reads a message in pieces, from the events of a stream.
    #[must_use]
    pub fn response_events(&self) -> ResponseEvents {
        ResponseEvents::new(self.name(), Assembly::new(self.name()))
    }

    /// The response in a body.
    fn response(&self, body: &Value) -> Result<ModelResponse, ModelError> {
        check_event(self.name(), body)?;
        let mut assembly = Assembly::new(self.name());
        assembly.take_usage(body.get("usage"));
        let blocks = body.get("content").and_then(Value::as_array);
        assembly.blocks = blocks.into_iter().flatten().filter_map(block).collect();
        assembly.finish = finish(body);
        assembly.response()
    }

    /// Posts the body of a request.
    async fn post(
        &self,
        request: &ModelRequest,
        body: Map<String, Value>,
    ) -> Result<Response, ModelError> {
        let header = self.request_header(request);
        self.connection.post_with(PATH, &body.into(), header).await
    }

    /// The body of a request. `stream` adds one field.
    fn body(&self, request: &ModelRequest) -> Map<String, Value> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("model", self.connection.model.as_str().into());
        let limit = request.max_output_tokens.unwrap_or(Self::DEFAULT_MAX_OUTPUT_TOKENS);
        set("max_tokens", limit.into());
        set("messages", in_turns(request.messages.iter().map(message)).into());
        if let Some(instructions) = &request.instructions {
            set("system", instructions.as_str().into());
        }
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|tool| {
                json!({
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.parameters,
                })
            });
            set("tools", tools.collect());
            set("tool_choice", tool_choice(&request.tool_choice));
        }
        if let Some(output) = &request.output {
            let format = json!({"type": "json_schema", "schema": closed(&output.schema)});
            set("output_config", json!({ "format": format }));
        }
        if let Some(temperature) = request.temperature {
            set("temperature", temperature.into());
        }
        if !request.stop.is_empty() {
            set("stop_sequences", json!(request.stop));
        }
        body
    }
}

#[async_trait]
impl LanguageModel for AnthropicModel {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let response = self.post(request, self.body(request)).await?;
        self.response(&self.connection.whole(response).await?)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut body = self.body(request);
        body.insert("stream".to_owned(), true.into());
        let response = self.post(request, body).await?;
        let assembly = Assembly::new(self.name());
        Ok(stream::read(&self.connection, response, Framing::ServerEvents, assembly))
    }
}

/// Whether a request has files by the ids of the provider.
fn has_uploads(request: &ModelRequest) -> bool {
    let mut parts = request.messages.iter().flat_map(|message| &message.content);
    parts.any(|it| matches!(it, Part::File { reference, .. } if !is_url(reference)))
}

/// Whether a reference to a file is a URL, and not an id of the provider.
fn is_url(reference: &str) -> bool {
    reference.contains("://")
}

/// A message in the form of the protocol. Results of tools are messages of the user.
fn message(message: &Message) -> Value {
    let role = if message.role == Role::Assistant { "assistant" } else { "user" };
    let parts = message.content.iter().filter_map(part);
    let content = without_last_reasoning(parts, |part| {
        part.get("type").is_some_and(|it| it == "thinking" || it == "redacted_thinking")
    });
    json!({"role": role, "content": content})
}

/// A part in the form of the protocol; `None` if it must not be sent.
fn part(part: &Part) -> Option<Value> {
    Some(match part {
        // Texts without a letter are rejected.
        Part::Text { text } if text.trim().is_empty() => return None,
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image { source } => {
            let source = match source {
                ImageSource::Url(url) => json!({"type": "url", "url": url}),
                ImageSource::Base64 { media_type, data } => {
                    json!({"type": "base64", "media_type": media_type, "data": data})
                }
            };
            json!({"type": "image", "source": source})
        }
        Part::File { reference, .. } => {
            let source = if is_url(reference) {
                json!({"type": "url", "url": reference})
            } else {
                json!({"type": "file", "file_id": reference})
            };
            json!({"type": "document", "source": source})
        }
        // Reasoning without a signature of this provider is rejected.
        Part::Reasoning { text, signature } => {
            let signature = signature.as_deref()?;
            match signature::of(REDACTED, signature) {
                Some(data) => json!({"type": "redacted_thinking", "data": data}),
                None if signature::is_of_other(signature) => return None,
                None => json!({"type": "thinking", "thinking": text, "signature": signature}),
            }
        }
        Part::ToolCall(call) => {
            let input = sent_arguments(&call.arguments);
            let name = tool_name(&call.name);
            json!({"type": "tool_use", "id": call_id(&call.id), "name": name, "input": input})
        }
        Part::ToolResult(result) => json!({
            "type": "tool_result",
            "tool_use_id": call_id(&result.call_id),
            "content": result.content,
            "is_error": result.is_error,
        }),
    })
}

/// Which tools may be called.
fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::None => json!({"type": "none"}),
        ToolChoice::Tool(name) => json!({"type": "tool", "name": name}),
    }
}

/// Why the response ended; `None` while it has not.
fn finish(body: &Value) -> Option<FinishReason> {
    Some(match body.get("stop_reason")?.as_str()? {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::Refusal,
        other => FinishReason::Other(other.to_owned()),
    })
}

/// A block of a response. The input of a tool is empty at the start of a stream.
fn block(block: &Value) -> Option<Part> {
    let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(match block.get("type")?.as_str()? {
        "text" => Part::Text { text: text("text") },
        "thinking" => {
            let signature = Some(text("signature")).filter(|text| !text.is_empty());
            Part::Reasoning { text: text("thinking"), signature }
        }
        "redacted_thinking" => {
            let signature = Some(signature::mark(REDACTED, &text("data")));
            Part::Reasoning { text: String::new(), signature }
        }
        "tool_use" => {
            let arguments = arguments(block.get("input"));
            Part::ToolCall(ToolCall { id: text("id"), name: text("name"), arguments })
        }
        _ => return None,
    })
}

/// A response, of which pieces have arrived.
struct Assembly {
    /// Name of the model in errors and in the response.
    name: String,
    /// The parts so far. The last one may not be complete.
    blocks: Vec<Part>,
    /// Place of the current block; `None` if it is of an unknown type.
    current: Option<usize>,
    /// The latest numbers: input at the start, output at the end.
    usage: Usage,
    /// `None` until the provider says it.
    finish: Option<FinishReason>,
}

impl Assembly {
    /// Nothing has arrived.
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, blocks: Vec::new(), current: None, usage: Usage::default(), finish: None }
    }

    /// Takes the numbers that are present, and keeps the others.
    fn take_usage(&mut self, usage: Option<&Value>) {
        let count = |name: &str| usage.and_then(|usage| usage.get(name)).and_then(Value::as_u64);
        if let Some(input) = count("input_tokens") {
            let cached = count("cache_read_input_tokens").unwrap_or(0);
            let written = count("cache_creation_input_tokens").unwrap_or(0);
            self.usage.input_tokens = input.saturating_add(cached).saturating_add(written);
            self.usage.cached_input_tokens = cached;
        }
        if let Some(output) = count("output_tokens") {
            self.usage.output_tokens = output;
        }
    }

    /// Begins a block. Only a call of a tool is announced, with its id and name.
    fn begin_block(&mut self, event: &Value) -> Option<StreamEvent> {
        self.current = None;
        let mut block = block(event.get("content_block")?)?;
        if let Part::ToolCall(call) = &mut block {
            call.arguments.clear();
        }
        self.current = Some(self.blocks.len());
        let begun = match &block {
            Part::ToolCall(call) => Some(StreamEvent::ToolCall {
                index: self.calls(),
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: String::new(),
            }),
            _ => None,
        };
        self.blocks.push(block);
        begun
    }

    /// Number of calls so far.
    fn calls(&self) -> usize {
        self.blocks.iter().filter(|part| matches!(part, Part::ToolCall(_))).count()
    }

    /// Adds a piece to the current block.
    fn take_delta(&mut self, event: &Value) -> Option<StreamEvent> {
        let index = self.calls().saturating_sub(1);
        let part = self.blocks.get_mut(self.current?)?;
        let more = |name: &str| event.pointer(&format!("/delta/{name}")).and_then(Value::as_str);
        match part {
            Part::Text { text } => {
                let more = more("text")?;
                text.push_str(more);
                Some(StreamEvent::Text(more.to_owned()))
            }
            Part::Reasoning { text, signature } => {
                if let Some(more) = more("signature") {
                    signature.get_or_insert_default().push_str(more);
                }
                let more = more("thinking")?;
                text.push_str(more);
                Some(StreamEvent::Reasoning(more.to_owned()))
            }
            Part::ToolCall(call) => {
                let arguments = more("partial_json")?.to_owned();
                call.arguments.push_str(&arguments);
                Some(StreamEvent::ToolCall {
                    index,
                    id: String::new(),
                    name: String::new(),
                    arguments,
                })
            }
            _ => None,
        }
    }

    /// The whole response. An incomplete one is an error, with the usage that is known.
    fn response(&mut self) -> Result<ModelResponse, ModelError> {
        let Some(finish_reason) = self.finish.take() else {
            let error = invalid_response(&self.name, "ended before it was complete");
            return Err(error.with_usage(self.usage));
        };
        let response = ModelResponse::new(std::mem::take(&mut self.blocks));
        let response = response.with_finish_reason(finish_reason).with_usage(self.usage);
        Ok(response.with_model(self.name.as_str()))
    }
}

impl Assemble for Assembly {
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        let pieces = match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message_start" => {
                self.take_usage(event.pointer("/message/usage"));
                None
            }
            "content_block_start" => self.begin_block(event),
            "content_block_delta" => self.take_delta(event),
            "message_delta" => {
                self.take_usage(event.get("usage"));
                self.finish = event.get("delta").and_then(finish).or(self.finish.take());
                None
            }
            "message_stop" => Some(StreamEvent::Finished(self.response()?)),
            _ => None,
        };
        Ok(pieces.into_iter().collect())
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}
