//! An agent as its workflow and its agent types use it: checked, and immutable.
//!
//! All of them share one `Arc`. In a process, the workflow and the hosts of one agent therefore
//! always agree. Different processes agree only if the same agent is deployed everywhere.

use std::{collections::BTreeMap, sync::Arc};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{Chain, agent::Name};

use super::{
    AgentUpdate, MODEL_SUFFIX, Options, Streaming, TOKENS, TOOLS_SUFFIX, host::Meters,
    output::Output,
};
use crate::{
    budget::{Budget, SubjectBudget},
    guardrail::{Check, Guardrail},
    model::{LanguageModel, ToolSpec},
    schema::Schema,
    tool::{CompiledTool, WriteLog},
};

/// Everything that the loop and the hosts of an agent need.
pub(super) struct Compiled {
    /// With the names of the agents that handed over to it before it.
    pub(super) name: Name,
    /// Answers until the budget asks for the cheaper one.
    pub(super) model: Arc<dyn LanguageModel>,
    /// The system prompt.
    pub(super) instructions: Option<String>,
    /// By name; without those of handovers.
    pub(super) tools: BTreeMap<String, CompiledTool>,
    /// In the order of their registration, which is the order in which they run.
    pub(super) guardrails: Vec<Guardrail>,
    /// The descriptions of the tools, in the order of their registration.
    pub(super) specs: Vec<ToolSpec>,
    /// The agents that can take over, by the name of the tool that hands over.
    pub(super) handovers: BTreeMap<String, Arc<Self>>,
    /// Whether the agent can hand the conversation back.
    pub(super) hands_back: bool,
    /// The schema of the arguments of a handover.
    pub(super) handover_schema: Schema,
    /// How the result is requested and read.
    pub(super) output: Output,
    /// Accepts a result that matches its schema, or does not.
    pub(super) output_check: Option<Arc<Check>>,
    /// Of each run.
    pub(super) budget: Budget,
    /// Of all runs of a subject.
    pub(super) subject_budget: Option<SubjectBudget>,
    /// Answers when the cost does not allow the first model.
    pub(super) cheaper: Option<Arc<dyn LanguageModel>>,
    /// Present if the agent has a `write` tool.
    pub(super) write_log: Option<WriteLog>,
    /// Options of the loop.
    pub(super) options: Options,
    /// The usage of model calls in progress in this process.
    pub(super) meters: Arc<Meters>,
}

impl Compiled {
    /// The model of the agent, or its cheaper one.
    pub(super) fn model(&self, is_cheaper: bool) -> &Arc<dyn LanguageModel> {
        self.cheaper.as_ref().filter(|_| is_cheaper).unwrap_or(&self.model)
    }

    /// Checks the size of the arguments of a call. The error is addressed to their author: the model, or the
    /// person who has edited them.
    pub(super) fn check_size(&self, arguments: &str) -> Result<(), String> {
        let (bytes, most) = (arguments.len(), self.options.max_argument_bytes);
        if bytes <= most {
            return Ok(());
        }
        Err(format!("The arguments have {bytes} bytes; at most {most} are allowed."))
    }

    /// The agent type that makes the model calls.
    pub(super) fn model_type(&self) -> String {
        format!("{}{MODEL_SUFFIX}", self.name.as_str())
    }

    /// The agent type that runs tools and checks.
    pub(super) fn tools_type(&self) -> String {
        format!("{}{TOOLS_SUFFIX}", self.name.as_str())
    }

    /// Writes an update from the code of the workflow, if the agent streams.
    pub(super) fn tell(
        &self,
        context: &WorkflowContext,
        update: &AgentUpdate,
    ) -> Result<(), WorkflowError> {
        // Updates are not part of the result, so a failure does not end the run.
        if self.options.streaming == Streaming::On
            && let Err(error) = context.stream(TOKENS)?.write(update)
        {
            tracing::warn!(error = %Chain(&error), code = error.code(), "an update is not written");
        }
        Ok(())
    }
}
