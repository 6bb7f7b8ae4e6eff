//! Wrappers around models: another model after a failure, a circuit breaker, a rate limit, a cache.
//!
//! Each is a [`LanguageModel`](crate::LanguageModel) itself, so they can be combined.
//!
//! ```
//! use std::time::Duration;
//!
//! use aios_llm::{
//!     LanguageModel, ModelError, ModelRequest, ModelResponse,
//!     middleware::{CircuitBreaker, Fallback},
//!     model::ModelErrorKind,
//!     testing::ScriptedModel,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ModelError> {
//! let busy = ModelError::new(ModelErrorKind::Overloaded, "busy");
//! let large = CircuitBreaker::new(ScriptedModel::with_results([Err(busy)]), 5, Duration::from_secs(30));
//! let model = Fallback::new(large).or(ScriptedModel::new([ModelResponse::text("Paris")]));
//! let response = model.complete(&ModelRequest::new("What is the capital of France?")).await?;
//! assert_eq!(response.output_text(), "Paris");
//! # Ok(())
//! # }
//! ```
//!
//! The order matters. A circuit breaker inside of a fallback lets the next model answer at once;
//! outside of it, it would only open when all models fail. A rate limit inside of a circuit breaker
//! makes its rejections count as failures; outside, they do not.

mod cache;
mod circuit_breaker;
mod fallback;
mod rate_limit;

pub use self::{
    cache::Cache,
    circuit_breaker::{Circuit, CircuitBreaker},
    fallback::Fallback,
    rate_limit::{Rate, RateLimit},
};
