//! The model port: one request type, one response type, and errors that say whether to retry.
//!
//! | module | contents |
//! |---|---|
//! | `message` | messages and their parts |
//! | `request`, `response`, `stream` | one request, and its response as a whole or in pieces |
//! | `error` | errors, as values and as recorded failures |
//! | `real_requests` | the switch that forbids requests to real providers |
//!
//! The port is small on purpose: adapters translate, and decide nothing. Retries, budgets and
//! validation are the agent's, and everything else is a wrapper of
//! [`middleware`](crate::middleware).

mod error;
mod message;
mod real_requests;
mod request;
mod response;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use self::request::write_canonical;
pub use self::{
    error::{ModelError, ModelErrorKind},
    message::{ImageSource, Message, Part, Role, ToolCall, ToolResult},
    real_requests::{check_real_requests, forbid_real_requests},
    request::{ModelRequest, OutputSchema, ToolChoice, ToolSpec},
    response::{FinishReason, ModelResponse, ModelUsage, Usage},
    stream::{ModelStream, StreamEvent, collect, whole},
};

/// The features that a model supports. An agent uses the best one available.
///
/// # Examples
///
/// ```
/// use aios_llm::model::Capabilities;
///
/// // A model that calls tools, but can't be held to a schema.
/// let capabilities = Capabilities::none().with_tools(true);
/// assert!(capabilities.tools && !capabilities.native_output);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The model follows [`ModelRequest::output`].
    pub native_output: bool,
    /// The model follows [`ModelRequest::output`] in a request with tools, too. If not, an agent with
    /// tools asks for its output as a call of a tool.
    pub native_output_with_tools: bool,
    /// The model calls tools.
    pub tools: bool,
}

impl Capabilities {
    /// Tools and native output.
    #[must_use]
    pub const fn all() -> Self {
        Self { native_output: true, native_output_with_tools: true, tools: true }
    }

    /// Neither tools nor native output.
    #[must_use]
    pub const fn none() -> Self {
        Self { native_output: false, native_output_with_tools: false, tools: false }
    }

    /// The features that all of several models support.
    ///
    /// All features if there is no model.
    pub(crate) fn shared(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::all(), |shared, own| Self {
            native_output: shared.native_output && own.native_output,
            native_output_with_tools: shared.native_output_with_tools
                && own.native_output_with_tools,
            tools: shared.tools && own.tools,
        })
    }

    /// Sets whether the model follows an output schema, with and without tools.
    #[must_use]
    pub const fn with_native_output(mut self, native_output: bool) -> Self {
        self.native_output = native_output;
        self.native_output_with_tools = native_output;
        self
    }

    /// Sets whether the model follows an output schema in a request with tools, too.
    #[must_use]
    pub const fn with_native_output_with_tools(mut self, with_tools: bool) -> Self {
        self.native_output_with_tools = with_tools;
        self
    }

    /// Sets whether the model calls tools.
    #[must_use]
    pub const fn with_tools(mut self, tools: bool) -> Self {
        self.tools = tools;
        self
    }
}

/// A language model.
///
/// An implementation makes each request once: retries are decided by the caller, who records them.
/// Every network await has a timeout.
///
/// # Examples
///
/// A model of a server of your own. [`whole`] is enough for a server that does not stream:
///
/// ```
/// use aios_llm::model::{
///     Capabilities, LanguageModel, ModelError, ModelRequest, ModelResponse, ModelStream, Usage, whole,
/// };
/// use async_trait::async_trait;
///
/// /// Repeats the last message.
/// struct Echo;
///
/// #[async_trait]
/// impl LanguageModel for Echo {
///     fn name(&self) -> &str {
///         "local:echo"
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         Capabilities::none()
///     }
///
///     async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
///         let text = request.messages.last().map(|last| last.text()).unwrap_or_default();
///         Ok(ModelResponse::text(text).with_usage(Usage::new(10, 5)))
///     }
///
///     async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
///         Ok(whole(self.complete(request).await?))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), ModelError> {
/// assert_eq!(Echo.complete(&ModelRequest::new("Hi")).await?.output_text(), "Hi");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait LanguageModel: Send + Sync + 'static {
    /// Name of the model as in price tables and traces, for example `anthropic:claude-sonnet`.
    fn name(&self) -> &str;

    /// Names of all models that may answer a request, [`name`](Self::name) first. A limit of cost
    /// needs a price for each. A model that asks other models adds their names.
    fn names(&self) -> Vec<&str> {
        vec![self.name()]
    }

    /// The features that the model supports.
    fn capabilities(&self) -> Capabilities;

    /// Makes one request and waits for the whole response.
    ///
    /// # Errors
    ///
    /// [`ModelError`] says what happened, whether another request may succeed, and when.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the request. The provider may bill it nevertheless.
    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError>;

    /// Makes one request and returns the response in pieces. The last event of a stream that
    /// succeeds is [`StreamEvent::Finished`] with the whole response.
    ///
    /// # Errors
    ///
    /// See [`complete`](Self::complete). Errors that occur after the start are items of the stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the stream aborts the request.
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError>;
}

#[async_trait]
impl<M: LanguageModel + ?Sized> LanguageModel for Arc<M> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn names(&self) -> Vec<&str> {
        (**self).names()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        (**self).complete(request).await
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        (**self).stream(request).await
    }
}
