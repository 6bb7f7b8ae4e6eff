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

mod anthropic;
mod aws_events;
mod bedrock;
mod connection;
mod error;
mod gemini;
mod openai;
mod options;
mod responses;
mod signature;
mod signer;
mod stream;

pub use self::{
    anthropic::AnthropicModel, bedrock::BedrockModel, error::status_error, gemini::GeminiModel,
    openai::OpenAiModel, options::ProviderOptions, responses::OpenAiResponsesModel,
    signer::AwsCredentials,
};

use std::sync::Arc;

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

/// Longest name of a schema.
const MAX_SCHEMA_NAME: usize = 64;

/// The name of a schema as `OpenAI` accepts it.
fn schema_name(name: &str) -> String {
    let is_valid = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let name: String = name.chars().filter(is_valid).take(MAX_SCHEMA_NAME).collect();
    if name.is_empty() { "output".to_owned() } else { name }
}
