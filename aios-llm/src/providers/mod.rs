//! Models of providers over HTTP.
//!
//! | model | protocol |
//! |---|---|
//! | [`OpenAiModel`] | chat completions of `OpenAI`, which many providers and local servers speak as well; Ollama |
//! | [`OpenAiResponsesModel`] | responses of `OpenAI` |
//! | [`AnthropicModel`] | messages of Anthropic |
//! | [`GeminiModel`] | the Gemini API of Google |
//! | [`BedrockModel`] | the Converse API of Amazon Bedrock |
//!
//! A call makes one request: it is not retried here, and redirects are not followed. TLS is rustls
//! with ring.
//!
//! ```no_run
//! use aios_llm::{LlmAgent, providers::{AnthropicModel, ProviderOptions}};
//!
//! # fn example(key: String) -> Result<(), aios_llm::ModelError> {
//! let model = AnthropicModel::new(ProviderOptions::new("claude-sonnet-4-5").with_api_key(key))?;
//! let agent = LlmAgent::new(model).max_output_tokens(4096);
//! # Ok(())
//! # }
//! ```
//!
//! # Structure
//!
//! | module | contents |
//! |---|---|
//! | `openai`, `responses`, `anthropic`, `gemini`, `bedrock` | one protocol each: the body of a request, and the response |
//! | `connection`, `options`, `key` | the HTTP client, options, and the key, which no error shows |
//! | `body` | JSON of all protocols |
//! | `stream`, `aws_events` | the frames of a stream, and the assembly of a response from them |
//! | `events` | events of streams that programs receive with a client of their own |
//! | `error` | errors of all protocols |
//! | `signature`, `signer` | marks of signed reasoning, and signatures of requests to AWS |
//!
//! An adapter has three parts: it writes a request in the words of its protocol, reads a whole
//! response, and builds one from the events of a stream with an `Assembly`. A response is complete
//! only if the provider has said why it ended. Everything else is an error, so that a response that
//! was cut off is never taken for a short one.

mod anthropic;
mod aws_events;
mod bedrock;
mod body;
mod connection;
mod error;
mod events;
mod gemini;
mod key;
mod openai;
mod options;
mod responses;
mod signature;
mod signer;
mod stream;

pub use self::{
    anthropic::AnthropicModel, bedrock::BedrockModel, error::read_retry_after, error::status_error,
    events::ResponseEvents, gemini::GeminiModel, openai::OpenAiModel, options::ProviderOptions,
    responses::OpenAiResponsesModel, signer::AwsCredentials,
};

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::model::{LanguageModel, ModelError, ModelErrorKind};

/// The names that [`connect`] takes.
pub const PROVIDERS: &[&str] =
    &["openai", "openai-responses", "anthropic", "gemini", "bedrock", "ollama"];

/// Creates a model of a provider that is named by a setting, one of [`PROVIDERS`]: `openai` stands for
/// chat completions.
///
/// # Errors
///
/// `MODEL_INVALID_REQUEST` if there is no such provider, or an option is invalid.
///
/// # Examples
///
/// A model that is chosen by a setting, on a server on this machine:
///
/// ```
/// use aios_llm::providers::{ProviderOptions, connect};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let options = ProviderOptions::new("llama3.2").with_base_url("http://127.0.0.1:11434");
/// let model = connect("ollama", options)?;
/// assert_eq!(model.name(), "ollama:llama3.2");
///
/// let error = connect("olama", ProviderOptions::new("llama3.2")).err().map(|error| error.to_string());
/// assert!(error.is_some_and(|error| error.contains("known are")));
/// # Ok(())
/// # }
/// ```
pub fn connect(
    provider: &str,
    options: ProviderOptions,
) -> Result<Arc<dyn LanguageModel>, ModelError> {
    Ok(match provider {
        "openai" => Arc::new(OpenAiModel::new(options)?),
        "openai-responses" => Arc::new(OpenAiResponsesModel::new(options)?),
        "anthropic" => Arc::new(AnthropicModel::new(options)?),
        "gemini" => Arc::new(GeminiModel::new(options)?),
        "bedrock" => Arc::new(BedrockModel::new(options)?),
        "ollama" => Arc::new(OpenAiModel::ollama(options)?),
        _ => {
            let known = PROVIDERS.join(", ");
            let reason = format!("there is no provider {provider:?}; known are {known}");
            return Err(ModelError::new(ModelErrorKind::InvalidRequest, reason));
        }
    })
}

