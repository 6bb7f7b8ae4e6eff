//! A model that is a function.

use std::{fmt, future::Future};

use aios_core::BoxFuture;
use async_trait::async_trait;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelRequest, ModelResponse, ModelStream, whole,
};

/// The function, with its future boxed.
type Function =
    dyn Fn(ModelRequest) -> BoxFuture<'static, Result<ModelResponse, ModelError>> + Send + Sync;

/// A model that answers with a function.
///
/// # Examples
///
/// ```
/// use aios_llm::{ModelResponse, testing::FunctionModel};
///
/// let model = FunctionModel::new(|request| async move {
///     Ok(ModelResponse::text(format!("{} messages", request.messages.len())))
/// });
/// # drop(model);
/// ```
pub struct FunctionModel {
    /// Used in responses without a name.
    name: String,
    /// All, unless they are set.
    capabilities: Capabilities,
    /// Called once per request.
    function: Box<Function>,
}

impl FunctionModel {
    /// A model with all capabilities that answers with an async function.
    #[must_use]
    pub fn new<F, Fut>(function: F) -> Self
    where
        F: Fn(ModelRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ModelResponse, ModelError>> + Send + 'static,
    {
        let function =
            Box::new(move |request| -> BoxFuture<'static, _> { Box::pin(function(request)) });
        Self { name: "test:function".to_owned(), capabilities: Capabilities::all(), function }
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
}

#[async_trait]
impl LanguageModel for FunctionModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let mut response = (self.function)(request.clone()).await?;
        if response.model.is_empty() {
            response.model.clone_from(&self.name);
        }
        Ok(response)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(whole(self.complete(request).await?))
    }
}

impl fmt::Debug for FunctionModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FunctionModel").field("name", &self.name).finish_non_exhaustive()
    }
}
