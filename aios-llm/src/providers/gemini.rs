//! The protocol of Gemini: `generateContent`, version v1beta.
//!
//! A body and the events of a stream have the same form: a response with the parts so far, or with
//! more of them. The last one has the reason of the end. A stream has no marker: it ends with the
//! connection, so a missing reason is what shows that it was cut off. The reason can also be that the
//! generation has failed, although the status is that of a success.
//!
//! Calls of tools have no ids. They get one from the id of the response and their number. A
//! signature belongs to the part after it, so it is kept as reasoning without text, and attached to
//! the next part when the conversation is sent again.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions, arguments,
    connection::Connection,
    error::{check_event, invalid_response},
    sent_arguments, signature,
    stream::{self, Assemble, Framing},
    tool_name,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelErrorKind,
    ModelRequest, ModelResponse, ModelStream, Part, Role, StreamEvent, ToolCall, ToolChoice, Usage,
};

/// The default base URL.
const URL: &str = "https://generativelanguage.googleapis.com";
/// Stands for the signature of a call that another provider has made, as Google documents it.
const UNSIGNED: &str = "skip_thought_signature_validator";
/// Prefix of the name of the model, and mark of signatures.
const PROVIDER: &str = "gemini";

/// A model behind the Gemini API of Google.
///
/// Calls have no ids there: results are matched by their order, and the ids of calls are made here.
///
/// # Examples
///
/// ```
/// use aios_llm::{model::LanguageModel, providers::{GeminiModel, ProviderOptions}};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let model = GeminiModel::new(ProviderOptions::new("gemini-2.5-flash").with_api_key("sk-secret"))?;
/// assert_eq!(model.name(), "gemini:gemini-2.5-flash");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GeminiModel {
    /// Client, key and name.
    connection: Connection,
    /// Those of the options, or what the model has.
    capabilities: Capabilities,
}

impl GeminiModel {
    /// Creates the model. Nothing is requested yet. The default base URL is
    /// `https://generativelanguage.googleapis.com`.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the URL or the key is invalid.
    pub fn new(options: ProviderOptions) -> Result<Self, ModelError> {
        let key = ("x-goog-api-key", options.api_key.clone());
        // Earlier models reject tools beside a schema for the output.
        let all = Capabilities::all().with_native_output_with_tools(is_since_3(&options.model));
        let capabilities = options.capabilities.unwrap_or(all);
        let connection = Connection::new(options, PROVIDER, URL, &[key])?;
        Ok(Self { connection, capabilities })
    }

    /// The body of a request, which is the same with and without streaming.
    fn body(&self, request: &ModelRequest) -> Value {
        body(request, is_since_3(&self.connection.model))
    }

    /// The path of a method.
    fn path(&self, method: &str) -> String {
        format!("v1beta/models/{}:{method}", self.connection.model)
    }
}

#[async_trait]
impl LanguageModel for GeminiModel {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let path = self.path("generateContent");
        let body = self.connection.post_whole(&path, &self.body(request)).await?;
        let mut assembly = Assembly::new(self.name());
        assembly.take(&body)?;
        assembly.response()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let path = self.path("streamGenerateContent?alt=sse");
        let response = self.connection.post(&path, &self.body(request)).await?;
        let assembly = Assembly::new(self.name());
        Ok(stream::read(&self.connection, response, Framing::ServerEvents, assembly))
    }
}

/// Whether a model is Gemini 3 or later, by its name.
fn is_since_3(model: &str) -> bool {
    let version = model.strip_prefix("gemini-").unwrap_or_default();
    let major = version.split(['-', '.']).next().unwrap_or_default();
    major.parse::<u32>().is_ok_and(|major| major >= 3)
}

