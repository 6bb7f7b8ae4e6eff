//! The protocol of `OpenAI`: chat completions.
//!
//! Many providers and servers speak it, each a little differently, so reading is lenient: calls may
//! be numbered from 0 or 1 or all the same, ids may come once or with every piece, reasoning may
//! come in a field of one of two names, and content may be a list of parts. Writing is strict, and uses only what the official clients use.
//!
//! A stream ends with the marker `[DONE]`. The usage comes in an event after the reason of the end,
//! and only on request. So a stream without the marker is not complete, even if it has a reason, unless
//! that is a refusal.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions, body,
    connection::Connection,
    error::{check_event, invalid_response},
    events::ResponseEvents,
    id_within,
    options::is_of_openai,
    schema_name, sent_arguments_text,
    stream::{self, Assemble, Framing},
    tool_name,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelRequest,
    ModelResponse, ModelStream, OutputSchema, Part, Role, StreamEvent, ToolCall, ToolChoice, Usage,
};

/// The default base URL.
const URL: &str = "https://api.openai.com/v1";
/// The default base URL of Ollama, on this machine.
const OLLAMA_URL: &str = "http://localhost:11434/v1";
/// The lowest limit of output tokens that `OpenAI` accepts.
pub(super) const LEAST_OUTPUT_TOKENS: u32 = 16;
/// The longest id of a call that `OpenAI` accepts.
const MAX_CALL_ID: usize = 40;
/// The only path that is used.
const PATH: &str = "chat/completions";

/// A model behind the chat completions of `OpenAI`, or of a provider or server that speaks them.
///
/// Reasoning is not sent back, because the protocol has no place for it.
///
/// # Examples
///
/// A model of `OpenAI`, and one of a local server that speaks the same protocol:
///
/// ```
/// use aios_llm::{model::LanguageModel, providers::{OpenAiModel, ProviderOptions}};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let model = OpenAiModel::new(ProviderOptions::new("gpt-5").with_api_key("sk-secret"))?;
/// assert_eq!(model.name(), "openai:gpt-5");
///
/// let local = ProviderOptions::new("qwen3").with_base_url("http://127.0.0.1:8000/v1");
/// let local = OpenAiModel::new(local.with_name("vllm:qwen3"))?;
/// assert_eq!(local.name(), "vllm:qwen3");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OpenAiModel {
    /// Client, key and name.
    connection: Connection,
    /// Those of the options, or what the provider has.
    capabilities: Capabilities,
    /// Whether requests go to `OpenAI`, including on Azure. Others know only the old field that limits the
    /// output.
    is_openai: bool,
}

impl OpenAiModel {
    /// Creates the model. Nothing is requested yet. The default base URL is
    /// `https://api.openai.com/v1`. `OpenAI` accepts no limit below 16 output tokens, so a request
    /// with a lower one is sent with 16.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the URL or the key is invalid.
    pub fn new(options: ProviderOptions) -> Result<Self, ModelError> {
        Self::of(options, "openai", URL)
    }

    /// Creates a model of Ollama, which speaks the same protocol. The default base URL is
    /// `http://localhost:11434/v1`, and no key is needed; `/v1` is added to a URL without a path.
    /// Requests to the server on this machine are not those that
    /// [`forbid_real_requests`](crate::model::forbid_real_requests) forbids.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the URL or the key is invalid.
    pub fn ollama(mut options: ProviderOptions) -> Result<Self, ModelError> {
        options.base_url = options.base_url.map(of_ollama);
        Self::of(options, "ollama", OLLAMA_URL)
    }

    /// A model of a provider that speaks the protocol.
    fn of(options: ProviderOptions, provider: &str, url: &str) -> Result<Self, ModelError> {
        let key = ("authorization", format!("Bearer {}", options.api_key));
        let is_openai = is_of_openai(options.base_url.as_deref().unwrap_or(url));
        // Many servers enforce the schema of the output letter by letter, so that no tool is called.
        let all = Capabilities::all().with_native_output_with_tools(is_openai);
        let capabilities = options.capabilities.unwrap_or(all);
        let connection = Connection::new(options, provider, url, &[key])?;
        Ok(Self { connection, capabilities, is_openai })
    }

    /// The body of a request without streaming, as JSON, for programs that send it with a client of
    /// their own. Arguments of calls are in it as the model wrote them.
    #[must_use]
    pub fn request_body(&self, request: &ModelRequest) -> String {
        body::write(&self.body(request).into())
    }

