//! The protocol of Amazon Bedrock: the Converse API.
//!
//! It is common to all models of Bedrock. Streams are event streams of AWS, whose events are named
//! objects (`aws_events`). The last event is `metadata`, with the usage, after `messageStop`, with
//! the reason. Requests carry an API key, or are signed with credentials (`signer`).
//!
//! Signatures of reasoning are marked with the name of the provider, so that one of another
//! provider in the same conversation is not sent here, where it would be rejected. Redacted reasoning,
//! which only the provider can read, has a mark of its own.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions, arguments, body, call_id, closed,
    connection::Connection,
    error::{check_event, invalid_response, unsupported},
    in_turns, schema_name, sent_arguments, signature,
    signer::{Signer, encode},
    stream::{self, Assemble, Framing},
    tool_name, without_last_reasoning,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelErrorKind,
    ModelRequest, ModelResponse, ModelStream, Part, Role, StreamEvent, ToolCall, ToolChoice,
    ToolSpec, Usage,
};

/// Prefix of the name of the model, and mark of signatures.
const PROVIDER: &str = "bedrock";
/// Marks the data of redacted reasoning among signatures.
const REDACTED: &str = "bedrock-redacted";
/// Instead of a text without a letter.
const EMPTY: &str = "(empty)";
/// Name of the service in signatures.
const SERVICE: &str = "bedrock";

/// The media types of images, and the names of their formats.
const IMAGES: [(&str, &str); 5] = [
    ("image/gif", "gif"),
    ("image/jpeg", "jpeg"),
    ("image/jpg", "jpeg"),
    ("image/png", "png"),
    ("image/webp", "webp"),
];

/// The media types of documents, and the names of their formats.
const DOCUMENTS: [(&str, &str); 9] = [
    ("application/msword", "doc"),
    ("application/pdf", "pdf"),
    ("application/vnd.ms-excel", "xls"),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
    ("text/csv", "csv"),
    ("text/html", "html"),
    ("text/markdown", "md"),
    ("text/plain", "txt"),
];

/// A model behind the Converse API of Amazon Bedrock.
///
/// The protocol has no images by URL, no files by id, and only some types of images and documents; a
/// request with another one fails with `MODEL_INVALID_REQUEST`. Files are in S3: their reference is an
/// `s3://` URI. It has no [`ToolChoice::None`] either: the tools are left out then, and earlier calls
/// and results are texts.
///
/// An agent requests output in a schema as a tool. With
/// [`Capabilities::with_native_output`], it is requested natively, which some models support.
///
/// # Examples
///
/// ```
/// use aios_llm::{
///     LanguageModel,
///     providers::{AwsCredentials, BedrockModel, ProviderOptions},
/// };
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// // Called for each request, so temporary credentials can be renewed.
/// let credentials = || AwsCredentials::new("AKIDEXAMPLE", "secret").with_session_token("token");
/// let options = ProviderOptions::new("eu.anthropic.claude-sonnet-4-5-20250929-v1:0")
///     .with_region("eu-central-1")
///     .with_aws_credentials(credentials);
/// let model = BedrockModel::new(options)?;
/// assert!(model.name().starts_with("bedrock:"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BedrockModel {
    /// Client, key or signer, and name.
    connection: Connection,
    /// Those of the options, or tools only.
    capabilities: Capabilities,
}

impl BedrockModel {
    /// Creates the model, by its id or that of an inference profile. Nothing is requested yet. The
    /// region is required. The key is an API key of Bedrock, unless there are
    /// [credentials](ProviderOptions::with_aws_credentials). The default base URL is
    /// `https://bedrock-runtime.<region>.amazonaws.com`.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the region is missing, or the URL or the key is invalid.
    pub fn new(options: ProviderOptions) -> Result<Self, ModelError> {
        let Some(region) = options.region.clone() else {
            let reason = format!(
                "{PROVIDER}:{} needs a region; set it with `ProviderOptions::with_region`",
                options.model
            );
            return Err(ModelError::new(ModelErrorKind::InvalidRequest, reason));
        };
        let capabilities = options.capabilities.unwrap_or(Capabilities::none().with_tools(true));
        let url = format!("https://bedrock-runtime.{region}.amazonaws.com");
        let connection = match options.aws_credentials.clone() {
            Some(credentials) => {
                let signer = Signer::new(credentials, region, SERVICE);
                Connection::new(options, PROVIDER, &url, &[])?.with_signer(signer)
            }
            None => {
                let key = ("authorization", format!("Bearer {}", options.api_key));
                Connection::new(options, PROVIDER, &url, &[key])?
            }
        };
        Ok(Self { connection, capabilities })
    }

