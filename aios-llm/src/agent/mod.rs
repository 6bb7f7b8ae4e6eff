//! Agents over language models: a workflow whose operations are model calls and tool calls.
//!
//! | module | contents |
//! |---|---|
//! | `build`, `compiled` | checks an agent, and makes its workflow and agent types |
//! | `session`, `turn` | the loop of a run: model calls, and what follows from each response |
//! | `calls` | tool calls as tasks or child runs; decisions of persons; calls that do not run |
//! | `host` | the agent types that make model calls and run tools; the usage of calls that do not end |
//! | `history` | conversations across the tasks of a run, and their summaries |
//! | `accounting`, `delegation` | budgets around each call, and their parts for called agents |
//! | `output`, `faults` | reads results, and counts what is wrong |
//! | `checks` | checks of users as tasks |
//! | `handover` | agents that take over a conversation |
//! | `prompt`, `updates` | input, and what a run shows while it works |
//!
//! The workflow decides, the agent types perform. All that a model or a tool returns reaches the
//! workflow as a recorded result, so the loop is deterministic, and a run continues after a crash
//! on any process.

mod accounting;
mod build;
mod calls;
mod checks;
mod compiled;
mod delegation;
mod faults;
mod handover;
mod history;
mod host;
mod output;
mod prompt;
mod session;
mod turn;
mod updates;

use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use aios_core::{agent::TaskError, event::Payload, retry::RetryPolicy, store::Store};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::output::OutputType;
pub use self::{
    build::{BuiltAgent, LlmAgentError, RuntimeBuilderExt},
    calls::pending_decisions,
    history::{Compaction, ModelTask},
    prompt::{Origin, Prompt},
    turn::EndStrategy,
    updates::{AgentUpdate, Streaming, TOKENS},
};
pub(crate) use self::{
    calls::{Answered, Edited, Refused},
    handover::HandedOver,
    history::{History, SUMMARY_PREFIX, model_call},
    host::ToolTask,
    output::FINAL_TOOL,
};
use crate::{
    budget::{Budget, SubjectBudget},
    gen_ai::TraceContent,
    guardrail::{self, Check, Guardrail, Verdict},
    model::LanguageModel,
    tool::Tool,
};

/// Suffix of the agent type that makes the model calls of an agent.
pub(crate) const MODEL_SUFFIX: &str = "_model";
/// Suffix of the agent type that runs the tools of an agent.
pub(crate) const TOOLS_SUFFIX: &str = "_tools";

/// An agent over a language model, with output of type `O`.
///
/// Registered under a name, it is an ordinary workflow of that name: start it with a [`Prompt`], or
/// with a text. It is an agent type of that name, too: assign it tasks, each of which is a run of the
/// workflow. Each model call is a task for the agent type `<name>_model`, each tool call one for
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
    /// Everything but the type.
    definition: Definition,
    /// A function type, so that the agent is `Send` and `Sync` for all `O`.
    types: PhantomData<fn() -> O>,
}

/// An agent, whatever the type of its output.
struct Definition {
    /// Answers first.
    model: Arc<dyn LanguageModel>,
    /// The system prompt.
    instructions: Option<String>,
    /// In the order in which the model sees them.
    tools: Vec<Tool>,
    /// In the order in which they run.
    guardrails: Vec<Guardrail>,
    /// Agents that can take over.
    handovers: Vec<Handover>,
    /// The description of the tool that hands the conversation back.
    hand_back: Option<String>,
    /// `None`: text.
    output: Option<OutputType>,
    /// Accepts a result that matches its schema, or does not.
    output_check: Option<Arc<Check>>,
    /// Of each run.
    budget: Budget,
    /// Of all runs of a subject.
    subject_budget: Option<SubjectBudget>,
    /// The cheaper model.
    cheaper: Option<Arc<dyn LanguageModel>>,
    /// The store in which `write` calls are recorded.
    write_log: Option<Arc<dyn Store>>,
    /// Options of the loop.
    options: Options,
}

/// An agent that can take over a conversation.
struct Handover {
    /// The name of the agent in the tool that hands over.
    name: String,
    /// The description of that tool.
    description: String,
    /// Compiled together with the agent that hands over.
    agent: Definition,
}

