//! Checks an agent under its name, and makes the parts that a runtime registers from it.
//!
//! | part | name | registered by processes that |
//! |---|---|---|
//! | workflow | `<name>` | have an engine |
//! | agent type of model calls | `<name>_model` | call the model |
//! | agent type of tools and guardrails | `<name>_tools` | run them |
//!
//! An agent that can take over is compiled with its name appended to that of the first one, and so
//! on in its depth, so its agent types have names of their own. It needs no workflow: the
//! conversation stays in the run of the first agent.
//!
//! Everything that can be wrong is found here, before a run exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use aios_agents::{
    RuntimeBuilder,
    agent::AgentDefinition,
    workflow::{FnWorkflow, Workflow, WorkflowContext},
};
use aios_core::{
    agent::{DynAgent, InvalidName, Name},
    catalog::codes,
};

use super::{
    Definition, Handover, LlmAgent, MODEL_SUFFIX, Options, Prompt,
    compiled::Compiled,
    handover::{self, HAND_BACK},
    host::{ModelAgent, ToolAgent},
    output::{FINAL_TOOL, Output},
    session,
};
use crate::{
    budget::{AtLimit, Budget},
    guardrail::Guardrail,
    model::{Capabilities, ToolSpec},
    schema::{Schema, is_plain_object, with_properties},
    tool::{CompiledTool, Effect, Tool, WriteLog},
};

/// Longest name of a tool that providers accept.
const MAX_TOOL_NAME: usize = 64;

/// Errors of registering an agent.
///
/// # Examples
///
/// ```
/// use aios_llm::{LlmAgent, LlmAgentError, testing::SchemaModel, tool::Tool};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Mail { to: String }
/// async fn send(mail: Mail) -> Result<String, std::io::Error> {
///     Ok(format!("sent to {}", mail.to))
/// }
///
/// // A `write` tool must not run twice, so the agent needs a place to record that it ran.
/// let agent = LlmAgent::new(SchemaModel::new()).tool(Tool::write("send", "Sends a mail.", send));
/// let error = agent.build("secretary").unwrap_err();
/// assert!(matches!(error, LlmAgentError::NoWriteLog { .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LlmAgentError {
    /// The name of the agent is invalid.
    #[error("the name of the agent is invalid")]
    InvalidName(#[from] InvalidName),
    /// The name of a tool is invalid, reserved, or used twice, or its parameters are no object.
    #[error("tool {name:?}: {reason}")]
    InvalidTool {
        /// Name of the tool.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The name of a guardrail is used twice.
    #[error("guardrail {name:?}: {reason}")]
    InvalidGuardrail {
        /// Name of the guardrail.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The schema of the output is invalid.
    #[error("the schema of the output is invalid: {reason}")]
    InvalidOutput {
        /// The reason.
        reason: String,
    },
    /// An agent with a `write` tool has no write log.
    #[error(
        "tool {tool:?} has the effect class `write`, which needs a write log; call \
         `LlmAgent::write_log` with the store of the runtime"
    )]
    NoWriteLog {
        /// Name of the tool.
        tool: String,
    },
    /// An option is out of range.
    #[error("{option} {reason}")]
    InvalidOption {
        /// Name of the option.
        option: &'static str,
        /// The reason.
        reason: String,
    },
}

impl LlmAgentError {
    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => codes::INVALID_NAME,
            _ => codes::INVALID_LLM_AGENT,
        }
    }
}

/// An agent under its name, checked and ready to be registered.
///
/// # Examples
///
/// ```
/// use aios_llm::{LlmAgent, testing::SchemaModel};
///
/// # fn main() -> Result<(), aios_llm::LlmAgentError> {
/// let agent = LlmAgent::new(SchemaModel::new()).instructions("Plan.").build("planner")?;
/// assert_eq!(agent.agents().len(), 1); // only model calls: the agent has no tools
/// let workflow = agent.workflow()?; // for `RuntimeBuilder::workflow_dyn`, where an engine runs
/// assert_eq!(workflow.name().as_str(), "planner");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BuiltAgent {
    /// Shared by the workflow and the agent types.
    agent: Arc<Compiled>,
}