    /// The path of a method. The id of a model can contain `:` and `/`.
    fn path(&self, method: &str) -> String {
        format!("model/{}/{method}", encode(&self.connection.model))
    }

    /// The body of a request. Fails for parts that the protocol does not have.
    fn body(&self, request: &ModelRequest) -> Result<Value, ModelError> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        let has_tools = request.tool_choice != ToolChoice::None && !request.tools.is_empty();
        let name = &self.connection.name;
        let messages = request.messages.iter().map(|it| message(name, it, has_tools));
        let mut messages = in_turns(messages.collect::<Result<Vec<_>, _>>()?);
        name_documents(&mut messages);
        set("messages", messages.into());
        let instructions = request.instructions.as_deref().filter(|it| !it.trim().is_empty());
        if let Some(instructions) = instructions {
            set("system", json!([{ "text": instructions }]));
        }
        if let Some(choice) = tool_choice(&request.tool_choice).filter(|_| has_tools) {
            let tools: Vec<_> = request.tools.iter().map(tool).collect();
            set("toolConfig", json!({"tools": tools, "toolChoice": choice}));
        }
        if let Some(output) = &request.output {
            // The schema is a text there.
            let schema = body::write(&closed(&output.schema));
            let schema = json!({"name": schema_name(&output.name), "schema": schema});
            let format = json!({"type": "json_schema", "structure": {"jsonSchema": schema}});
            set("outputConfig", json!({ "textFormat": format }));
        }
        let mut config = Map::new();
        if let Some(tokens) = request.max_output_tokens {
            config.insert("maxTokens".to_owned(), tokens.into());
        }
        if let Some(temperature) = request.temperature {
            config.insert("temperature".to_owned(), temperature.into());
        }
        if !request.stop.is_empty() {
            config.insert("stopSequences".to_owned(), json!(request.stop));
        }
        if !config.is_empty() {
            set("inferenceConfig", config.into());
        }
        Ok(body.into())
    }
}

#[async_trait]
impl LanguageModel for BedrockModel {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let body = self.body(request)?;
        let body = self.connection.post_whole(&self.path("converse"), &body).await?;
        check_event(self.name(), &body)?;
        let mut assembly = Assembly::new(self.name());
        let blocks = body.pointer("/output/message/content").and_then(Value::as_array);
        for block in blocks.into_iter().flatten() {
            assembly.take_block(block);
        }
        assembly.take_usage(&body);
        assembly.finish = finish(&body);
        assembly.response()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let body = self.body(request)?;
        let response = self.connection.post(&self.path("converse-stream"), &body).await?;
        let assembly = Assembly::new(self.name());
        Ok(stream::read(&self.connection, response, Framing::AwsEvents, assembly))
    }
}

/// A tool in the form of the protocol, which rejects a description without a letter.
fn tool(tool: &ToolSpec) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), tool.name.as_str().into());
    if !tool.description.trim().is_empty() {
        fields.insert("description".to_owned(), tool.description.as_str().into());
    }
    fields.insert("inputSchema".to_owned(), json!({ "json": tool.parameters }));
    json!({ "toolSpec": fields })
}

/// Which tools may be called; `None` if the protocol can't say it.
fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    Some(match choice {
        ToolChoice::Auto => json!({"auto": {}}),
        ToolChoice::Required => json!({"any": {}}),
        ToolChoice::Tool(name) => json!({"tool": {"name": name}}),
        ToolChoice::None => return None,
    })
}

/// A message. Calls and results need tools in the request; without them, they are texts.
fn message(name: &str, message: &Message, has_tools: bool) -> Result<Value, ModelError> {
    let part = |it: &Part| match it {
        Part::ToolCall(call) if !has_tools => {
            Ok(Some(json!({"text": format!("[call of {}: {}]", call.name, call.arguments)})))
        }
        Part::ToolResult(result) if !has_tools => {
            Ok(Some(json!({"text": format!("[result of {}: {}]", result.name, result.content)})))
        }
        other => part(name, other),
    };
    let parts = message.content.iter().map(part).filter_map(Result::transpose);
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let content =
        without_last_reasoning(parts.into_iter(), |part| part.get("reasoningContent").is_some());
    let role = if message.role == Role::Assistant { "assistant" } else { "user" };
    Ok(json!({"role": role, "content": content}))
}

/// A text that has to be sent. Those without a letter are rejected.
fn not_blank(text: &str) -> &str {
    if text.trim().is_empty() { EMPTY } else { text }
}

