//! The protocol of `OpenAI`: responses.
//!
//! A conversation is a list of items: messages, calls, results and reasoning. Nothing is stored at
//! the provider (`store: false`), so its reasoning comes encrypted, and the whole item is kept as
//! the signature of the reasoning and sent back as it is. Comments on the way to an answer, which newer
//! models distinguish from it, are reasoning as well.
//!
//! The last event of a stream has the whole response, so pieces are only passed on, and nothing has
//! to be put together from them.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{
    ProviderOptions,
    connection::Connection,
    error::{check_event, invalid_response, of_event, unsupported},
    id_within,
    openai::LEAST_OUTPUT_TOKENS,
    schema_name, sent_arguments_text, signature,
    stream::{self, Assemble, Framing},
    tool_name, without_last_reasoning,
};
use crate::model::{
    Capabilities, FinishReason, ImageSource, LanguageModel, Message, ModelError, ModelRequest,
    ModelResponse, ModelStream, Part, Role, StreamEvent, ToolCall, ToolChoice, Usage,
};

/// The default base URL.
const URL: &str = "https://api.openai.com/v1";
/// The longest id of a call that the protocol accepts.
const MAX_CALL_ID: usize = 64;
/// The phases of a message of the model.
const COMMENT: &str = "commentary";
const ANSWER: &str = "final_answer";
/// The only path that is used.
const PATH: &str = "responses";
/// Prefix of the name of the model, and of the mark of signatures.
const PROVIDER: &str = "openai";

/// A model behind the responses of `OpenAI`, the successor of chat completions.
///
/// Nothing is stored by the provider: each request has the whole conversation, with the encrypted
/// reasoning of earlier responses. The protocol has no stop texts; a request with some fails with
/// `MODEL_INVALID_REQUEST`. It has no limit below 16 output tokens; a request with a lower one is sent
/// with 16.
///
/// # Examples
///
/// ```
/// use aios_llm::{model::LanguageModel, providers::{OpenAiResponsesModel, ProviderOptions}};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let model = OpenAiResponsesModel::new(ProviderOptions::new("gpt-5").with_api_key("sk-secret"))?;
/// assert_eq!(model.name(), "openai:gpt-5");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OpenAiResponsesModel {
    /// Client, key and name.
    connection: Connection,
    /// Those of the options, or all.
    capabilities: Capabilities,
    /// The mark of signatures. It names the host, because each one encrypts with a key of its own.
    mark: String,
}

impl OpenAiResponsesModel {
    /// Creates the model. Nothing is requested yet. The default base URL is
    /// `https://api.openai.com/v1`.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_REQUEST` if the URL or the key is invalid.
    pub fn new(options: ProviderOptions) -> Result<Self, ModelError> {
        let key = ("authorization", format!("Bearer {}", options.api_key));
        let capabilities = options.capabilities.unwrap_or(Capabilities::all());
        let connection = Connection::new(options, PROVIDER, URL, &[key])?;
        let mark = format!("{PROVIDER}@{}", connection.host);
        Ok(Self { connection, capabilities, mark })
    }

    /// The body of a request. Fails for stop texts, which the protocol does not have.
    fn body(&self, request: &ModelRequest) -> Result<Map<String, Value>, ModelError> {
        if !request.stop.is_empty() {
            return Err(unsupported(&self.connection.name, "texts that end the response"));
        }
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("model", self.connection.model.as_str().into());
        set("input", items_of(&self.mark, &request.messages).into());
        set("store", false.into());
        set("include", json!(["reasoning.encrypted_content"]));
        if let Some(instructions) = &request.instructions {
            set("instructions", instructions.as_str().into());
        }
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|tool| {
                json!({
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": false,
                })
            });
            set("tools", tools.collect());
            set("tool_choice", tool_choice(&request.tool_choice));
        }
        if let Some(output) = &request.output {
            let name = schema_name(&output.name);
            let schema = &output.schema;
            let format =
                json!({"type": "json_schema", "name": name, "schema": schema, "strict": false});
            set("text", json!({ "format": format }));
        }
        if let Some(tokens) = request.max_output_tokens {
            set("max_output_tokens", tokens.max(LEAST_OUTPUT_TOKENS).into());
        }
        if let Some(temperature) = request.temperature {
            set("temperature", temperature.into());
        }
        Ok(body)
    }
}