impl<O> LlmAgent<O> {
    /// Checks the agent and gives it its name: `[a-z][a-z0-9_]*` with at most 94 bytes.
    ///
    /// # Errors
    ///
    /// [`LlmAgentError`] if the name, a tool, a guardrail, the output or an option is invalid.
    pub fn build(self, name: &str) -> Result<BuiltAgent, LlmAgentError> {
        let agent = self.definition.compile(name, false)?;
        Ok(BuiltAgent { agent: Arc::new(agent) })
    }
}

impl Definition {
    /// Checks the definition. An agent that takes over may be able to hand back.
    fn compile(self, name: &str, takes_over: bool) -> Result<Compiled, LlmAgentError> {
        // Checks also that the names of the agent types are not too long.
        Name::new(format!("{name}{MODEL_SUFFIX}"))?;
        check_options(&self.options, &self.budget)?;
        self.check_budget()?;
        let (tools, mut specs) = compile_tools(self.tools, self.write_log.is_some())?;
        check_guardrails(&self.guardrails)?;
        let mut handovers = BTreeMap::new();
        for Handover { name: other, description, agent } in self.handovers {
            // The run has one type of result, whichever agent ends it.
            if agent.output != self.output {
                let reason = format!("agent {other:?}, which can take over, has another output");
                return Err(LlmAgentError::InvalidOutput { reason });
            }
            let tool = handover::tool_of(&other);
            specs.push(handover::spec(tool.clone(), description));
            handovers.insert(tool, Arc::new(agent.compile(&format!("{name}_{other}"), true)?));
        }
        let hands_back = takes_over && self.hand_back.is_some();
        if let Some(description) = self.hand_back.filter(|_| takes_over) {
            specs.push(handover::spec(HAND_BACK.to_owned(), description));
        }
        let handover_schema = handover::schema()
            .map_err(|reason| LlmAgentError::InvalidTool { name: HAND_BACK.to_owned(), reason })?;
        check_tool_names(&specs)?;
        // Output is requested in a way that both models support, because either may answer.
        let all = [Some(&self.model), self.cheaper.as_ref()];
        let shared = Capabilities::shared(all.into_iter().flatten().map(|it| it.capabilities()));
        let output = Output::new(self.output, shared, !specs.is_empty())
            .map_err(|reason| LlmAgentError::InvalidOutput { reason })?;
        Ok(Compiled {
            name: Name::new(name)?,
            model: self.model,
            instructions: self.instructions,
            tools,
            specs,
            guardrails: self.guardrails,
            handovers,
            hands_back,
            handover_schema,
            output,
            output_check: self.output_check,
            budget: self.budget,
            subject_budget: self.subject_budget,
            cheaper: self.cheaper,
            write_log: self.write_log.map(WriteLog::new),
            options: self.options,
            meters: Arc::default(),
        })
    }
}

impl Definition {
    /// Checks the options of the budget that depend on others.
    fn check_budget(&self) -> Result<(), LlmAgentError> {
        if self.budget.at_limit == AtLimit::CheaperModel && self.cheaper.is_none() {
            let reason = "is `CheaperModel`, which needs `LlmAgent::cheaper_model`".to_owned();
            return Err(LlmAgentError::InvalidOption { option: "at_limit", reason });
        }
        let Some(subject) = &self.subject_budget else { return Ok(()) };
        if subject.window < Duration::from_secs(1) {
            let option = "window";
            let reason = "is at least 1 s".to_owned();
            return Err(LlmAgentError::InvalidOption { option, reason });
        }
        check_span("window", subject.window)
    }
}