/// A part in the form of the protocol; `None` if it must not be sent.
fn part(name: &str, part: &Part) -> Result<Option<Value>, ModelError> {
    Ok(Some(match part {
        // Texts without a letter are rejected.
        Part::Text { text } if text.trim().is_empty() => return Ok(None),
        Part::Text { text } => json!({ "text": text }),
        Part::Image { source: ImageSource::Base64 { media_type, data } } => {
            let format = format_of(name, media_type, &IMAGES)?;
            json!({"image": {"format": format, "source": {"bytes": data}}})
        }
        Part::Image { .. } => return Err(unsupported(name, "images by URL")),
        Part::File { reference, media_type } if reference.starts_with("s3://") => {
            let format = format_of(name, media_type, &DOCUMENTS)?;
            let source = json!({"s3Location": {"uri": reference}});
            json!({"document": {"format": format, "source": source}})
        }
        Part::File { .. } => return Err(unsupported(name, "files that are not in S3")),
        // Reasoning without a signature of this provider is rejected.
        Part::Reasoning { text, signature } => {
            let Some(marked) = signature.as_deref() else { return Ok(None) };
            if let Some(data) = signature::of(REDACTED, marked) {
                json!({"reasoningContent": {"redactedContent": data}})
            } else if let Some(signature) = signature::of(PROVIDER, marked) {
                let text = json!({"text": text, "signature": signature});
                json!({"reasoningContent": {"reasoningText": text}})
            } else {
                return Ok(None);
            }
        }
        Part::ToolCall(call) => {
            let input = sent_arguments(&call.arguments);
            let name = tool_name(&call.name);
            json!({"toolUse": {"toolUseId": call_id(&call.id), "name": name, "input": input}})
        }
        Part::ToolResult(result) => json!({"toolResult": {
            "toolUseId": call_id(&result.call_id),
            "content": [{"text": not_blank(&result.content)}],
            "status": if result.is_error { "error" } else { "success" },
        }}),
    }))
}