#[async_trait]
impl LanguageModel for OpenAiResponsesModel {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let body = self.connection.post_whole(PATH, &self.body(request)?.into()).await?;
        read(self.name(), &self.mark, &body)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut body = self.body(request)?;
        body.insert("stream".to_owned(), true.into());
        let response = self.connection.post(PATH, &body.into()).await?;
        let (name, mark) = (self.name().to_owned(), self.mark.clone());
        let assembly = Assembly { name, mark, calls: Vec::new(), comments: Vec::new() };
        Ok(stream::read(&self.connection, response, Framing::ServerEvents, assembly))
    }
}

/// The items of all messages. Models that distinguish comments from answers want to see which is which.
fn items_of(mark: &str, messages: &[Message]) -> Vec<Value> {
    let mut items: Vec<_> = messages.iter().flat_map(|message| items(mark, message)).collect();
    if items.iter().any(is_comment) {
        let messages = items.iter_mut().filter_map(Value::as_object_mut);
        for answer in messages.filter(|it| it.get("role").is_some_and(|it| it == "assistant")) {
            answer.entry("phase").or_insert_with(|| ANSWER.into());
        }
    }
    items
}

/// Whether an item is a message of the model that is not its answer.
fn is_comment(item: &Value) -> bool {
    item.get("phase").is_some_and(|it| it == COMMENT)
}

/// The items of a message.
fn items(mark: &str, message: &Message) -> Vec<Value> {
    match message.role {
        Role::User => {
            let content: Vec<_> = message.content.iter().filter_map(user_part).collect();
            vec![json!({"type": "message", "role": "user", "content": content})]
        }
        Role::Assistant => {
            let items = message.content.iter().filter_map(|it| assistant_item(mark, it));
            without_last_reasoning(items, |item| {
                item.get("type").is_some_and(|it| it == "reasoning")
            })
        }
        Role::Tool => message.content.iter().filter_map(result_item).collect(),
    }
}

/// A part of a message of the user; `None` if the protocol has no place for it.
fn user_part(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({"type": "input_text", "text": text}),
        Part::Image { source } => {
            let url = match source {
                ImageSource::Url(url) => url.clone(),
                ImageSource::Base64 { media_type, data } => {
                    format!("data:{media_type};base64,{data}")
                }
            };
            json!({"type": "input_image", "detail": "auto", "image_url": url})
        }
        Part::File { reference, .. } if reference.contains("://") => {
            json!({"type": "input_file", "file_url": reference})
        }
        Part::File { reference, .. } => json!({"type": "input_file", "file_id": reference}),
        _ => return None,
    })
}

/// An item of the model; `None` if it must not be sent.
fn assistant_item(mark: &str, part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        // Reasoning without the item that this server has encrypted is rejected.
        Part::Reasoning { signature, .. } => {
            serde_json::from_str(signature::of(mark, signature.as_deref()?)?).ok()?
        }
        Part::ToolCall(call) => json!({
            "type": "function_call",
            "call_id": id_within(&call.id, MAX_CALL_ID),
            "name": tool_name(&call.name),
            "arguments": sent_arguments_text(&call.arguments),
        }),
        _ => return None,
    })
}

/// The result of a call, as an item.
fn result_item(part: &Part) -> Option<Value> {
    let Part::ToolResult(result) = part else { return None };
    let id = id_within(&result.call_id, MAX_CALL_ID);
    let output = &result.content;
    Some(json!({"type": "function_call_output", "call_id": id, "output": output}))
}

/// Which tools may be called.
fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Tool(name) => json!({"type": "function", "name": name}),
    }
}

/// Reads a whole response.
fn read(name: &str, mark: &str, body: &Value) -> Result<ModelResponse, ModelError> {
    let text = |value: &Value, path: &str| -> String {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    check_event(name, body).map_err(|error| error.with_usage(usage(body)))?;
    let items = body.get("output").and_then(Value::as_array);
    let mut content = Vec::new();
    let mut is_refusal = false;
    for item in items.into_iter().flatten() {
        match item.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message" if is_comment(item) => content.push(comment(mark, item)),
            "message" => {
                for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                    is_refusal |= part.get("refusal").is_some();
                    let shown = text(part, "/text") + &text(part, "/refusal");
                    content.push(Part::Text { text: shown });
                }
            }
            "reasoning" => content.push(reasoning(mark, item)),
            "function_call" => content.push(Part::ToolCall(ToolCall {
                id: text(item, "/call_id"),
                name: text(item, "/name"),
                arguments: text(item, "/arguments"),
            })),
            _ => {}
        }
    }
    let has_calls = content.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let reason = text(body, "/incomplete_details/reason");
    let finish = match (text(body, "/status").as_str(), reason.as_str()) {
        _ if is_refusal => FinishReason::Refusal,
        ("completed", _) if has_calls => FinishReason::ToolCalls,
        ("completed", _) => FinishReason::Stop,
        ("incomplete", "max_output_tokens") => FinishReason::Length,
        ("incomplete", "content_filter") => FinishReason::Refusal,
        ("incomplete", _) => FinishReason::Other(reason),
        // For example `in_progress`: the connection ended before the response did.
        _ => return Err(invalid_response(name, "is not complete").with_usage(usage(body))),
    };
    let response = ModelResponse::new(content).with_finish_reason(finish);
    Ok(response.with_model(name).with_usage(usage(body)))
}