/// Options of the loop.
#[derive(Clone, Debug)]
struct Options {
    /// Version of the workflow.
    version: u32,
    /// Of each response; `None`: the default of the provider.
    max_output_tokens: Option<u32>,
    /// `None`: the default of the provider.
    temperature: Option<f64>,
    /// Of each model call.
    model_timeout: Duration,
    /// Of each model call, performed by the workflow.
    model_retry: RetryPolicy,
    /// Responses in one run.
    max_turns: u32,
    /// Faulty responses in a row.
    max_faults: u32,
    /// Among the latest ten calls.
    max_identical_calls: u32,
    /// Of one tool call.
    max_argument_bytes: usize,
    streaming: Streaming,
    end_strategy: EndStrategy,
    /// `None`: conversations are not compacted.
    compaction: Option<Compaction>,
    trace_content: TraceContent,
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
            end_strategy: EndStrategy::default(),
            compaction: None,
            trace_content: TraceContent::default(),
        };
        let definition = Definition {
            model: Arc::new(model),
            instructions: None,
            tools: Vec::new(),
            guardrails: Vec::new(),
            handovers: Vec::new(),
            hand_back: None,
            output: None,
            output_check: None,
            budget: Budget::new(),
            subject_budget: None,
            cheaper: None,
            write_log: None,
            options,
        };
        Self { definition, types: PhantomData }
    }
}

impl<O> LlmAgent<O> {
    /// Sets the instructions (the system prompt).
    #[must_use]
    pub fn instructions(mut self, instructions: impl Into<String>) -> Self {
        self.definition.instructions = Some(instructions.into());
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: Tool) -> Self {
        self.definition.tools.push(tool);
        self
    }

    /// Adds a check of the input or the output. Checks of the input are those of the agent that begins
    /// a run, checks of the output those of the agent that ends it.
    #[must_use]
    pub fn guardrail(mut self, guardrail: Guardrail) -> Self {
        self.definition.guardrails.push(guardrail);
        self
    }

