//! Tool calls that are child runs.
//!
//! The child is a workflow, or another agent over a language model. An agent gets a share of the
//! caller's budget with its prompt, and reports what it has spent with its result.
//!
//! The updates of a call that is a child are written by the code of the workflow, because no task
//! of the caller's agent types runs it.

use aios_agents::workflow::WorkflowError;
use aios_core::failure::Failure;
use serde_json::Value;

use super::{
    AgentUpdate, Prompt,
    calls::{Calls, Checked, Ended},
    delegation::{Delegation, Report, spent_of},
};
use crate::tool::{Assignment, Child, OnFailure, Tool, result_text};

/// Failures of a child that never ran: the run of the caller fails.
pub(super) const NOT_STARTED: [&str; 4] =
    ["WORKFLOW_NOT_FOUND", "RUN_EXISTS", "INVALID_RUN_ID", "INVALID_CHILD"];

impl Calls<'_> {
    /// Runs a call as a child run.
    pub(super) async fn run_child(
        &self,
        tool: &Tool,
        child: &Child,
        checked: &Checked,
        arguments: Value,
    ) -> Result<Ended, WorkflowError> {
        let call_id = || checked.call.id.clone();
        let started = AgentUpdate::ToolStarted { call_id: call_id(), tool: tool.name.clone() };
        self.agent.tell(self.context, &started)?;
        let ended = if child.is_agent {
            self.run_agent(child, checked, arguments).await?
        } else {
            match self.context.child::<Value>(&child.workflow, &arguments).await {
                Ok(result) => Ok(result),
                Err(error) => Err(failure_of(error)?),
            }
        };
        let update = AgentUpdate::ToolEnded { call_id: call_id(), is_error: ended.is_err() };
        self.agent.tell(self.context, &update)?;
        match ended.and_then(|result| tool.limited(result_text(result))) {
            Ok(text) => Ok(Ended::Result(text)),
            Err(failure) if child.on_failure == OnFailure::Fail => {
                Err(WorkflowError::failed(failure))
            }
            Err(failure) if NOT_STARTED.contains(&failure.code.as_str()) => {
                Err(WorkflowError::failed(failure))
            }
            Err(failure) => Ok(Ended::Failed(tool.shortened(failure).to_string())),
        }
    }

    /// Runs an agent as a child, and settles what it has spent.
    async fn run_agent(
        &self,
        child: &Child,
        checked: &Checked,
        arguments: Value,
    ) -> Result<Result<Value, Failure>, WorkflowError> {
        let Assignment { task } = serde_json::from_value(arguments)?;
        let prompt = Prompt {
            subject: self.subject.map(str::to_owned),
            ..Prompt::new(task).delegated(Delegation { share: checked.share })
        };
        let child_run = self.context.child::<Report>(&child.workflow, &prompt);
        let ended = self.accounting.child(child_run, checked.share).await;
        let failure = match ended {
            Ok(report) => {
                self.accounting.settle_child(Ok(report.spent), checked.share)?;
                return Ok(Ok(report.output));
            }
            Err(error) => failure_of(error)?,
        };
        // Its result is not a report: the workflow does not know of budgets.
        if failure.code == "INVALID_RESULT" && spent_of(&failure).is_none() {
            let workflow = &child.workflow;
            let reason = format!(
                "workflow {workflow} is not an agent over a language model; call it with \
                 `Tool::workflow`"
            );
            return Err(WorkflowError::failed(Failure::new("INVALID_LLM_AGENT", reason)));
        }
        self.accounting.settle_child(Err(Some(&failure)), checked.share)?;
        Ok(Err(failure))
    }
}

/// The failure of a child. Other errors end the code of the caller, for example a cancellation.
fn failure_of(error: WorkflowError) -> Result<Failure, WorkflowError> {
    error.failure().cloned().ok_or(error)
}
