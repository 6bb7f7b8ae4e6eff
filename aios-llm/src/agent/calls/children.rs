//! Tool calls that are child runs.
//!
//! The child is a workflow, or another agent over a language model. An agent gets a share of the
//! caller's budget with its prompt, and reports what it has spent with its result.
//!
//! The updates of a call that is a child are written by the code of the workflow, because no task
//! of the caller's agent types runs it.

use std::time::Duration;

use aios_agents::workflow::WorkflowError;
use aios_core::{catalog::codes, event::Payload, failure::Failure};

use super::{Calls, Checked, Ended};
use crate::{
    agent::{
        AgentUpdate, Prompt,
        delegation::{Delegation, Report, sums_of},
        session::LONGEST_WAIT,
    },
    budget::Limits,
    tool::{Assignment, Child, OnFailure, Tool, result_text},
};

/// Failures of a child that never ran: the run of the caller fails.
pub(in crate::agent) const NOT_STARTED: [&str; 4] =
    [codes::WORKFLOW_NOT_FOUND, codes::RUN_EXISTS, codes::INVALID_RUN_ID, codes::INVALID_CHILD];

/// How long an agent whose wall time is over has to report what it has spent.
const GRACE: Duration = Duration::from_secs(10);

impl Calls<'_> {
    /// Runs a call as a child run, for as long as the wall time allows.
    pub(in crate::agent) async fn run_child(
        &self,
        tool: &Tool,
        child: &Child,
        checked: &Checked,
        arguments: Payload,
        left: Option<Duration>,
    ) -> Result<Ended, WorkflowError> {
        let call_id = || checked.call.id.clone();
        let started = AgentUpdate::ToolStarted { call_id: call_id(), tool: tool.name.clone() };
        self.agent.tell(self.context, &started)?;
        let ended = if child.is_agent {
            self.run_agent(child, checked, &arguments, left).await?
        } else {
            self.run_workflow(child, &arguments, left).await?
        };
        let update = AgentUpdate::ToolEnded { call_id: call_id(), is_error: ended.is_err() };
        self.agent.tell(self.context, &update)?;
        match ended {
            Ok(result) => {
                // The child was paid for, and what it did is done.
                let text = tool.shown(result_text(&result));
                self.answered(checked, &text, false)?;
                Ok(Ended::Result(text))
            }
            Err(failure) => {
                let reason = tool.shortened(failure.clone()).to_string();
                self.answered(checked, &reason, true)?;
                // An agent that has run says what it has spent, whatever the code of its failure.
                let is_fatal = NOT_STARTED.contains(&&*failure.code) && sums_of(&failure).is_none();
                if is_fatal || child.on_failure == OnFailure::Fail {
                    return Err(WorkflowError::failed(failure));
                }
                Ok(Ended::Failed(reason))
            }
        }
    }

    /// Runs a workflow as a child, and cancels it at the end of the wall time.
    async fn run_workflow(
        &self,
        child: &Child,
        arguments: &Payload,
        left: Option<Duration>,
    ) -> Result<Result<Payload, Failure>, WorkflowError> {
        let call = self.context.child::<Payload>(&child.workflow, arguments);
        let ended = match left {
            None => call.await,
            Some(left) => aios_agents::select! {
                ended = call.cancel_when_dropped() => ended,
                elapsed = self.context.sleep(left) => {
                    elapsed?;
                    return Ok(Err(out_of_time()));
                }
            },
        };
        match ended {
            Ok(result) => Ok(Ok(result)),
            Err(error) => Ok(Err(failure_of(error)?)),
        }
    }

    /// Runs an agent as a child, and settles what it has spent. The agent gets the wall time that is
    /// left, ends with it, and reports. One that waits does not, and is cancelled a little later.
    async fn run_agent(
        &self,
        child: &Child,
        checked: &Checked,
        arguments: &Payload,
        left: Option<Duration>,
    ) -> Result<Result<Payload, Failure>, WorkflowError> {
        let Assignment { task } = serde_json::from_str(arguments.as_str())?;
        // The share is that of the time when the calls were reserved. A person may have approved this
        // one much later.
        let share = checked.share.within(Limits { wall_time: left, ..Limits::default() });
        let prompt = Prompt {
            subject: self.subject.map(str::to_owned),
            ..Prompt::new(task).delegated(Delegation { share })
        };
        let child_run = self.context.child::<Report>(&child.workflow, &prompt);
        let longest = left.map(|left| left.saturating_add(GRACE).min(LONGEST_WAIT));
        let ended = self.accounting.child(child_run, checked.share, longest).await;
        let failure = match ended {
            Ok(None) => {
                self.accounting.settle_child(Err(None), checked.share)?;
                return Ok(Err(out_of_time()));
            }
            Ok(Some(report)) => {
                self.accounting.settle_child(Ok(report.sums()), checked.share)?;
                return Ok(Ok(report.output));
            }
            Err(error) => failure_of(error)?,
        };
        // Its result is not a report: the workflow does not know of budgets.
        if failure.code == codes::INVALID_RESULT && sums_of(&failure).is_none() {
            let workflow = &child.workflow;
            let reason = format!(
                "workflow {workflow} is not an agent over a language model; call it with \
                 `Tool::workflow`"
            );
            return Err(WorkflowError::failed(Failure::new(codes::INVALID_LLM_AGENT, reason)));
        }
        self.accounting.settle_child(Err(Some(&failure)), checked.share)?;
        Ok(Err(failure))
    }
}

/// The failure of a child that is cancelled at the end of the wall time.
fn out_of_time() -> Failure {
    Failure::new(codes::TASK_TIMEOUT, "the wall time of the run is over")
}

/// The failure of a child. Other errors end the code of the caller, for example a cancellation.
fn failure_of(error: WorkflowError) -> Result<Failure, WorkflowError> {
    error.failure().cloned().ok_or(error)
}
