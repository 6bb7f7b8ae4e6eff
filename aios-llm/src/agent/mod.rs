//! Agents over language models: a workflow whose operations are model calls and tool calls.

mod accounting;
mod build;
mod calls;
mod compiled;
mod decisions;
mod faults;
mod history;
mod host;
mod output;
mod prompt;
mod session;
mod updates;

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use aios_core::{retry::RetryPolicy, store::Store};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub(crate) use self::history::{History, model_call};
use self::output::OutputType;
pub use self::{
    build::{BuiltAgent, LlmAgentError, RuntimeBuilderExt},
    decisions::pending_decisions,
    history::ModelTask,
    prompt::Prompt,
    updates::{AgentUpdate, Streaming, TOKENS},
};
use crate::{budget::Budget, model::LanguageModel, tool::Tool};

/// Suffix of the agent type that makes the model calls of an agent.
pub(crate) const MODEL_SUFFIX: &str = "_model";
/// Suffix of the agent type that runs the tools of an agent.
pub(crate) const TOOLS_SUFFIX: &str = "_tools";

/// An agent over a language model, with output of type `O`.
///
/// Registered under a name, it is an ordinary workflow of that name: start it with a [`Prompt`], or
/// with a text. Each model call is a task for the agent type `<name>_model`, each tool call one for
/// `<name>_tools`, so every call is recorded as it ends, and a replay makes no request.
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::{LlmAgent, ModelResponse, RuntimeBuilderExt, testing::ScriptedModel};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = ScriptedModel::new([ModelResponse::text("Paris")]);
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .llm_agent("geographer", LlmAgent::new(model).instructions("Answer in one word."))?
///     .start()
///     .await?;
/// let run = runtime.start("geographer", "What is the capital of France?").await?;
/// assert_eq!(run.result::<String>().await?, "Paris");
/// # Ok(())
/// # }
/// ```
pub struct LlmAgent<O = String> {
    model: Arc<dyn LanguageModel>,
    instructions: Option<String>,
    tools: Vec<Tool>,
    output: Option<OutputType>,
    budget: Budget,
    write_log: Option<Arc<dyn Store>>,
    options: Options,
    types: PhantomData<fn() -> O>,
}

/// Options of the loop.
#[derive(Clone, Debug)]
struct Options {
    version: u32,
    max_output_tokens: Option<u32>,
    temperature: Option<f64>,
    model_timeout: Duration,
    model_retry: RetryPolicy,
    max_turns: u32,
    max_faults: u32,
    max_identical_calls: u32,
    max_argument_bytes: usize,
    streaming: Streaming,
}

impl LlmAgent<String> {
    /// Default timeout of one model call.
    pub const DEFAULT_MODEL_TIMEOUT: Duration = Duration::from_secs(300);
    /// Default maximum number of model responses in one run.
    pub const DEFAULT_MAX_TURNS: u32 = 50;
    /// Default maximum number of consecutive faulty responses.
    pub const DEFAULT_MAX_FAULTS: u32 = 3;
    /// Default maximum number of identical calls among the latest ten.
    pub const DEFAULT_MAX_IDENTICAL_CALLS: u32 = 3;
    /// Default maximum size of the arguments of a call, in bytes.
    pub const DEFAULT_MAX_ARGUMENT_BYTES: usize = 256 * 1024;

    /// An agent over a model, whose output is text.
    #[must_use]
    pub fn new(model: impl LanguageModel) -> Self {
        let options = Options {
            version: 1,
            max_output_tokens: None,
            temperature: None,
            model_timeout: Self::DEFAULT_MODEL_TIMEOUT,
            model_retry: RetryPolicy::default(),
            max_turns: Self::DEFAULT_MAX_TURNS,
            max_faults: Self::DEFAULT_MAX_FAULTS,
            max_identical_calls: Self::DEFAULT_MAX_IDENTICAL_CALLS,
            max_argument_bytes: Self::DEFAULT_MAX_ARGUMENT_BYTES,
            streaming: Streaming::default(),
        };
        Self {
            model: Arc::new(model),
            instructions: None,
            tools: Vec::new(),
            output: None,
            budget: Budget::new(),
            write_log: None,
            options,
            types: PhantomData,
        }
    }
}

