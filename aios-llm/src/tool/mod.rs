//! Tools: async functions that a model can call.
//!
//! | module | contents |
//! |---|---|
//! | `effect`, `write_log` | what happens to a call that a crash interrupts |
//! | `approval` | decisions of persons |
//! | `child` | tools that are child runs |
//! | `context` | what a function gets |
//! | `returned` | which failures are those of the function itself |
//!
//! A tool is a value: name, description, schema and function. It is checked and compiled when its
//! agent is built. Arguments are checked against the schema by the workflow, before a task is
//! assigned, and decoded as the Rust type by the process that runs the tool.

mod approval;
mod child;
mod context;
mod effect;
mod returned;
mod write_log;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    agent::{ResultExt, TaskError},
    catalog::codes,
    event::Payload,
    failure::{Details, Failure},
    retry::RetryPolicy,
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::{
    approval::{Approval, Decision, InDoubt, PendingDecision, Resolution},
    child::OnFailure,
    context::ToolContext,
    effect::Effect,
};
pub(crate) use self::{
    child::{Assignment, Child},
    context::Progress,
    returned::is_returned,
    write_log::{WriteLog, WriteState},
};
use crate::{
    guardrail::{self, Check, Verdict},
    schema::{Schema, decode_text, schema_of},
};

/// Calls the function with valid arguments, and returns its result.
type Function =
    dyn Fn(ToolContext, Payload) -> BoxFuture<'static, Result<Returned, TaskError>> + Send + Sync;

/// The result of a function that has succeeded.
enum Returned {
    /// The name that the model sees.
    Text(String),
    /// It can't be encoded, for this reason.
    NotEncodable(TaskError),
}

/// A function that a model can call.
///
/// The function runs at least once for each call: the process may die after the work and before its
/// result is recorded. The [`Effect`] says what happens then.
///
/// ```
/// use aios_llm::tool::Tool;
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct City {
///     /// Name of the city.
///     name: String,
/// }
///
/// async fn temperature(city: City) -> Result<f64, std::io::Error> {
///     Ok(if city.name == "Oslo" { -3.5 } else { 20.0 })
/// }
///
/// let tool = Tool::read("temperature", "Returns the temperature of a city in °C.", temperature);
/// assert_eq!(tool.name(), "temperature");
/// ```
#[derive(Clone)]
pub struct Tool {
    /// As the model calls it.
    pub(crate) name: String,
    /// Description for the model.
    pub(crate) description: String,
    /// JSON Schema of an object.
    pub(crate) parameters: Value,
    /// Decides about repetitions.
    pub(crate) effect: Effect,
    /// Whether calls need approval.
    pub(crate) approval: Approval,
    /// Timeout of one attempt.
    pub(crate) timeout: Duration,
    /// Retry policy of failed attempts, performed by the engine.
    pub(crate) retry: RetryPolicy,
    /// Maximum size of the text of a result.
    pub(crate) max_result_bytes: usize,
    /// Accepts arguments that match the schema, or does not. For those that a person has edited: the
    /// function checks its arguments itself.
    pub(crate) check: Option<Arc<Check>>,
    /// Maximum number of calls at a time in each process, or of child runs of one response; `None`: not
    /// limited here.
    concurrency: Option<usize>,
    /// The function, or the child run.
    work: Work,
}

/// The work of a call.
#[derive(Clone)]
enum Work {
    /// Runs on a process of the agent's tools.
    Function(Arc<Function>),
    /// Runs as a child of the run.
    Child(Child),
}

/// A tool whose schema is compiled.
#[derive(Debug)]
pub(crate) struct CompiledTool {
    /// The tool as it was defined.
    pub(crate) tool: Tool,
    /// The schema of its arguments.
    pub(crate) schema: Schema,
    /// A permit for each call that may run at once, if their number is limited.
    places: Option<Semaphore>,
}

impl CompiledTool {
    /// Creates the permits, if calls are limited.
    pub(crate) fn new(tool: Tool, schema: Schema) -> Self {
        let places =
            tool.concurrency.map(|calls| Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)));
        Self { tool, schema, places }
    }

    /// Waits until the call may run, and returns its permit.
    pub(crate) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        match &self.places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        }
    }
}

impl Tool {
    /// Default timeout of one attempt.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
    /// Default maximum size of a result, in bytes.
    pub const DEFAULT_MAX_RESULT_BYTES: usize = 256 * 1024;

    /// A tool that changes nothing. It may run again after a crash.
    #[must_use]
    pub fn read<P, T, E, F, Fut>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: F,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        T: Serialize,
        E: Into<TaskError>,
        F: Fn(P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        Self::with_context(name, description, Effect::Read, move |_, parameters| {
            function(parameters)
        })
    }

    /// A tool whose repetition has no further effect. It may run again after a crash.
    #[must_use]
    pub fn idempotent<P, T, E, F, Fut>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: F,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        T: Serialize,
        E: Into<TaskError>,
        F: Fn(P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        Self::with_context(name, description, Effect::Idempotent, move |_, parameters| {
            function(parameters)
        })
    }