/// Reasoning, whose item has to be sent back as it is.
fn reasoning(mark: &str, item: &Value) -> Part {
    let parts = item.get("summary").and_then(Value::as_array);
    let texts = parts.into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
    let texts: Vec<_> = texts.collect();
    let is_encrypted = item.get("encrypted_content").is_some_and(Value::is_string);
    let signature = is_encrypted.then(|| signature::mark(mark, &item.to_string()));
    Part::Reasoning { text: texts.join("\n\n"), signature }
}

/// A comment on the way to the answer, whose item has to be sent back with its phase.
fn comment(mark: &str, item: &Value) -> Part {
    let parts = item.get("content").and_then(Value::as_array);
    let texts = parts.into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
    let signature = Some(signature::mark(mark, &item.to_string()));
    Part::Reasoning { text: texts.collect(), signature }
}

/// The numbers of tokens; 0 where there are none.
fn usage(body: &Value) -> Usage {
    let count = |path: &str| body.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        input_tokens: count("/usage/input_tokens"),
        cached_input_tokens: count("/usage/input_tokens_details/cached_tokens"),
        output_tokens: count("/usage/output_tokens"),
        reasoning_tokens: count("/usage/output_tokens_details/reasoning_tokens"),
    }
}

/// Reads a stream, whose last event has the whole response.
struct Assembly {
    /// Name of the model in errors and in the response.
    name: String,
    /// The mark of signatures.
    mark: String,
    /// The places of the calls in the output, in order.
    calls: Vec<u64>,
    /// The places of comments in the output.
    comments: Vec<u64>,
}

impl Assembly {
    /// The number of the call at a place in the output, which has other items as well.
    fn call(&mut self, place: u64) -> usize {
        self.calls.iter().position(|known| *known == place).unwrap_or_else(|| {
            self.calls.push(place);
            self.calls.len() - 1
        })
    }

    /// Takes note of a comment, and announces a call, if the item is one.
    fn begin_item(&mut self, event: &Value, place: u64) -> Option<StreamEvent> {
        let item = event.get("item")?;
        if is_comment(item) {
            self.comments.push(place);
        }
        if item.get("type")? != "function_call" {
            return None;
        }
        let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default().into();
        let id = text("call_id");
        let name = text("name");
        let index = self.call(place);
        Some(StreamEvent::ToolCall { index, id, name, arguments: String::new() })
    }
}

impl Assemble for Assembly {
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError> {
        let place = event.get("output_index").and_then(Value::as_u64).unwrap_or(0);
        let delta = event.get("delta").and_then(Value::as_str).unwrap_or_default().to_owned();
        let piece = match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            "response.output_item.added" => self.begin_item(event, place),
            "response.output_text.delta" if self.comments.contains(&place) => {
                Some(StreamEvent::Reasoning(delta))
            }
            "response.output_text.delta" => Some(StreamEvent::Text(delta)),
            "response.reasoning_summary_text.delta" => Some(StreamEvent::Reasoning(delta)),
            "response.function_call_arguments.delta" => {
                let index = self.call(place);
                Some(StreamEvent::ToolCall {
                    index,
                    id: String::new(),
                    name: String::new(),
                    arguments: delta,
                })
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                let response = event.get("response").unwrap_or(&Value::Null);
                Some(StreamEvent::Finished(read(&self.name, &self.mark, response)?))
            }
            "error" => return Err(of_event(&self.name, &json!({ "error": event }))),
            _ => None,
        };
        Ok(piece.into_iter().collect())
    }

    /// Only the last event has any, and the error of that event takes it.
    fn usage(&self) -> Usage {
        Usage::default()
    }
}