    /// Adds an agent that can take over the conversation: a tool `handover_to_<name>` ends the part of
    /// this agent, and the conversation continues, in the same run, under the instructions and with
    /// the tools of the other one. Its model calls are tasks for the agent type `<agent>_<name>_model`.
    ///
    /// Both must have the same type of output. The budget, the maximum number of responses, the
    /// number of faults and the version of a run are those of the agent that began it.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// use aios_llm::{LlmAgent, ModelResponse, RuntimeBuilderExt, model::Part, testing::ScriptedModel};
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let call = Part::tool_call("call-1", "handover_to_billing", &json!({"reason": "an invoice"}));
    /// let first = ScriptedModel::new([ModelResponse::new(vec![call])]);
    /// let second = ScriptedModel::new([ModelResponse::text("It was paid on Monday.")]);
    ///
    /// let billing = LlmAgent::new(second).instructions("Answer questions about invoices.");
    /// let reception = LlmAgent::new(first)
    ///     .instructions("Find out what it is about.")
    ///     .handover("billing", "Questions about invoices.", billing);
    /// let runtime = Runtime::builder()
    ///     .store(aios_store::connect("memory://").await?)
    ///     .broker(aios_broker::connect("memory://").await?)
    ///     .llm_agent("reception", reception)?
    ///     .start()
    ///     .await?;
    /// let run = runtime.start("reception", "Is my invoice paid?").await?;
    /// assert_eq!(run.result::<String>().await?, "It was paid on Monday.");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handover<T>(
        mut self,
        name: impl Into<String>,
        description: impl Into<String>,
        agent: LlmAgent<T>,
    ) -> Self {
        let name = name.into();
        let description = description.into();
        let agent = agent.definition;
        self.definition.handovers.push(Handover { name, description, agent });
        self
    }

    /// Allows an agent that has taken over a conversation to hand it back, with a tool `hand_back`
    /// that has this description.
    #[must_use]
    pub fn hand_back(mut self, description: impl Into<String>) -> Self {
        self.definition.hand_back = Some(description.into());
        self
    }

    /// The same agent with another type of output.
    fn with_output<T>(self, output: Option<OutputType>) -> LlmAgent<T> {
        LlmAgent { definition: Definition { output, ..self.definition }, types: PhantomData }
    }

    /// Sets the type of the output. It is validated, and the model may repair it; see
    /// [`max_faults`](Self::max_faults).
    #[must_use]
    pub fn output<T>(self) -> LlmAgent<T>
    where
        T: Serialize + DeserializeOwned + JsonSchema + 'static,
    {
        self.with_output(Some(OutputType::of::<T>()))
    }

    /// Sets the output as a JSON Schema, for types that are not written in Rust. See
    /// [`output`](Self::output), and [`output_check`](Self::output_check) for what a schema can't say.
    #[must_use]
    pub fn output_schema(self, name: impl Into<String>, schema: Value) -> LlmAgent<Value> {
        self.with_output(Some(OutputType::from_schema(name.into(), schema)))
    }

    /// Sets a check of output that matches its schema: if it trips, the model gets the reason and may
    /// repair the output, as often as [`max_faults`](Self::max_faults) allows. It runs before the
    /// guardrails, on the processes of the agent's tools, and its verdict is recorded. A check that fails
    /// itself fails the run.
    ///
    /// # Examples
    ///
    /// A schema can't say that two fields belong together:
    ///
    /// ```
    /// use aios_core::event::EventError;
    /// use aios_llm::{LlmAgent, guardrail::Verdict, testing::SchemaModel};
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, JsonSchema)]
    /// struct Stay {
    ///     first_night: u32,
    ///     last_night: u32,
    /// }
    ///
    /// let agent = LlmAgent::new(SchemaModel::new()).output::<Stay>().output_check(|output| async move {
    ///     let stay: Stay = output.decode()?;
    ///     Ok::<_, EventError>(match stay.first_night <= stay.last_night {
    ///         true => Verdict::Pass,
    ///         false => Verdict::trip("the first night is after the last one"),
    ///     })
    /// });
    /// assert!(agent.build("clerk").is_ok());
    /// ```
    #[must_use]
    pub fn output_check<E, F, Fut>(mut self, check: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
    {
        self.definition.output_check = Some(guardrail::boxed(check));
        self
    }

    /// The same agent without an output type, whose output is text as a JSON value. For agents that
    /// are not written in Rust.
    #[must_use]
    pub fn output_text(self) -> LlmAgent<Value> {
        self.with_output(None)
    }

    /// Sets the budget of each run.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.definition.budget = budget;
        self
    }

    /// Sets the budget that all runs of a [subject](Prompt::with_subject) share in a window of time.
    /// Each run then has to name its subject.
    #[must_use]
    pub fn subject_budget(mut self, budget: SubjectBudget) -> Self {
        self.definition.subject_budget = Some(budget);
        self
    }

    /// Sets the model that continues a run when the cost does not allow another response of the
    /// first one, see [`AtLimit::CheaperModel`](crate::budget::AtLimit::CheaperModel).
    #[must_use]
    pub fn cheaper_model(mut self, model: impl LanguageModel) -> Self {
        self.definition.cheaper = Some(Arc::new(model));
        self
    }

    /// Sets the store in which calls of `write` tools are recorded before they begin. Required by
    /// agents with such tools. Usually it is the store of the runtime.
    ///
    /// # Examples
    ///
    /// A mail is not sent before someone approves it, and not sent twice after a crash:
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aios_core::store::Store;
    /// use aios_llm::{LlmAgent, LlmAgentError, testing::SchemaModel, tool::{Approval, Tool}};
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize, JsonSchema)]
    /// struct Mail {
    ///     to: String,
    ///     text: String,
    /// }
    ///
    /// async fn send(mail: Mail) -> Result<String, std::io::Error> {
    ///     Ok(format!("sent {} bytes to {}", mail.text.len(), mail.to))
    /// }
    ///
    /// fn secretary(store: Arc<dyn Store>) -> Result<(), LlmAgentError> {
    ///     let send = Tool::write("send_mail", "Sends a mail.", send).with_approval(Approval::Required);
    ///     let agent = LlmAgent::new(SchemaModel::new()).tool(send).write_log(store);
    ///     agent.build("secretary").map(drop)
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # secretary(aios_store::connect("memory://").await?)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn write_log(mut self, store: Arc<dyn Store>) -> Self {
        self.definition.write_log = Some(store);
        self
    }

    /// Sets the version of the workflow, at least 1, which is the default. Change it together with the
    /// instructions or tools if runs of the earlier version have to continue unchanged.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.definition.options.version = version;
        self
    }

    /// Sets the maximum number of output tokens of each response. The default is that of the provider,
    /// or what is left of a limited budget.
    #[must_use]
    pub fn max_output_tokens(mut self, tokens: u32) -> Self {
        self.definition.options.max_output_tokens = Some(tokens);
        self
    }

    /// Sets the sampling temperature. The default is that of the provider.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.definition.options.temperature = Some(temperature);
        self
    }

    /// Sets the timeout of one model call: at least 1 ms, at most 100 years. The default is
    /// [`DEFAULT_MODEL_TIMEOUT`](LlmAgent::DEFAULT_MODEL_TIMEOUT), 300 s. A small part of it, at most 5 s, is
    /// kept to report what the call has cost.
    #[must_use]
    pub fn model_timeout(mut self, timeout: Duration) -> Self {
        self.definition.options.model_timeout = timeout;
        self
    }

    /// Sets the retry policy of model calls. A longer `Retry-After` of the provider is respected. The
    /// default is [`RetryPolicy::new`], five attempts.
    #[must_use]
    pub fn model_retry(mut self, policy: RetryPolicy) -> Self {
        self.definition.options.model_retry = policy;
        self
    }

    /// Sets the maximum number of model responses in one run, at least 1. The run then fails with
    /// `TURN_LIMIT`. The default is [`DEFAULT_MAX_TURNS`](LlmAgent::DEFAULT_MAX_TURNS), 50.
    #[must_use]
    pub fn max_turns(mut self, turns: u32) -> Self {
        self.definition.options.max_turns = turns;
        self
    }

    /// Sets how many consecutive responses may be faulty: unknown tools, invalid arguments, repeated
    /// calls, invalid output. Each fault is reported to the model. As many summaries of a
    /// [compaction](Self::compaction) in a row may fail. After one more, the run fails with
    /// `MODEL_FAULTS`. The default is [`DEFAULT_MAX_FAULTS`](LlmAgent::DEFAULT_MAX_FAULTS), 3.
    #[must_use]
    pub fn max_faults(mut self, faults: u32) -> Self {
        self.definition.options.max_faults = faults;
        self
    }

    /// Sets how many of the latest ten calls may be identical, at least 1. One more is a fault. The
    /// default is [`DEFAULT_MAX_IDENTICAL_CALLS`](LlmAgent::DEFAULT_MAX_IDENTICAL_CALLS), 3.
    #[must_use]
    pub fn max_identical_calls(mut self, calls: u32) -> Self {
        self.definition.options.max_identical_calls = calls;
        self
    }

    /// Sets the maximum size of the arguments of a call, in bytes. Larger ones are a fault, and those that
    /// someone has [edited](crate::tool::Decision::Edit) are refused. The default is
    /// [`DEFAULT_MAX_ARGUMENT_BYTES`](LlmAgent::DEFAULT_MAX_ARGUMENT_BYTES), 256 KiB.
    #[must_use]
    pub fn max_argument_bytes(mut self, bytes: usize) -> Self {
        self.definition.options.max_argument_bytes = bytes;
        self
    }

    /// Sets which calls of a response run in addition to the one with the result. Without effect if the
    /// result is the text of a response.
    #[must_use]
    pub fn end_strategy(mut self, strategy: EndStrategy) -> Self {
        self.definition.options.end_strategy = strategy;
        self
    }

    /// Replaces earlier messages with a summary when a conversation becomes long. Without it, a
    /// conversation that is longer than the context of the model fails with `MODEL_CONTEXT_OVERFLOW`.
    #[must_use]
    pub fn compaction(mut self, compaction: Compaction) -> Self {
        self.definition.options.compaction = Some(compaction);
        self
    }

    /// Sets whether the spans of `tracing` around model calls and tool calls have their content. See
    /// [`gen_ai`](crate::gen_ai).
    #[must_use]
    pub fn trace_content(mut self, content: TraceContent) -> Self {
        self.definition.options.trace_content = content;
        self
    }

    /// Sets whether the agent writes what it does to the output stream [`TOKENS`] of its run. Read it
    /// with [`RunHandle::stream`](aios_agents::RunHandle::stream).
    #[must_use]
    pub fn streaming(mut self, streaming: Streaming) -> Self {
        self.definition.options.streaming = streaming;
        self
    }
}

impl<O> fmt::Debug for LlmAgent<O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LlmAgent")
            .field("model", &self.definition.model.name())
            .field("tools", &self.definition.tools)
            .finish_non_exhaustive()
    }
}