/// The name of a format, by its media type, which may have parameters.
fn format_of(
    name: &str,
    media_type: &str,
    formats: &[(&str, &'static str)],
) -> Result<&'static str, ModelError> {
    let wanted = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = formats.iter().find(|(media_type, _)| *media_type == wanted);
    let known = known.map(|(_, format)| *format);
    known.ok_or_else(|| unsupported(name, &format!("files of the type {media_type:?}")))
}

/// Numbers the documents, whose names have to differ.
fn name_documents(messages: &mut [Value]) {
    let contents = messages.iter_mut().filter_map(|it| it.get_mut("content")?.as_array_mut());
    let documents = contents.flatten().filter_map(|it| it.get_mut("document")?.as_object_mut());
    for (number, document) in (1..).zip(documents) {
        document.insert("name".to_owned(), format!("document {number}").into());
    }
}

/// Why the response ended; `None` while it has not, or if the generation has failed.
fn finish(body: &Value) -> Option<FinishReason> {
    Some(match body.get("stopReason")?.as_str()? {
        "malformed_model_output" | "malformed_tool_use" => return None,
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "guardrail_intervened" | "content_filtered" => FinishReason::Refusal,
        other => FinishReason::Other(other.to_owned()),
    })
}

/// Reasoning that only the provider can read.
fn redacted(data: &str) -> Part {
    Part::Reasoning { text: String::new(), signature: Some(signature::mark(REDACTED, data)) }
}

/// Whether a part is reasoning that further pieces belong to.
fn is_readable(part: &Part) -> bool {
    let Part::Reasoning { signature, .. } = part else { return false };
    signature.as_deref().is_none_or(|it| signature::of(REDACTED, it).is_none())
}

/// A text in a value.
fn text(value: &Value, path: &str) -> Option<String> {
    value.pointer(path).and_then(Value::as_str).map(str::to_owned)
}

/// A response, of which pieces have arrived.
struct Assembly {
    /// Name of the model in errors and in the response.
    name: String,
    /// The parts so far. The last one may not be complete.
    content: Vec<Part>,
    /// From the last event.
    usage: Usage,
    /// `None` until the provider says it.
    finish: Option<FinishReason>,
}

impl Assembly {
    /// Nothing has arrived.
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, content: Vec::new(), usage: Usage::default(), finish: None }
    }

    /// Takes the numbers, if they are there. Input is reported without cached tokens.
    fn take_usage(&mut self, body: &Value) {
        let count = |name: &str| {
            body.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_u64)
        };
        let Some(input) = count("inputTokens") else { return };
        let cached = count("cacheReadInputTokens").unwrap_or(0);
        let written = count("cacheWriteInputTokens").unwrap_or(0);
        self.usage = Usage {
            input_tokens: input.saturating_add(cached).saturating_add(written),
            cached_input_tokens: cached,
            output_tokens: count("outputTokens").unwrap_or(0),
            reasoning_tokens: 0,
        };
    }

    /// Adds a whole block.
    fn take_block(&mut self, block: &Value) {
        if let Some(text) = text(block, "/text") {
            self.content.push(Part::Text { text });
        } else if let Some(thought) = text(block, "/reasoningContent/reasoningText/text") {
            let signature = text(block, "/reasoningContent/reasoningText/signature");
            let signature = signature.map(|it| signature::mark(PROVIDER, &it));
            self.content.push(Part::Reasoning { text: thought, signature });
        } else if let Some(data) = text(block, "/reasoningContent/redactedContent") {
            self.content.push(redacted(&data));
        } else if let Some(call) = block.get("toolUse") {
            let arguments = arguments(call.get("input"));
            let of = |path| text(call, path).unwrap_or_default();
            let call = ToolCall { id: of("/toolUseId"), name: of("/name"), arguments };
            self.content.push(Part::ToolCall(call));
        }
    }

    /// Begins a call of a tool. Blocks of other kinds begin with their first piece.
    fn begin_call(&mut self, start: &Value) -> Option<StreamEvent> {
        let call = start.pointer("/start/toolUse")?;
        let index = self.calls();
        let id = text(call, "/toolUseId")?;
        let name = text(call, "/name")?;
        let arguments = String::new();
        let begun = ToolCall { id: id.clone(), name: name.clone(), arguments: arguments.clone() };
        self.content.push(Part::ToolCall(begun));
        Some(StreamEvent::ToolCall { index, id, name, arguments })
    }

    /// Number of calls so far.
    fn calls(&self) -> usize {
        self.content.iter().filter(|part| matches!(part, Part::ToolCall(_))).count()
    }

    /// Adds a piece to the last part, or begins a part with it.
    fn take_delta(&mut self, delta: &Value) -> Option<StreamEvent> {
        let index = self.calls().saturating_sub(1);
        if let Some(more) = text(delta, "/delta/text") {
            match self.content.last_mut() {
                Some(Part::Text { text }) => text.push_str(&more),
                _ => self.content.push(Part::Text { text: more.clone() }),
            }
            return Some(StreamEvent::Text(more));
        }
        if let Some(arguments) = text(delta, "/delta/toolUse/input") {
            let Some(Part::ToolCall(call)) = self.content.last_mut() else { return None };
            call.arguments.push_str(&arguments);
            let id = String::new();
            let name = String::new();
            return Some(StreamEvent::ToolCall { index, id, name, arguments });
        }
        let thought = delta.pointer("/delta/reasoningContent")?;
        if let Some(data) = text(thought, "/redactedContent") {
            self.content.push(redacted(&data));
            return None;
        }
        if !self.content.last().is_some_and(is_readable) {
            self.content.push(Part::Reasoning { text: String::new(), signature: None });
        }
        let Some(Part::Reasoning { text: known, signature }) = self.content.last_mut() else {
            return None;
        };
        if let Some(more) = text(thought, "/signature") {
            *signature = Some(signature::mark(PROVIDER, &more));
        }
        let more = text(thought, "/text")?;
        known.push_str(&more);
        Some(StreamEvent::Reasoning(more))
    }

    /// The whole response. An incomplete one is an error, with the usage that is known.
    fn response(&mut self) -> Result<ModelResponse, ModelError> {
        let Some(finish_reason) = self.finish.take() else {
            let error = invalid_response(&self.name, "ended before it was complete");
            return Err(error.with_usage(self.usage));
        };
        let response = ModelResponse::new(std::mem::take(&mut self.content));
        let response = response.with_finish_reason(finish_reason).with_usage(self.usage);
        Ok(response.with_model(self.name.as_str()))
    }
}

impl Assemble for Assembly {
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        let Some((kind, event)) = event.as_object().and_then(|event| event.iter().next()) else {
            return Ok(Vec::new());
        };
        let piece = match kind.as_str() {
            "contentBlockStart" => self.begin_call(event),
            "contentBlockDelta" => self.take_delta(event),
            "messageStop" => {
                self.finish = finish(event);
                None
            }
            // The last event.
            "metadata" => {
                self.take_usage(event);
                Some(StreamEvent::Finished(self.response()?))
            }
            _ => None,
        };
        Ok(piece.into_iter().collect())
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}
