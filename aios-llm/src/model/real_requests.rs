//! The switch that forbids requests to real providers.
//!
//! It is the only state of this crate that is global to a process: a test sets it once, for models
//! that it does not know of. It is only ever read by adapters, right before a request.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{ModelError, ModelErrorKind};

/// Off unless a program sets it.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Forbids or allows requests to real providers in this process. They are allowed by default.
///
/// Forbid them at the start of tests: a model that was not replaced then fails with
/// `MODEL_REQUEST_FORBIDDEN` instead of spending money. Requests to this machine remain allowed.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "providers")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_llm::ModelError> {
/// use aios_llm::{
///     LanguageModel, ModelRequest,
///     model::forbid_real_requests,
///     providers::{AnthropicModel, ProviderOptions},
/// };
///
/// forbid_real_requests(true);
/// let model = AnthropicModel::new(ProviderOptions::new("claude-sonnet-4-5").with_api_key("key"))?;
/// let error = model.complete(&ModelRequest::new("Hi")).await.unwrap_err();
/// assert_eq!(error.code(), "MODEL_REQUEST_FORBIDDEN");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "providers"))]
/// # fn main() {}
/// ```
pub fn forbid_real_requests(forbidden: bool) {
    FORBIDDEN.store(forbidden, Ordering::SeqCst);
}

/// Checks that requests to real providers are allowed. Every adapter calls this before each request
/// to another machine.
///
/// # Errors
///
/// `MODEL_REQUEST_FORBIDDEN` if they are forbidden.
pub fn check_real_requests(model: &str) -> Result<(), ModelError> {
    if !FORBIDDEN.load(Ordering::SeqCst) {
        return Ok(());
    }
    let reason = format!(
        "requests to real providers are forbidden in this process, and {model} is one; use a model \
         of `aios_llm::testing`, or allow them with `forbid_real_requests(false)`"
    );
    Err(ModelError::new(ModelErrorKind::RequestForbidden, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_forbid_real_requests_until_they_are_allowed() {
        assert!(check_real_requests("m").is_ok());
        forbid_real_requests(true);
        let error = check_real_requests("acme:large").unwrap_err();
        assert_eq!(error.code(), "MODEL_REQUEST_FORBIDDEN");
        assert!(!error.is_retryable() && error.to_string().contains("acme:large"));
        forbid_real_requests(false);
        assert!(check_real_requests("m").is_ok());
    }
}