/// The body of a request. Some models require that calls are signed.
fn body(request: &ModelRequest, is_signed: bool) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("contents", request.messages.iter().filter_map(|it| content(it, is_signed)).collect());
    if let Some(instructions) = &request.instructions {
        set("systemInstruction", json!({"parts": [{"text": instructions}]}));
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "name": tool.name,
                "description": tool.description,
                "parametersJsonSchema": tool.parameters,
            })
        });
        let tools: Vec<_> = tools.collect();
        set("tools", json!([{ "functionDeclarations": tools }]));
        let choice = match &request.tool_choice {
            ToolChoice::Auto => json!({"mode": "AUTO"}),
            ToolChoice::Required => json!({"mode": "ANY"}),
            ToolChoice::None => json!({"mode": "NONE"}),
            ToolChoice::Tool(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        };
        set("toolConfig", json!({ "functionCallingConfig": choice }));
    }
    let mut config = Map::new();
    if let Some(output) = &request.output {
        config.insert("responseMimeType".to_owned(), "application/json".into());
        config.insert("responseJsonSchema".to_owned(), output.schema.clone());
    }
    if let Some(tokens) = request.max_output_tokens {
        config.insert("maxOutputTokens".to_owned(), tokens.into());
    }
    if let Some(temperature) = request.temperature {
        config.insert("temperature".to_owned(), temperature.into());
    }
    if !request.stop.is_empty() {
        config.insert("stopSequences".to_owned(), json!(request.stop));
    }
    if !config.is_empty() {
        set("generationConfig", config.into());
    }
    body.into()
}

/// A message, unless nothing in it can be sent: one without parts is rejected. The signature of hidden
/// reasoning belongs to the part after it. Where calls have to be signed, only the first one of a
/// message is: one that another provider has made gets a placeholder.
fn content(message: &Message, is_signed: bool) -> Option<Value> {
    let mut parts = Vec::new();
    let mut pending = None;
    for part in &message.content {
        // Signatures of other providers are left out.
        if let Part::Reasoning { signature: Some(marked), .. } = part {
            pending = signature::of(PROVIDER, marked);
        }
        let Some(mut written) = written(part) else { continue };
        if let (Some(signature), Some(fields)) = (pending.take(), written.as_object_mut()) {
            fields.insert("thoughtSignature".to_owned(), signature.into());
        }
        parts.push(written);
    }
    let call = parts.iter_mut().find(|part| part.get("functionCall").is_some());
    if let Some(fields) = call.filter(|_| is_signed).and_then(Value::as_object_mut) {
        fields.entry("thoughtSignature").or_insert_with(|| UNSIGNED.into());
    }
    let role = if message.role == Role::Assistant { "model" } else { "user" };
    (!parts.is_empty()).then(|| json!({"role": role, "parts": parts}))
}

/// A part in the form of the protocol; `None` if it must not be sent.
fn written(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({ "text": text }),
        Part::Image { source: ImageSource::Base64 { media_type, data } } => {
            json!({"inlineData": {"mimeType": media_type, "data": data}})
        }
        Part::Image { source: ImageSource::Url(url) } => json!({"fileData": {"fileUri": url}}),
        Part::File { reference, media_type } => {
            json!({"fileData": {"fileUri": reference, "mimeType": media_type}})
        }
        Part::ToolCall(call) => {
            let arguments = sent_arguments(&call.arguments);
            json!({"functionCall": {"name": tool_name(&call.name), "args": arguments}})
        }
        Part::ToolResult(result) => {
            let key = if result.is_error { "error" } else { "output" };
            let response = json!({ key: result.content });
            json!({"functionResponse": {"name": tool_name(&result.name), "response": response}})
        }
        Part::Reasoning { .. } => return None,
    })
}

/// A response, of which pieces have arrived.
struct Assembly {
    /// Name of the model in errors and in the response.
    name: String,
    /// Id of the response, from which calls get theirs.
    id: String,
    /// The parts so far.
    content: Vec<Part>,
    /// The latest numbers; each event has them in full.
    usage: Usage,
    /// `None` until the provider says it; an error if the generation has failed, with the reason.
    finish: Option<Result<FinishReason, String>>,
}

