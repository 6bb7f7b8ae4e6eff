use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions,
    connection::Connection,
    error::{invalid_response, of_event},
    signature,
    stream::{self, Assemble, Framing},
    tool_name,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelErrorKind,
    ModelRequest, ModelResponse, ModelStream, Part, Role, StreamEvent, ToolCall, ToolChoice, Usage,
};

const URL: &str = "https://generativelanguage.googleapis.com";
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
    connection: Connection,
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
        let capabilities = options.capabilities.unwrap_or(Capabilities::all());
        let connection = Connection::new(options, PROVIDER, URL, &[key])?;
        Ok(Self { connection, capabilities })
    }

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
        let body = self.connection.post_whole(&path, &body(request)).await?;
        let mut assembly = Assembly::new(self.name());
        assembly.take(&body)?;
        assembly.response()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let path = self.path("streamGenerateContent?alt=sse");
        let response = self.connection.post(&path, &body(request)).await?;
        let assembly = Assembly::new(self.name());
        Ok(stream::read(self.name(), response, Framing::ServerEvents, assembly))
    }
}

fn body(request: &ModelRequest) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("contents", request.messages.iter().filter_map(content).collect());
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
/// reasoning belongs to the part after it.
fn content(message: &Message) -> Option<Value> {
    let mut parts = Vec::new();
    let mut pending = None;
    for part in &message.content {
        if let Part::Reasoning { signature: Some(marked), .. } = part {
            pending = signature::of(PROVIDER, marked);
        }
        let Some(mut written) = written(part) else { continue };
        if let (Some(signature), Some(fields)) = (pending.take(), written.as_object_mut()) {
            fields.insert("thoughtSignature".to_owned(), signature.into());
        }
        parts.push(written);
    }
    let role = if message.role == Role::Assistant { "model" } else { "user" };
    (!parts.is_empty()).then(|| json!({"role": role, "parts": parts}))
}

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
            // Only objects are accepted; the result of the call says that others were invalid.
            let arguments: Option<Value> = serde_json::from_str(&call.arguments).ok();
            let arguments = arguments.filter(Value::is_object).unwrap_or_else(|| json!({}));
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
    name: String,
    id: String,
    content: Vec<Part>,
    usage: Usage,
    finish: Option<FinishReason>,
}

impl Assembly {
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        let id = "call".to_owned();
        Self { name, id, content: Vec::new(), usage: Usage::default(), finish: None }
    }

    fn calls(&self) -> usize {
        self.content.iter().filter(|part| matches!(part, Part::ToolCall(_))).count()
    }

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
            let arguments = call.get("args").map_or_else(|| "{}".to_owned(), Value::to_string);
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

    fn take_finish(&mut self, reason: &str) {
        let has_calls = self.calls() > 0;
        self.finish = Some(match reason {
            "STOP" if has_calls => FinishReason::ToolCalls,
            "STOP" => FinishReason::Stop,
            "MAX_TOKENS" => FinishReason::Length,
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" => {
                FinishReason::Refusal
            }
            other => FinishReason::Other(other.to_owned()),
        });
    }

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
    fn take(&mut self, chunk: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        if chunk.get("error").is_some() {
            return Err(of_event(&self.name, chunk));
        }
        self.take_usage(chunk);
        if let Some(id) = chunk.get("responseId").and_then(Value::as_str) {
            id.clone_into(&mut self.id);
        }
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
}
