//! Checks of users as tasks for the agent type of the tools, under names that no tool can have.
//!
//! | name | checks | if it trips |
//! |---|---|---|
//! | `guardrail:<name>` | input or output | the run fails |
//! | `check:output` | output that matches its schema | the model gets the reason |
//! | `check:arguments:<tool>` | arguments that a person has edited | the person gets the reason |
//!
//! The verdicts are recorded, so a replay checks nothing again.

use std::time::Duration;

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{
    agent::{ResultExt, TaskError},
    event::Payload,
};

use super::{compiled::Compiled, host::ToolTask};
use crate::guardrail::{Check, Guardrail, Verdict};

/// Prefix of a guardrail.
pub(super) const GUARDRAIL: &str = "guardrail:";
/// The check of the output.
pub(super) const OUTPUT: &str = "check:output";
/// Prefix of the check of a tool's arguments.
pub(super) const ARGUMENTS: &str = "check:arguments:";

/// Runs a check as a task.
pub(super) async fn check(
    context: &WorkflowContext,
    tools_type: &str,
    name: String,
    value: &Payload,
    timeout: Duration,
) -> Result<Verdict, WorkflowError> {
    let task = ToolTask { tool: name, call_id: String::new(), arguments: value.clone() };
    context.task::<Verdict>(tools_type, &task).timeout(timeout).await
}

impl Compiled {
    /// The reason for which its check does not accept an output; `None` if it does.
    pub(super) async fn output_fault(
        &self,
        context: &WorkflowContext,
        output: &Payload,
    ) -> Result<Option<String>, WorkflowError> {
        if self.output_check.is_none() {
            return Ok(None);
        }
        self.fault(context, OUTPUT.to_owned(), output).await
    }

    /// The reason for which its check does not accept the arguments of a tool; `None` if it does.
    pub(super) async fn argument_fault(
        &self,
        context: &WorkflowContext,
        tool: &str,
        arguments: &Payload,
    ) -> Result<Option<String>, WorkflowError> {
        if self.tools.get(tool).is_none_or(|compiled| compiled.tool.check.is_none()) {
            return Ok(None);
        }
        self.fault(context, format!("{ARGUMENTS}{tool}"), arguments).await
    }

    /// The reason for which a check trips; `None` if it does not.
    async fn fault(
        &self,
        context: &WorkflowContext,
        name: String,
        value: &Payload,
    ) -> Result<Option<String>, WorkflowError> {
        let timeout = Guardrail::DEFAULT_TIMEOUT;
        Ok(match check(context, &self.tools_type(), name, value, timeout).await? {
            Verdict::Pass => None,
            Verdict::Trip { reason } => Some(reason),
        })
    }

    /// Whether a task with this name is a check.
    pub(super) fn is_check(name: &str) -> bool {
        name.starts_with(GUARDRAIL) || name == OUTPUT || name.starts_with(ARGUMENTS)
    }

    /// Performs the check with this name; `None` if this process has none.
    pub(super) async fn perform(
        &self,
        name: &str,
        value: &Payload,
    ) -> Option<Result<Payload, TaskError>> {
        let verdict = self.check_of(name)?(value.clone()).await;
        Some(verdict.and_then(|verdict| Payload::encode(&verdict).terminal()))
    }

    /// The function of a check.
    fn check_of(&self, name: &str) -> Option<&Check> {
        if let Some(name) = name.strip_prefix(GUARDRAIL) {
            return self.guardrails.iter().find(|it| it.name() == name).map(Guardrail::check);
        }
        match name.strip_prefix(ARGUMENTS) {
            Some(tool) => self.tools.get(tool)?.tool.check.as_deref(),
            None => self.output_check.as_deref(),
        }
    }
}