    /// A tool that must not be repeated. A call whose outcome is unknown, for example after a crash, is in
    /// doubt: a person decides how it ended, see [`Resolution`]. An error of the function is a known
    /// outcome, unless its code is `WRITE_IN_DOUBT`. The agent needs a
    /// [write log](crate::LlmAgent::write_log).
    #[must_use]
    pub fn write<P, T, E, F, Fut>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: F,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        T: Serialize,
        E: Into<TaskError>,
        F: Fn(P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        Self::with_context(name, description, Effect::Write, move |_, parameters| {
            function(parameters)
        })
    }

    /// A tool of any effect class whose function receives the [`ToolContext`].
    #[must_use]
    pub fn with_context<P, T, E, F, Fut>(
        name: impl Into<String>,
        description: impl Into<String>,
        effect: Effect,
        function: F,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        T: Serialize,
        E: Into<TaskError>,
        F: Fn(ToolContext, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let call = move |context: ToolContext, arguments: Payload| {
            // The schema may accept more than the type does, so decoding can fail.
            let running = decode_text::<P>(arguments.as_str());
            let running = running.map(|arguments| function(context, arguments));
            async move {
                let running = running
                    .map_err(|fault| TaskError::invalid_parameters(&[(String::new(), fault)]))?;
                let result = running.await.map_err(Into::into)?;
                Ok(match Payload::encode(&result).terminal() {
                    Ok(result) => Returned::Text(result_text(&result)),
                    Err(error) => Returned::NotEncodable(error),
                })
            }
        };
        Self::function(name.into(), description.into(), effect, schema_of::<P>(), call)
            .with_argument_check(|arguments| async move {
                let fault = decode_text::<P>(arguments.as_str()).err();
                Ok::<_, TaskError>(fault.map_or(Verdict::Pass, Verdict::trip))
            })
    }

    /// A tool whose parameters are described by a JSON Schema of an object, for tools that are not
    /// written in Rust. The function gets arguments that match the schema. They and the result are JSON
    /// as it was written, so no number loses its precision.
    #[must_use]
    pub fn from_schema<F, Fut>(
        name: impl Into<String>,
        description: impl Into<String>,
        effect: Effect,
        parameters: Value,
        function: F,
    ) -> Self
    where
        F: Fn(ToolContext, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, TaskError>> + Send + 'static,
    {
        let call = move |context: ToolContext, arguments: Payload| {
            let running = function(context, arguments);
            async move { running.await.map(|result| Returned::Text(result_text(&result))) }
        };
        Self::function(name.into(), description.into(), effect, parameters, call)
    }

    /// A tool that is a function.
    fn function<F, Fut>(
        name: String,
        description: String,
        effect: Effect,
        parameters: Value,
        function: F,
    ) -> Self
    where
        F: Fn(ToolContext, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Returned, TaskError>> + Send + 'static,
    {
        let function = move |context: ToolContext, arguments: Payload| -> BoxFuture<'static, _> {
            Box::pin(function(context, arguments))
        };
        Self::of(name, description, effect, parameters, Work::Function(Arc::new(function)))
    }

    /// A tool with the default options.
    fn of(
        name: String,
        description: String,
        effect: Effect,
        parameters: Value,
        work: Work,
    ) -> Self {
        Self {
            name,
            description,
            parameters,
            effect,
            approval: Approval::NotRequired,
            timeout: Self::DEFAULT_TIMEOUT,
            retry: RetryPolicy::default(),
            max_result_bytes: Self::DEFAULT_MAX_RESULT_BYTES,
            check: None,
            concurrency: None,
            work,
        }
    }

    /// Sets whether each call needs approval. The default is [`Approval::NotRequired`].
    #[must_use]
    pub fn with_approval(mut self, approval: Approval) -> Self {
        self.approval = approval;
        self
    }

    /// Sets a check of arguments that a person has edited and that match the schema: if it trips, the edit
    /// is refused with the reason. It runs on the processes of the agent's tools. Tools with a type in Rust
    /// check that the arguments can be decoded as that type. Without effect on tools that are child runs.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_core::{agent::TaskError, event::Payload};
    /// use aios_llm::{guardrail::Verdict, tool::{Effect, Tool}};
    /// use serde_json::json;
    ///
    /// let schema = json!({"type": "object", "properties": {"host": {"type": "string"}}});
    /// let ping = |_, _| async { Ok(Payload::null()) };
    /// let tool = Tool::from_schema("ping", "Pings a host.", Effect::Read, schema, ping)
    ///     .with_argument_check(|arguments| async move {
    ///         let is_secret = arguments.as_str().contains(".internal");
    ///         let verdict = if is_secret { Verdict::trip("the host is secret") } else { Verdict::Pass };
    ///         Ok::<_, TaskError>(verdict)
    ///     });
    /// # drop(tool);
    /// ```
    #[must_use]
    pub fn with_argument_check<E, F, Fut>(mut self, check: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
    {
        if let Work::Function(_) = self.work {
            self.check = Some(guardrail::boxed(check));
        }
        self
    }

    /// Sets the timeout of one attempt: at least 1 ms, at most 100 years. The default is
    /// [`DEFAULT_TIMEOUT`](Self::DEFAULT_TIMEOUT), 60 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many calls run at once, if that is limited.
    pub(crate) fn concurrency(&self) -> Option<usize> {
        self.concurrency
    }

    /// Sets how many calls run at once in each process; 0 counts as 1. Further ones wait, which counts
    /// towards their timeout. Without it, only the host limits them.
    ///
    /// Of a tool that is an agent or a workflow, it is how many calls of one response run at once.
    #[must_use]
    pub fn with_concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Sets the retry policy of failed attempts. A `write` tool is not retried after it began. The
    /// default is [`RetryPolicy::new`], five attempts.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the maximum size of a result, in bytes. A larger one is an error for the model. If the tool
    /// is not a [`read`](Self::read) tool, it is left out instead, and the model is only told that the call
    /// succeeded. The message of a failure is cut to this size, and larger details are left out. The default is
    /// [`DEFAULT_MAX_RESULT_BYTES`](Self::DEFAULT_MAX_RESULT_BYTES), 256 KiB.
    #[must_use]
    pub fn with_max_result_bytes(mut self, bytes: usize) -> Self {
        self.max_result_bytes = bytes;
        self
    }

    /// Name of the tool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The effect class.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Runs the function and limits the size of its result.
    ///
    /// A result that can't be shown is no failure of a call that has changed something: the model would
    /// make it again.
    pub(crate) async fn run(
        &self,
        context: ToolContext,
        arguments: Payload,
    ) -> Result<String, TaskError> {
        let Work::Function(function) = &self.work else {
            let reason = format!("tool {} is a run, not a function", self.name);
            return Err(TaskError::terminal(Failure::new(codes::INVALID_LLM_AGENT, reason)));
        };
        let returned = function(context, arguments).await.map_err(|error| self.failed(error))?;
        match returned {
            Returned::Text(text) if self.has_effect() => Ok(self.shown(text)),
            Returned::Text(text) => {
                self.limited(text).map_err(|failure| self.failed(TaskError::terminal(failure)))
            }
            Returned::NotEncodable(error) if self.has_effect() => {
                Ok(left_out(&self.shortened(error.failure).message))
            }
            Returned::NotEncodable(error) => Err(self.failed(error)),
        }
    }

    /// A failure of the function, marked as such.
    fn failed(&self, error: TaskError) -> TaskError {
        let TaskError { failure, retryable, .. } = error;
        let failure = returned::returned(self.shortened(failure));
        TaskError::retryable(failure).with_retryable(retryable)
    }

    /// Whether a call may have changed something.
    fn has_effect(&self) -> bool {
        self.effect != Effect::Read
    }

    /// A failure of the tool, without details that are longer than a result may be. Its message is cut
    /// to that length.
    pub(crate) fn shortened(&self, mut failure: Failure) -> Failure {
        if failure.details.as_str().len() > self.max_result_bytes {
            failure.details = Details::default();
        }
        let message = &mut failure.message;
        let bytes = message.len();
        if bytes > self.max_result_bytes {
            message.truncate(message.floor_char_boundary(self.max_result_bytes));
            message.push_str(&format!(" … (cut; the message has {bytes} bytes)"));
        }
        failure
    }

    /// The result of a call that must not be repeated, or why it is left out.
    pub(crate) fn shown(&self, text: String) -> String {
        let (bytes, most) = (text.len(), self.max_result_bytes);
        if bytes <= most {
            return text;
        }
        left_out(&format!("it has {bytes} bytes, and the limit is {most} bytes"))
    }

    /// A result, unless it is too large.
    fn limited(&self, text: String) -> Result<String, Failure> {
        if text.len() <= self.max_result_bytes {
            return Ok(text);
        }
        let bytes = text.len();
        let most = self.max_result_bytes;
        let reason = format!(
            "the result of tool {} has {bytes} bytes, more than the limit of {most}; \
             ask for less, or raise `max_result_bytes`",
            self.name
        );
        Err(Failure::new(codes::TOOL_RESULT_TOO_LARGE, reason))
    }
}

/// The result of a call that has succeeded and whose own result can't be shown.
pub(crate) fn left_out(reason: &str) -> String {
    format!("The call succeeded, so do not repeat it. Its result is left out: {reason}.")
}

/// The result as the model sees it: a text as it is, everything else as JSON.
pub(crate) fn result_text(result: &Payload) -> String {
    result.decode::<String>().unwrap_or_else(|_| result.as_str().to_owned())
}

impl fmt::Debug for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tool")
            .field("name", &self.name)
            .field("effect", &self.effect)
            .field("approval", &self.approval)
            .finish_non_exhaustive()
    }
}
