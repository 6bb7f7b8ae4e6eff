//! A cache of responses in memory.
//!
//! The key is the digest of the whole request, including tools and options. Responses that were cut
//! off or refused are not kept. A cached response has no usage, because nothing is billed for it.
//! Two equal requests at the same time are both made.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use hashlink::LruCache;
use parking_lot::Mutex;

use crate::model::{
    Capabilities, FinishReason, LanguageModel, ModelError, ModelRequest, ModelResponse,
    ModelStream, StreamEvent, Usage, whole,
};

/// Answers equal requests with the response to the first one, without usage.
///
/// It keeps the latest complete responses in memory, up to its capacity. Whether equal requests may
/// have equal answers is up to you: agents that should try again differently need no cache.
///
/// # Examples
///
/// ```
/// use aios_llm::{LanguageModel, ModelRequest, ModelResponse, middleware::Cache, testing::ScriptedModel};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_llm::ModelError> {
/// // The script has one response; a second request would fail.
/// let model = Cache::new(ScriptedModel::new([ModelResponse::text("Paris")]), 1_000);
/// let request = ModelRequest::new("What is the capital of France?");
/// let first = model.complete(&request).await?;
/// let second = model.complete(&request).await?;
/// assert_eq!(first.output_text(), second.output_text());
/// # Ok(())
/// # }
/// ```
pub struct Cache<M> {
    /// The wrapped model.
    model: M,
    /// By digest. Shared with streams that are not complete.
    responses: Arc<Mutex<LruCache<String, ModelResponse>>>,
}

impl<M: LanguageModel> Cache<M> {
    /// Wraps a model, and keeps at most `capacity` responses.
    #[must_use]
    pub fn new(model: M, capacity: usize) -> Self {
        Self { model, responses: Arc::new(Mutex::new(LruCache::new(capacity))) }
    }

    /// A known response, without its usage.
    fn known(&self, digest: &str) -> Option<ModelResponse> {
        let mut responses = self.responses.lock();
        responses.get(digest).cloned().map(|response| response.with_usage(Usage::default()))
    }
}

/// Keeps a response if it is complete.
fn keep(
    responses: &Mutex<LruCache<String, ModelResponse>>,
    digest: &str,
    response: &ModelResponse,
) {
    if matches!(response.finish_reason, FinishReason::Stop | FinishReason::ToolCalls) {
        let mut responses = responses.lock();
        responses.insert(digest.to_owned(), response.clone());
    }
}

#[async_trait]
impl<M: LanguageModel> LanguageModel for Cache<M> {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn names(&self) -> Vec<&str> {
        self.model.names()
    }

    fn capabilities(&self) -> Capabilities {
        self.model.capabilities()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let digest = request.digest();
        if let Some(known) = self.known(&digest) {
            return Ok(known);
        }
        let response = self.model.complete(request).await?;
        keep(&self.responses, &digest, &response);
        Ok(response)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let digest = request.digest();
        if let Some(known) = self.known(&digest) {
            return Ok(whole(known));
        }
        let stream = self.model.stream(request).await?;
        let responses = Arc::clone(&self.responses);
        Ok(Box::pin(stream.inspect(move |event| {
            if let Ok(StreamEvent::Finished(response)) = event {
                keep(&responses, &digest, response);
            }
        })))
    }
}

impl<M: LanguageModel> fmt::Debug for Cache<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Cache").field(&self.model.name()).finish()
    }
}