impl BuiltAgent {
    /// The workflow, for processes with an engine.
    ///
    /// # Errors
    ///
    /// [`LlmAgentError::InvalidName`], which [`LlmAgent::build`] has excluded.
    pub fn workflow(&self) -> Result<Arc<dyn Workflow>, LlmAgentError> {
        let agent = Arc::clone(&self.agent);
        let function = move |context: WorkflowContext, prompt: Prompt| {
            session::run(Arc::clone(&agent), context, prompt)
        };
        let workflow = FnWorkflow::new(self.agent.name.as_str(), function)?.with_lookahead();
        Ok(Arc::new(workflow.with_version(self.agent.options.version)))
    }

    /// All agent types: those of the agent, and those of the agents that can take over.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentDefinition> {
        let own = [Some(self.model_agent()), self.tool_agent()].into_iter().flatten();
        own.chain(self.handovers().iter().flat_map(Self::agents)).collect()
    }

    /// The agents that can take over from this one, directly.
    #[must_use]
    pub fn handovers(&self) -> Vec<Self> {
        self.agent.handovers.values().map(|agent| Self { agent: Arc::clone(agent) }).collect()
    }

    /// The agent type that makes the model calls, `<name>_model`.
    #[must_use]
    pub fn model_agent(&self) -> AgentDefinition {
        let agent: Arc<dyn DynAgent> = Arc::new(ModelAgent::new(Arc::clone(&self.agent)));
        AgentDefinition::instance(self.agent.model_type(), agent)
    }

    /// The agent type that runs the tools, `<name>_tools`; `None` if there is no guardrail and no check of
    /// the output, and no tool is a function.
    #[must_use]
    pub fn tool_agent(&self) -> Option<AgentDefinition> {
        let agent: Arc<dyn DynAgent> = Arc::new(ToolAgent::new(Arc::clone(&self.agent)));
        let has_tools = self.agent.tools.values().any(|it| it.tool.child().is_none());
        let has_checks = !self.agent.guardrails.is_empty() || self.agent.output_check.is_some();
        let has_work = has_tools || has_checks;
        has_work.then(|| AgentDefinition::instance(self.agent.tools_type(), agent))
    }
}

/// Registers agents over language models with a [`Runtime`](aios_agents::Runtime).
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::{LlmAgent, RuntimeBuilderExt, testing::SchemaModel};
///
/// # fn main() -> Result<(), aios_llm::LlmAgentError> {
/// let builder = Runtime::builder()
///     .llm_agent("planner", LlmAgent::new(SchemaModel::new()).instructions("Plan."))?
///     .llm_agent("writer", LlmAgent::new(SchemaModel::new()).instructions("Write."))?;
/// # drop(builder);
/// # Ok(())
/// # }
/// ```
pub trait RuntimeBuilderExt: Sized {
    /// Adds an agent under a name: its workflow and its agent types. For processes with only some
    /// of these, see [`BuiltAgent`].
    ///
    /// # Errors
    ///
    /// See [`LlmAgent::build`].
    fn llm_agent<O>(self, name: &str, agent: LlmAgent<O>) -> Result<Self, LlmAgentError>;
}

impl RuntimeBuilderExt for RuntimeBuilder {
    fn llm_agent<O>(self, name: &str, agent: LlmAgent<O>) -> Result<Self, LlmAgentError> {
        let built = agent.build(name)?;
        let builder = self.workflow_dyn(built.workflow()?).workflow_agent(name);
        Ok(built.agents().into_iter().fold(builder, Self::agents))
    }
}

/// Checks the tools. Returns them by name, and their descriptions in the order of their
/// registration, which is the order in which the model sees them.
fn compile_tools(
    tools: Vec<Tool>,
    has_write_log: bool,
) -> Result<(BTreeMap<String, CompiledTool>, Vec<ToolSpec>), LlmAgentError> {
    let mut compiled = BTreeMap::new();
    let mut specs = Vec::with_capacity(tools.len());
    for tool in tools {
        check_tool(&tool, has_write_log)?;
        let schema = compile_parameters(&tool)
            .map_err(|reason| LlmAgentError::InvalidTool { name: tool.name.clone(), reason })?;
        specs.push(ToolSpec {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: schema.value.clone(),
        });
        compiled.insert(tool.name.clone(), CompiledTool::new(tool, schema));
    }
    Ok((compiled, specs))
}

