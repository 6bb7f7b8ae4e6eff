//! A model with a script.
//!
//! A script that is too short is an error with a code of its own, and one that is too long is found
//! by `assert_finished`, so a test can't pass by accident.

use std::collections::VecDeque;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
    ModelStream, whole,
};

/// A model that gives an exact sequence of responses and errors, and remembers the requests.
///
/// # Examples
///
/// ```
/// use aios_llm::{
///     model::{LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse},
///     testing::ScriptedModel,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let model = ScriptedModel::with_results([
///     Err(ModelError::new(ModelErrorKind::Overloaded, "try later")),
///     Ok(ModelResponse::text("Hello")),
/// ]);
/// let request = ModelRequest::new("Hi");
/// assert!(model.complete(&request).await.is_err());
/// assert!(model.complete(&request).await.is_ok());
/// model.assert_finished();
/// # }
/// ```
#[derive(Debug)]
pub struct ScriptedModel {
    /// Used in responses without a name.
    name: String,
    /// All, unless they are set.
    capabilities: Capabilities,
    state: Mutex<State>,
}

/// The content of the lock.
#[derive(Debug)]
struct State {
    /// Those that are left.
    responses: VecDeque<Result<ModelResponse, ModelError>>,
    /// All that were made.
    requests: Vec<ModelRequest>,
}

impl ScriptedModel {
    /// A model with these responses, in order.
    #[must_use]
    pub fn new(responses: impl IntoIterator<Item = ModelResponse>) -> Self {
        Self::with_results(responses.into_iter().map(Ok))
    }

    /// A model with these responses and errors, in order.
    #[must_use]
    pub fn with_results(
        results: impl IntoIterator<Item = Result<ModelResponse, ModelError>>,
    ) -> Self {
        let state = State { responses: results.into_iter().collect(), requests: Vec::new() };
        Self {
            name: "test:scripted".to_owned(),
            capabilities: Capabilities::all(),
            state: Mutex::new(state),
        }
    }

    /// Sets the name of the model.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the capabilities of the model.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<ModelRequest> {
        self.state.lock().requests.clone()
    }

    /// Checks that every response was requested.
    ///
    /// # Panics
    ///
    /// If responses are left.
    #[track_caller]
    pub fn assert_finished(&self) {
        let left = self.state.lock().responses.len();
        assert!(left == 0, "{left} scripted responses of {} were never requested", self.name);
    }
}

#[async_trait]
impl LanguageModel for ScriptedModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let mut state = self.state.lock();
        state.requests.push(request.clone());
        let count = state.requests.len();
        let next = state.responses.pop_front();
        drop(state);
        let mut response = next.unwrap_or_else(|| {
            let reason = format!("{} has no response for request {count}", self.name);
            Err(ModelError::new(ModelErrorKind::UnexpectedRequest, reason))
        })?;
        if response.model.is_empty() {
            response.model.clone_from(&self.name);
        }
        Ok(response)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(whole(self.complete(request).await?))
    }
}
