//! Agents as Python passes them.
//!
//! Options that are plain data come as one JSON text, so that a new option needs a field in
//! [`Options`] and one in Python. Unknown fields are errors: a package and a native module that do
//! not match fail when the agent is opened, and do not ignore an option.

use std::sync::Arc;

use aios_core::{catalog::codes, store::Store};
use aios_llm::{Compaction, EndStrategy, LlmAgent, LlmAgentError, Streaming, gen_ai::TraceContent};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Shared,
    budget::{BudgetArg, PreparedSubjectBudget, SubjectBudgetArg},
    function::FunctionArg,
    guardrail::{GuardrailArg, verdict},
    model::ModelArg,
    parse,
    tool::ToolArg,
};
use crate::{
    convert::{arguments::RetryArg, errors::ErrorInfo, seconds},
    python::{LoopPulse, PythonExecutors},
};

/// An agent that is added to a runtime when its store is open.
pub(crate) struct PreparedAgent {
    pub(crate) name: String,
    /// Whether another process makes its model calls and tool calls.
    pub(crate) is_workflow_only: bool,
    /// The agent itself.
    parts: Parts,
    /// The probe of the event loop, if code of the agent runs there.
    pub(crate) pulse: Option<Arc<LoopPulse>>,
}

/// An agent without what needs a store, and without the agents that can take over from it.
struct Parts {
    /// Without write log, subject budget and handovers.
    agent: LlmAgent<Value>,
    /// Whether a tool has effects that a log of writes must know.
    has_write_tool: bool,
    /// The sums are in the store.
    subject_budget: Option<PreparedSubjectBudget>,
    /// The agents that can take over, each of which may need the store itself.
    handovers: Vec<PreparedHandover>,
}

/// An agent that can take over from another one.
struct PreparedHandover {
    name: String,
    description: String,
    agent: Parts,
}

type Handovers = Vec<HandoverArg>;

/// `aios._llm.agent.BoundLlmAgent`.
#[derive(FromPyObject)]
pub(crate) struct LlmAgentArg {
    name: String,
    is_workflow_only: bool,
    model: ModelArg,
    cheaper_model: Option<ModelArg>,
    tools: Vec<ToolArg>,
    guardrails: Vec<GuardrailArg>,
    handovers: Handovers,
    /// The name and the JSON Schema of the output, and a function that checks what the schema does not
    /// say; `None` for text.
    output: Option<(String, String, Option<FunctionArg>)>,
    model_retry: Option<RetryArg>,
    options: String,
}

/// `aios._llm.agent.BoundHandover`.
#[derive(FromPyObject)]
struct HandoverArg {
    name: String,
    description: String,
    agent: LlmAgentArg,
}

/// The options of an agent, which Python passes as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    instructions: Option<String>,
    hand_back: Option<String>,
    version: u32,
    max_output_tokens: Option<u32>,
    temperature: Option<f64>,
    model_timeout: f64,
    max_turns: u32,
    max_faults: u32,
    max_identical_calls: u32,
    max_argument_bytes: usize,
    streaming: bool,
    end_strategy: EndStrategy,
    trace_content: bool,
    compaction: Option<CompactionArg>,
    budget: Option<BudgetArg>,
    subject_budget: Option<SubjectBudgetArg>,
}

/// `aios.Compaction` as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompactionArg {
    above: u64,
    keep_messages: usize,
    instructions: Option<String>,
}

impl PreparedAgent {
    /// The agent, with the store of the runtime if there is one.
    pub(crate) fn open(self, store: Option<&Arc<dyn Store>>) -> LlmAgent<Value> {
        self.parts.open(store)
    }
}

impl Parts {
    /// The agent with its handovers. Without a store, it makes only model calls and tool calls, and
    /// needs neither log nor budget.
    fn open(self, store: Option<&Arc<dyn Store>>) -> LlmAgent<Value> {
        let Self { mut agent, has_write_tool, subject_budget, handovers } = self;
        if let Some(store) = store {
            if has_write_tool {
                agent = agent.write_log(Arc::clone(store));
            }
            if let Some(budget) = subject_budget {
                agent = agent.subject_budget(budget.open(Arc::clone(store)));
            }
        }
        handovers.into_iter().fold(
            agent,
            |agent, PreparedHandover { name, description, agent: other }| {
                agent.handover(name, description, other.open(store))
            },
        )
    }
}

impl LlmAgentArg {
    /// The agent without what needs a store.
    pub(crate) fn prepare(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
        pulse: &Arc<LoopPulse>,
        shared: &mut Shared,
    ) -> PyResult<PreparedAgent> {
        let pulse = self.uses_loop().then(|| Arc::clone(pulse));
        let is_workflow_only = self.is_workflow_only;
        let (name, parts) = self.into_parts(py, executors, shared)?;
        Ok(PreparedAgent { name, is_workflow_only, parts, pulse })
    }