    /// Reads a whole chat completion, as the provider sends it: JSON, in which arguments of calls stay as
    /// the model wrote them.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_RESPONSE` if it is not complete, and the error of the provider if it is one.
    pub fn read_response(&self, json: &str) -> Result<ModelResponse, ModelError> {
        self.response(&self.connection.read(json)?)
    }

    /// Reads a chat completion in pieces, from the events of a stream.
    #[must_use]
    pub fn response_events(&self) -> ResponseEvents {
        ResponseEvents::new(self.name(), Assembly::new(self.name()))
    }

    /// The response in a body.
    fn response(&self, body: &Value) -> Result<ModelResponse, ModelError> {
        let name = self.name();
        check_event(name, body)?;
        let choice = body.pointer("/choices/0");
        let choice = choice.ok_or_else(|| invalid_response(name, "has no choice"))?;
        let mut assembly = Assembly::new(name);
        assembly.take_usage(body);
        let message = choice.get("message").unwrap_or(&Value::Null);
        assembly.take_delta(message);
        assembly.finish = finish(choice);
        assembly.response()
    }

    /// The field that limits the output, and its value.
    fn output_limit(&self, tokens: u32) -> (&'static str, u32) {
        if self.is_openai {
            ("max_completion_tokens", tokens.max(LEAST_OUTPUT_TOKENS))
        } else {
            ("max_tokens", tokens)
        }
    }

    /// The body of a request. `stream` adds two fields.
    fn body(&self, request: &ModelRequest) -> Map<String, Value> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("model", self.connection.model.as_str().into());
        set("messages", messages(request));
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|tool| {
                json!({"type": "function", "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                }})
            });
            set("tools", tools.collect());
            set("tool_choice", tool_choice(&request.tool_choice));
        }
        if let Some(output) = &request.output {
            set("response_format", response_format(output));
        }
        if let Some(tokens) = request.max_output_tokens {
            let (field, tokens) = self.output_limit(tokens);
            set(field, tokens.into());
        }
        if let Some(temperature) = request.temperature {
            set("temperature", temperature.into());
        }
        if !request.stop.is_empty() {
            set("stop", json!(request.stop));
        }
        body
    }
}

#[async_trait]
impl LanguageModel for OpenAiModel {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let body = self.body(request).into();
        self.response(&self.connection.post_whole(PATH, &body).await?)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut body = self.body(request);
        body.insert("stream".to_owned(), true.into());
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        let response = self.connection.post(PATH, &body.into()).await?;
        let assembly = Assembly::new(self.name());
        Ok(stream::read(&self.connection, response, Framing::ServerEvents, assembly))
    }
}

/// The base URL of Ollama, whose address is often written without the path of this protocol.
fn of_ollama(url: String) -> String {
    match url.parse::<reqwest::Url>() {
        Ok(parsed) if parsed.path() == "/" => format!("{}/v1", url.trim_end_matches('/')),
        _ => url,
    }
}

/// All messages. Instructions are the first one, as a message of the system.
fn messages(request: &ModelRequest) -> Value {
    let system = request.instructions.iter().map(|text| json!({"role": "system", "content": text}));
    system.chain(request.messages.iter().flat_map(message)).collect()
}

/// A message in the form of the protocol. Results of tools are one message each.
fn message(message: &Message) -> Vec<Value> {
    match message.role {
        Role::User => {
            let content: Vec<_> = message.content.iter().filter_map(user_part).collect();
            vec![json!({"role": "user", "content": content})]
        }
        Role::Assistant => vec![assistant(message)],
        Role::Tool => {
            let results = message.content.iter().filter_map(|part| match part {
                Part::ToolResult(result) => Some(result),
                _ => None,
            });
            let result = |result: &crate::model::ToolResult| json!({"role": "tool", "tool_call_id": id_within(&result.call_id, MAX_CALL_ID), "content": result.content});
            results.map(result).collect()
        }
    }
}

/// A part of a message of the user; `None` if the protocol has no place for it.
fn user_part(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image { source } => {
            let url = match source {
                ImageSource::Url(url) => url.clone(),
                ImageSource::Base64 { media_type, data } => {
                    format!("data:{media_type};base64,{data}")
                }
            };
            json!({"type": "image_url", "image_url": {"url": url}})
        }
        Part::File { reference, .. } => json!({"type": "file", "file": {"file_id": reference}}),
        _ => return None,
    })
}

