use std::{collections::BTreeMap, sync::Arc};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{Chain, agent::Name};

use super::{AgentUpdate, MODEL_SUFFIX, Options, Streaming, TOKENS, TOOLS_SUFFIX, output::Output};
use crate::{
    budget::{Budget, SubjectBudget},
    guardrail::Guardrail,
    model::{LanguageModel, ToolSpec},
    tool::{CompiledTool, WriteLog},
};

/// Everything that the loop and the hosts of an agent need.
pub(super) struct Compiled {
    pub(super) name: Name,
    pub(super) model: Arc<dyn LanguageModel>,
    pub(super) instructions: Option<String>,
    pub(super) tools: BTreeMap<String, CompiledTool>,
    pub(super) guardrails: Vec<Guardrail>,
    /// The descriptions of the tools, in the order of their registration.
    pub(super) specs: Vec<ToolSpec>,
    /// The agents that can take over, by the name of the tool that hands over.
    pub(super) handovers: BTreeMap<String, Arc<Self>>,
    /// Whether the agent can hand the conversation back.
    pub(super) hands_back: bool,
    pub(super) output: Output,
    pub(super) budget: Budget,
    pub(super) subject_budget: Option<SubjectBudget>,
    pub(super) cheaper: Option<Arc<dyn LanguageModel>>,
    pub(super) write_log: Option<WriteLog>,
    pub(super) options: Options,
}

impl Compiled {
    /// The model of the agent, or its cheaper one.
    pub(super) fn model(&self, is_cheaper: bool) -> &Arc<dyn LanguageModel> {
        self.cheaper.as_ref().filter(|_| is_cheaper).unwrap_or(&self.model)
    }

    pub(super) fn model_type(&self) -> String {
        format!("{}{MODEL_SUFFIX}", self.name.as_str())
    }

    pub(super) fn tools_type(&self) -> String {
        format!("{}{TOOLS_SUFFIX}", self.name.as_str())
    }

    /// Writes an update from the code of the workflow, if the agent streams.
    pub(super) fn tell(
        &self,
        context: &WorkflowContext,
        update: &AgentUpdate,
    ) -> Result<(), WorkflowError> {
        if self.options.streaming == Streaming::On
            && let Err(error) = context.stream(TOKENS)?.write(update)
        {
            tracing::warn!(error = %Chain(&error), code = error.code(), "an update is not written");
        }
        Ok(())
    }
}