/// Longest name of a schema or a tool, and longest id of a call.
const MAX_NAME: usize = 64;

/// Whether a letter is allowed in names by all providers.
fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')
}

/// The name of a schema as `OpenAI` accepts it.
fn schema_name(name: &str) -> String {
    let name: String = name.chars().filter(|it| is_of_name(*it)).take(MAX_NAME).collect();
    if name.is_empty() { "output".to_owned() } else { name }
}

/// A schema whose objects have no other properties than those that it names, unless it says otherwise.
/// Some providers accept only these.
fn closed(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut closed: Map<_, _> =
        fields.iter().map(|(name, it)| (name.clone(), within(name, it))).collect();
    let of_object = |kind: &Value| {
        kind == "object"
            || kind.as_array().is_some_and(|kinds| kinds.iter().any(|it| it == "object"))
    };
    if fields.get("type").is_some_and(of_object) {
        closed.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    closed.into()
}

/// A field of a schema, with the schemas in it closed. Others are data, such as a default.
fn within(name: &str, field: &Value) -> Value {
    match (name, field) {
        ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
            named.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect()
        }
        ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
            schemas.iter().map(closed).collect()
        }
        ("items" | "additionalProperties", schema) => closed(schema),
        (_, data) => data.clone(),
    }
}

/// The name of a tool in a call that goes back to a provider. Models invent names that providers
/// reject in requests.
fn tool_name(name: &str) -> String {
    let valid = |letter: char| if is_of_name(letter) { letter } else { '_' };
    let name: String = name.chars().map(valid).take(MAX_NAME).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// The id of a call as providers accept it that allow few letters. Another provider may have made it.
/// The same id always becomes the same one, and different ids become different ones.
fn call_id(id: &str) -> String {
    let is_valid = (1..=MAX_NAME).contains(&id.len()) && id.chars().all(is_of_name);
    if is_valid { id.to_owned() } else { signer::sha256(id.as_bytes()) }
}

/// The id of a call as providers accept it that limit only its length. Calls and results with the same
/// id stay together.
fn id_within(id: &str, most: usize) -> String {
    if id.len() <= most {
        return id.to_owned();
    }
    signer::sha256(id.as_bytes()).chars().take(most).collect()
}

/// The arguments of a call in a response, as a text. Those that are an object are one already, see
/// [`body`].
fn arguments(field: Option<&Value>) -> String {
    match field {
        Some(Value::String(text)) => text.clone(),
        field => field.map(Value::to_string).unwrap_or_default(),
    }
}

/// The arguments of a call that goes back to a provider, which accepts only an object. The result of
/// the call says that others were invalid. An object stays as the model wrote it, see [`body`].
fn sent_arguments(arguments: &str) -> Value {
    body::marked(sent_arguments_text(arguments))
}

/// The arguments of a call that goes back to a provider, as a text. An object stays as the model wrote
/// it.
fn sent_arguments_text(arguments: &str) -> &str {
    let is_object = serde_json::from_str(arguments).is_ok_and(|it: Value| it.is_object());
    if is_object { arguments } else { "{}" }
}

/// The parts of a message of the model without reasoning at its end, which providers reject. A response
/// consists of reasoning only if it was cut off, or has no other text than blanks.
fn without_last_reasoning(
    parts: impl Iterator<Item = Value>,
    is_reasoning: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut parts: Vec<_> = parts.collect();
    while parts.pop_if(|part| is_reasoning(part)).is_some() {}
    parts
}

/// The messages of a request as providers accept them that want turns: those without content are left
/// out, and those of the same role are one.
fn in_turns(messages: impl IntoIterator<Item = Value>) -> Vec<Value> {
    // The parts are taken out of the message, not copied.
    let parts = |message: &mut Value| match message.get_mut("content").map(Value::take) {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    let mut turns: Vec<Value> = Vec::new();
    for mut message in messages {
        let added = parts(&mut message);
        let role = message.get("role").cloned();
        let earlier = turns.pop_if(|last| last.get("role") == role.as_ref());
        let mut all = earlier.map_or_else(Vec::new, |mut earlier| parts(&mut earlier));
        all.extend(added);
        if !all.is_empty() {
            turns.push(json!({"role": role, "content": all}));
        }
    }
    turns
}