impl Assembly {
    /// Nothing has arrived.
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        let id = "call".to_owned();
        Self { name, id, content: Vec::new(), usage: Usage::default(), finish: None }
    }

    /// Number of calls so far.
    fn calls(&self) -> usize {
        self.content.iter().filter(|part| matches!(part, Part::ToolCall(_))).count()
    }

    /// Takes the numbers, if they are there. Reasoning is reported beside the output, and added to
    /// it here.
    fn take_usage(&mut self, chunk: &Value) {
        let Some(usage) = chunk.get("usageMetadata") else { return };
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
        let reasoning_tokens = count("thoughtsTokenCount");
        self.usage = Usage {
            input_tokens: count("promptTokenCount"),
            cached_input_tokens: count("cachedContentTokenCount"),
            output_tokens: count("candidatesTokenCount").saturating_add(reasoning_tokens),
            reasoning_tokens,
        };
    }

    /// Adds a part, or more of the last one.
    fn take_part(&mut self, part: &Value) -> Option<StreamEvent> {
        let text = part.get("text").and_then(Value::as_str).filter(|text| !text.is_empty());
        let is_thought = part.get("thought").and_then(Value::as_bool).unwrap_or(false);
        if let Some(signature) = part.get("thoughtSignature").and_then(Value::as_str) {
            let signature = Some(signature::mark(PROVIDER, signature));
            self.content.push(Part::Reasoning { text: String::new(), signature });
        }
        if let Some(call) = part.get("functionCall") {
            let index = self.calls();
            let name = call.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let arguments =
                call.get("args").map_or_else(|| "{}".to_owned(), |it| arguments(Some(it)));
            let id = format!("{}-{index}", self.id);
            let call =
                ToolCall { id: id.clone(), name: name.clone(), arguments: arguments.clone() };
            self.content.push(Part::ToolCall(call));
            return Some(StreamEvent::ToolCall { index, id, name, arguments });
        }
        let text = text?.to_owned();
        match (self.content.last_mut(), is_thought) {
            (Some(Part::Text { text: known }), false) => known.push_str(&text),
            (Some(Part::Reasoning { text: known, signature: None }), true) => known.push_str(&text),
            (_, false) => self.content.push(Part::Text { text: text.clone() }),
            (_, true) => {
                self.content.push(Part::Reasoning { text: text.clone(), signature: None });
            }
        }
        Some(if is_thought { StreamEvent::Reasoning(text) } else { StreamEvent::Text(text) })
    }

    /// Why the response ended. Gemini has no reason of its own for tool calls, and many for generation that
    /// has failed.
    fn take_finish(&mut self, reason: &str) {
        let has_calls = self.calls() > 0;
        self.finish = Some(match reason {
            "STOP" if has_calls => Ok(FinishReason::ToolCalls),
            "STOP" => Ok(FinishReason::Stop),
            "MAX_TOKENS" => Ok(FinishReason::Length),
            "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" => {
                Ok(FinishReason::Refusal)
            }
            failed => Err(failed.to_owned()),
        });
    }

    /// The whole response. An incomplete or failed one is an error, with the usage that is known.
    fn response(&mut self) -> Result<ModelResponse, ModelError> {
        let invalid = |what: &str| invalid_response(&self.name, what).with_usage(self.usage);
        let finish_reason = match self.finish.take() {
            Some(Ok(reason)) => reason,
            Some(Err(failed)) => return Err(invalid(&format!("ended with {failed}"))),
            None => return Err(invalid("ended before it was complete")),
        };
        let response = ModelResponse::new(std::mem::take(&mut self.content));
        let response = response.with_finish_reason(finish_reason).with_usage(self.usage);
        Ok(response.with_model(self.name.as_str()))
    }
}

impl Assemble for Assembly {
    fn take(&mut self, chunk: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        check_event(&self.name, chunk)?;
        self.take_usage(chunk);
        if let Some(id) = chunk.get("responseId").and_then(Value::as_str) {
            id.clone_into(&mut self.id);
        }
        // The request itself was refused: there is no candidate.
        if let Some(reason) = chunk.pointer("/promptFeedback/blockReason").and_then(Value::as_str) {
            let reason = format!("{} refused the request: {reason}", self.name);
            return Err(ModelError::new(ModelErrorKind::Refused, reason).with_usage(self.usage));
        }
        let parts = chunk.pointer("/candidates/0/content/parts").and_then(Value::as_array);
        let pieces = parts.into_iter().flatten().filter_map(|part| self.take_part(part)).collect();
        if let Some(reason) = chunk.pointer("/candidates/0/finishReason").and_then(Value::as_str) {
            self.take_finish(reason);
        }
        Ok(pieces)
    }

    fn end(&mut self, _: bool) -> Result<Option<StreamEvent>, ModelError> {
        Ok(Some(StreamEvent::Finished(self.response()?)))
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}