    /// Whether code of the agent, or of one that can take over, runs on the event loop.
    fn uses_loop(&self) -> bool {
        self.model.uses_loop()
            || self.cheaper_model.as_ref().is_some_and(ModelArg::uses_loop)
            || self.tools.iter().any(ToolArg::uses_loop)
            || self.guardrails.iter().any(GuardrailArg::uses_loop)
            || self.output.as_ref().is_some_and(|(_, _, check)| check.is_some())
            || self.handovers.iter().any(|handover| handover.agent.uses_loop())
    }

    /// The name and the parts of an agent, and of those that can take over.
    fn into_parts(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
        shared: &mut Shared,
    ) -> PyResult<(String, Parts)> {
        let mut options: Options = parse(&self.options)?;
        let has_write_tool = self.tools.iter().any(ToolArg::is_write);
        let mut agent = LlmAgent::new(self.model.into_model(py, executors, shared)?);
        if let Some(model) = self.cheaper_model {
            agent = agent.cheaper_model(model.into_model(py, executors, shared)?);
        }
        for tool in self.tools {
            agent = agent.tool(tool.into_tool(py, executors)?);
        }
        for guardrail in self.guardrails {
            agent = agent.guardrail(guardrail.into_guardrail(py, executors)?);
        }
        if let Some(retry) = self.model_retry {
            agent = agent.model_retry(retry.into_policy(py)?);
        }
        let agent = match self.output {
            Some((name, schema, check)) => {
                let agent = agent.output_schema(name, parse(&schema)?);
                match check {
                    Some(check) => {
                        let what = format!("the output of agent {:?}", self.name);
                        let call = check.into_call(what, executors);
                        agent.output_check(move |output| verdict(call.clone(), output))
                    }
                    None => agent,
                }
            }
            None => agent.output_text(),
        };
        let mut handovers = Vec::with_capacity(self.handovers.len());
        for HandoverArg { name, description, agent } in self.handovers {
            let (_, agent) = agent.into_parts(py, executors, shared)?;
            handovers.push(PreparedHandover { name, description, agent });
        }
        let subject_budget = options.subject_budget.take();
        let subject_budget = subject_budget.map(|budget| budget.prepare(py)).transpose()?;
        let agent = options.apply(py, agent)?;
        Ok((self.name, Parts { agent, has_write_tool, subject_budget, handovers }))
    }
}

impl Options {
    /// Sets the options.
    fn apply(self, py: Python<'_>, mut agent: LlmAgent<Value>) -> PyResult<LlmAgent<Value>> {
        if let Some(instructions) = self.instructions {
            agent = agent.instructions(instructions);
        }
        if let Some(description) = self.hand_back {
            agent = agent.hand_back(description);
        }
        if let Some(tokens) = self.max_output_tokens {
            agent = agent.max_output_tokens(tokens);
        }
        if let Some(temperature) = self.temperature {
            agent = agent.temperature(temperature);
        }
        if let Some(compaction) = self.compaction {
            agent = agent.compaction(compaction.into_compaction());
        }
        if let Some(budget) = self.budget {
            agent = agent.budget(budget.into_budget());
        }
        let streaming = if self.streaming { Streaming::On } else { Streaming::Off };
        let content = if self.trace_content { TraceContent::On } else { TraceContent::Off };
        Ok(agent
            .version(self.version)
            .model_timeout(seconds(py, "model_timeout", self.model_timeout)?)
            .max_turns(self.max_turns)
            .max_faults(self.max_faults)
            .max_identical_calls(self.max_identical_calls)
            .max_argument_bytes(self.max_argument_bytes)
            .trace_content(content)
            .end_strategy(self.end_strategy)
            .streaming(streaming))
    }
}

impl CompactionArg {
    /// The compaction.
    fn into_compaction(self) -> Compaction {
        let compaction = Compaction::above(self.above).with_kept_messages(self.keep_messages);
        match self.instructions {
            Some(instructions) => compaction.with_instructions(instructions),
            None => compaction,
        }
    }
}

impl From<LlmAgentError> for ErrorInfo {
    fn from(error: LlmAgentError) -> Self {
        let message = match error {
            // The error names what a user of Rust can do.
            LlmAgentError::NoWriteLog { tool } => format!(
                "tool {tool:?} has the effect 'write', whose calls are recorded in the store of the \
                 runtime: pass `store` to the runtime, with `engine=False` if it only hosts agents"
            ),
            error => error.to_string(),
        };
        Self::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message)
    }
}