impl<O> LlmAgent<O> {
    /// Sets the instructions (the system prompt).
    #[must_use]
    pub fn instructions(mut self, instructions: impl Into<String>) -> Self {
        self.instructions = Some(instructions.into());
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// Sets the type of the output. It is validated, and the model may repair it; see
    /// [`max_faults`](Self::max_faults).
    #[must_use]
    pub fn output<T>(self) -> LlmAgent<T>
    where
        T: Serialize + DeserializeOwned + JsonSchema + 'static,
    {
        LlmAgent {
            model: self.model,
            instructions: self.instructions,
            tools: self.tools,
            output: Some(OutputType::of::<T>()),
            budget: self.budget,
            write_log: self.write_log,
            options: self.options,
            types: PhantomData,
        }
    }

    /// Sets the output as a JSON Schema, for types that are not written in Rust. See
    /// [`output`](Self::output).
    #[must_use]
    pub fn output_schema(self, name: impl Into<String>, schema: Value) -> LlmAgent<Value> {
        let output = OutputType::from_schema(name.into(), schema);
        LlmAgent {
            model: self.model,
            instructions: self.instructions,
            tools: self.tools,
            output: Some(output),
            budget: self.budget,
            write_log: self.write_log,
            options: self.options,
            types: PhantomData,
        }
    }

    /// The same agent without an output type, whose output is text as a JSON value. For agents that
    /// are not written in Rust.
    #[must_use]
    pub fn output_text(self) -> LlmAgent<Value> {
        LlmAgent {
            model: self.model,
            instructions: self.instructions,
            tools: self.tools,
            output: None,
            budget: self.budget,
            write_log: self.write_log,
            options: self.options,
            types: PhantomData,
        }
    }

    /// Sets the budget of each run.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets the store in which calls of `write` tools are recorded before they begin. Required by
    /// agents with such tools. Usually it is the store of the runtime.
    #[must_use]
    pub fn write_log(mut self, store: Arc<dyn Store>) -> Self {
        self.write_log = Some(store);
        self
    }

    /// Sets the version of the workflow, from 1. Change it with the instructions or tools if runs
    /// of the earlier version have to continue unchanged.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.options.version = version;
        self
    }

    /// Sets the maximum number of output tokens of each response.
    #[must_use]
    pub fn max_output_tokens(mut self, tokens: u32) -> Self {
        self.options.max_output_tokens = Some(tokens);
        self
    }

    /// Sets the sampling temperature.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.options.temperature = Some(temperature);
        self
    }

    /// Sets the timeout of one model call: at least 1 ms, at most 100 years.
    #[must_use]
    pub fn model_timeout(mut self, timeout: Duration) -> Self {
        self.options.model_timeout = timeout;
        self
    }

    /// Sets the retry policy of model calls. A longer `Retry-After` of the provider is respected.
    #[must_use]
    pub fn model_retry(mut self, policy: RetryPolicy) -> Self {
        self.options.model_retry = policy;
        self
    }

    /// Sets the maximum number of model responses in one run, at least 1. The run then fails with
    /// `TURN_LIMIT`.
    #[must_use]
    pub fn max_turns(mut self, turns: u32) -> Self {
        self.options.max_turns = turns;
        self
    }

    /// Sets how many consecutive responses may be faulty: unknown tools, invalid arguments, repeated
    /// calls, invalid output. Each fault is reported to the model. After one more, the run fails
    /// with `MODEL_FAULTS`.
    #[must_use]
    pub fn max_faults(mut self, faults: u32) -> Self {
        self.options.max_faults = faults;
        self
    }

    /// Sets how many of the latest ten calls may be identical, at least 1. One more is a fault.
    #[must_use]
    pub fn max_identical_calls(mut self, calls: u32) -> Self {
        self.options.max_identical_calls = calls;
        self
    }

    /// Sets the maximum size of the arguments of a call, in bytes. Larger ones are a fault.
    #[must_use]
    pub fn max_argument_bytes(mut self, bytes: usize) -> Self {
        self.options.max_argument_bytes = bytes;
        self
    }

    /// Sets whether the agent writes what it does to the output stream [`TOKENS`] of its run. Read it
    /// with [`RunHandle::stream`](aios_agents::RunHandle::stream).
    #[must_use]
    pub fn streaming(mut self, streaming: Streaming) -> Self {
        self.options.streaming = streaming;
        self
    }
}

impl<O> fmt::Debug for LlmAgent<O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LlmAgent")
            .field("model", &self.model.name())
            .field("tools", &self.tools)
            .finish_non_exhaustive()
    }
}