/// A message of the model: its text and its calls.
fn assistant(message: &Message) -> Value {
    let calls = message.content.iter().filter_map(|part| match part {
        Part::ToolCall(call) => Some(json!({
            "id": id_within(&call.id, MAX_CALL_ID),
            "type": "function",
            "function": {
                "name": tool_name(&call.name),
                "arguments": sent_arguments_text(&call.arguments),
            },
        })),
        _ => None,
    });
    let calls: Vec<_> = calls.collect();
    let text = message.text();
    match (text.is_empty(), calls.is_empty()) {
        (_, true) => json!({"role": "assistant", "content": text}),
        (true, false) => json!({"role": "assistant", "content": null, "tool_calls": calls}),
        (false, false) => json!({"role": "assistant", "content": text, "tool_calls": calls}),
    }
}

/// Which tools may be called.
fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Tool(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

/// A schema for the response. Not in the strict mode, which accepts a part of JSON Schema only.
fn response_format(output: &OutputSchema) -> Value {
    let name = schema_name(&output.name);
    json!({"type": "json_schema", "json_schema": {"name": name, "schema": output.schema}})
}

/// Why the response ended; `None` while it has not, and if the server has interrupted it.
fn finish(choice: &Value) -> Option<FinishReason> {
    Some(match choice.get("finish_reason")?.as_str()? {
        // Old servers send an empty text in each piece but the last.
        "" => return None,
        // Words of vLLM, of routers, and of DeepSeek.
        "abort" | "error" | "insufficient_system_resource" => return None,
        // The latter are words of servers of open models.
        "stop" | "stop_sequence" | "eos" | "eos_token" | "end_turn" => FinishReason::Stop,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        // The latter are words of Mistral, for a full context, and of servers of open models.
        "length" | "model_length" | "max_tokens" => FinishReason::Length,
        "content_filter" => FinishReason::Refusal,
        other => FinishReason::Other(other.to_owned()),
    })
}

/// A text, or the texts of the parts in a list, which Mistral sends.
fn text_of(content: &Value) -> Option<String> {
    if let Value::Array(parts) = content {
        return Some(parts.iter().filter_map(|part| text_of(part.get("text")?)).collect());
    }
    content.as_str().map(str::to_owned)
}

/// The reasoning in the parts of a list, each a text or a list itself.
fn thought_in(content: &Value) -> Option<String> {
    let parts = content.as_array()?.iter();
    Some(parts.filter_map(|part| text_of(part.get("thinking")?)).collect())
}

/// A response, of which pieces have arrived.
struct Assembly {
    /// Name of the model in errors and in the response.
    name: String,
    /// The text so far.
    text: String,
    /// The reasoning so far, which some servers send.
    reasoning: String,
    /// The text of a refusal, which is sent instead of a response.
    refusal: String,
    /// The calls so far. The arguments of any of them may not be complete.
    calls: Vec<ToolCall>,
    /// The number that the provider gives to each call.
    numbers: Vec<u64>,
    /// From the last event.
    usage: Usage,
    /// `None` until the provider says it.
    finish: Option<FinishReason>,
}

impl Assembly {
    /// Nothing has arrived.
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: String::new(),
            reasoning: String::new(),
            refusal: String::new(),
            calls: Vec::new(),
            numbers: Vec::new(),
            usage: Usage::default(),
            finish: None,
        }
    }

    /// Takes the numbers, if they are there. Some servers do not count reasoning as output, which their
    /// total shows.
    fn take_usage(&mut self, body: &Value) {
        let count = |path: &str| body.pointer(path).and_then(Value::as_u64);
        let Some(input_tokens) = count("/usage/prompt_tokens") else { return };
        let output = count("/usage/completion_tokens").unwrap_or(0);
        let reasoning = count("/usage/completion_tokens_details/reasoning_tokens").unwrap_or(0);
        let with_reasoning = output.saturating_add(reasoning);
        let is_apart = count("/usage/total_tokens") == input_tokens.checked_add(with_reasoning);
        self.usage = Usage {
            input_tokens,
            cached_input_tokens: count("/usage/prompt_tokens_details/cached_tokens").unwrap_or(0),
            output_tokens: if is_apart { with_reasoning } else { output },
            reasoning_tokens: reasoning,
        };
    }

    /// Adds a message, or a part of one.
    fn take_delta(&mut self, delta: &Value) -> Vec<StreamEvent> {
        let mut pieces = Vec::new();
        let text = |name: &str| text_of(delta.get(name)?).filter(|it| !it.is_empty());
        // A server that sends both fields sends the same text in both.
        let thought = text("reasoning_content").or_else(|| text("reasoning"));
        let in_list = || thought_in(delta.get("content")?).filter(|it| !it.is_empty());
        if let Some(text) = thought.or_else(in_list) {
            self.reasoning.push_str(&text);
            pieces.push(StreamEvent::Reasoning(text));
        }
        if let Some(text) = text("content") {
            self.text.push_str(&text);
            pieces.push(StreamEvent::Text(text));
        }
        if let Some(text) = text("refusal") {
            self.refusal.push_str(&text);
        }
        let calls = delta.get("tool_calls").and_then(Value::as_array);
        for (place, call) in (0..).zip(calls.into_iter().flatten()) {
            pieces.extend(self.take_call(place, call));
        }
        pieces
    }

    /// Adds a call, or a part of one. Servers number calls from 0 or 1, or give all the same number.
    fn take_call(&mut self, place: u64, call: &Value) -> Option<StreamEvent> {
        let number = call.get("index").and_then(Value::as_u64).unwrap_or(place);
        let text =
            |path: &str| call.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = text("/id");
        let name = text("/function/name");
        // Some servers send the object instead of its text, which is the same here (`body`).
        let arguments = text("/function/arguments");
        let is_other = |known: &ToolCall| {
            let has_other_id = !id.is_empty() && !known.id.is_empty() && known.id != id;
            has_other_id && !name.is_empty()
        };
        // The latest call with this number, unless a new id and name show that another one has
        // begun.
        let known = self.numbers.iter().rposition(|known| *known == number);
        let known = known.filter(|index| !self.calls.get(*index).is_some_and(is_other));
        let index = known.unwrap_or_else(|| {
            let empty = String::new;
            self.calls.push(ToolCall { id: empty(), name: empty(), arguments: empty() });
            self.numbers.push(number);
            self.numbers.len() - 1
        });
        let known = self.calls.get_mut(index)?;
        if known.id.is_empty() {
            known.id.clone_from(&id);
        }
        if known.name.is_empty() {
            known.name.clone_from(&name);
        }
        known.arguments.push_str(&arguments);
        Some(StreamEvent::ToolCall { index, id, name, arguments })
    }

    /// The whole response. An incomplete one is an error, with the usage that is known.
    fn response(&mut self) -> Result<ModelResponse, ModelError> {
        let Some(mut finish_reason) = self.finish.take() else {
            let error = invalid_response(&self.name, "ended before it was complete");
            return Err(error.with_usage(self.usage));
        };
        let mut content = Vec::new();
        if !self.reasoning.is_empty() {
            let text = std::mem::take(&mut self.reasoning);
            content.push(Part::Reasoning { text, signature: None });
        }
        // A refusal has a reason of its own in the response, but the reason of the end is an
        // ordinary one.
        if !self.refusal.is_empty() {
            finish_reason = FinishReason::Refusal;
            self.text = std::mem::take(&mut self.refusal);
        }
        if !self.text.is_empty() {
            content.push(Part::Text { text: std::mem::take(&mut self.text) });
        }
        content.extend(std::mem::take(&mut self.calls).into_iter().map(Part::ToolCall));
        let response = ModelResponse::new(content).with_finish_reason(finish_reason);
        Ok(response.with_model(self.name.as_str()).with_usage(self.usage))
    }
}

impl Assemble for Assembly {
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        self.take_usage(event);
        let Some(choice) = event.pointer("/choices/0") else { return Ok(Vec::new()) };
        self.finish = finish(choice).or(self.finish.take());
        Ok(choice.get("delta").map(|delta| self.take_delta(delta)).unwrap_or_default())
    }

    /// Without the marker, the event with the usage may be missing. A refusal is complete nevertheless,
    /// because another request would be refused, too.
    fn end(&mut self, is_marked: bool) -> Result<Option<StreamEvent>, ModelError> {
        if !is_marked && self.finish != Some(FinishReason::Refusal) {
            return Ok(None);
        }
        Ok(Some(StreamEvent::Finished(self.response()?)))
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}