/// The schema of the parameters of a tool, as all providers accept it.
fn compile_parameters(tool: &Tool) -> Result<Schema, String> {
    if !is_plain_object(&tool.parameters) {
        let reason = "the JSON Schema of the parameters is that of an object, without a choice such as \
                      oneOf or enum at its root; use a struct with named fields";
        return Err(reason.to_owned());
    }
    Schema::compile(with_properties(tool.parameters.clone()))
}

/// Checks one tool alone.
fn check_tool(tool: &Tool, has_write_log: bool) -> Result<(), LlmAgentError> {
    if tool.effect == Effect::Write && !has_write_log {
        return Err(LlmAgentError::NoWriteLog { tool: tool.name.clone() });
    }
    if let Some(child) = tool.child() {
        Name::new(&child.workflow)?;
    }
    check_span("the timeout of a tool", tool.timeout)
}

/// Checks the names of all tools together, including those of handovers. The characters are those
/// that all providers accept.
fn check_tool_names(specs: &[ToolSpec]) -> Result<(), LlmAgentError> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let mut names = BTreeSet::new();
    for ToolSpec { name, .. } in specs {
        let is_right = (1..=MAX_TOOL_NAME).contains(&name.len()) && name.bytes().all(is_valid);
        let reason = if !is_right {
            "a name of a tool is 1 to 64 of [A-Za-z0-9_-]"
        } else if name == FINAL_TOOL {
            "the name is reserved for structured output"
        } else if !names.insert(name) {
            "the name is used twice"
        } else {
            continue;
        };
        return Err(LlmAgentError::InvalidTool { name: name.clone(), reason: reason.to_owned() });
    }
    Ok(())
}

/// Checks the guardrails. Tasks find them by name, whatever they check.
fn check_guardrails(guardrails: &[Guardrail]) -> Result<(), LlmAgentError> {
    let mut names = BTreeSet::new();
    for guardrail in guardrails {
        check_span("the timeout of a guardrail", guardrail.timeout)?;
        if !names.insert(guardrail.name()) {
            let (name, reason) = (guardrail.name().to_owned(), "the name is used twice".to_owned());
            return Err(LlmAgentError::InvalidGuardrail { name, reason });
        }
    }
    Ok(())
}

/// Checks the ranges of the options of the loop.
fn check_options(options: &Options, budget: &Budget) -> Result<(), LlmAgentError> {
    check_span("model_timeout", options.model_timeout)?;
    if let Err(invalid) = options.model_retry.validate() {
        return Err(LlmAgentError::InvalidOption {
            option: "model_retry",
            reason: invalid.to_string(),
        });
    }
    for (option, value) in [
        ("version", options.version),
        ("max_turns", options.max_turns),
        ("max_identical_calls", options.max_identical_calls),
        ("max_output_tokens", options.max_output_tokens.unwrap_or(1)),
        ("soft_percent", budget.soft_percent.into()),
    ] {
        if value == 0 {
            return Err(LlmAgentError::InvalidOption {
                option,
                reason: "is at least 1".to_owned(),
            });
        }
    }
    Ok(())
}

/// Checks the range of timeouts that tasks accept.
fn check_span(option: &'static str, span: Duration) -> Result<(), LlmAgentError> {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    if span >= Duration::from_millis(1) && span <= LONGEST {
        return Ok(());
    }
    let reason = format!("is 1 ms to 100 years, not {span:?}");
    Err(LlmAgentError::InvalidOption { option, reason })
}

impl fmt::Debug for BuiltAgent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("BuiltAgent").field(&self.agent.name).finish()
    }
}
