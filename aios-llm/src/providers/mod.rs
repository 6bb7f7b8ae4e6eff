//! Models of providers over HTTP.
//!
//! [`OpenAiModel`] speaks the chat completions of `OpenAI`, which many providers and local servers
//! speak as well, and [`AnthropicModel`] the messages of Anthropic. A call makes one request: it is
//! not retried here, and redirects are not followed. TLS is rustls with ring.
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
mod connection;
mod error;
mod openai;
mod options;
mod server_events;

pub use self::{
    anthropic::AnthropicModel, error::status_error, openai::OpenAiModel, options::ProviderOptions,
};
