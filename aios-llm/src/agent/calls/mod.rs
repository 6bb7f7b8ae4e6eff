//! The tool calls of one response, which run concurrently.
//!
//! Each call is a task, or a child run, with its own retries and timeout. A failure is text for the
//! model, which decides what to do, with two exceptions: failures that are not those of a tool end the
//! run (`FATAL`), and an unknown outcome of a `write` call is decided by a person. The outcome is known
//! only if the function itself has returned it.
//!
//! ```text
//! approval required ──► a person ──rejected──► text for the model
//!    │ approved, perhaps edited, which the result says
//!    ▼
//! task or child ──ended──► result, or failure as text
//!    └── a `write` call with an unknown outcome ──► a person: done, failed, or repeat
//! ```
//!
//! A call of a `write` tool is never repeated by the engine alone once it may have begun.

mod call_ids;
mod children;
mod decisions;
mod ending;
mod places;
mod refused;

use std::time::Duration;

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{catalog::codes, event::Payload, failure::Failure};
use futures_util::future::join_all;
use serde::de::DeserializeOwned;

pub use self::decisions::pending_decisions;
pub(crate) use self::refused::{Answered, Edited, Refused};
pub(super) use self::{
    call_ids::CallIds,
    children::NOT_STARTED,
    decisions::{Decisions, emit},
    ending::Ending,
    places::Places,
};
use super::{accounting::Accounting, compiled::Compiled, host::ToolTask, session::LONGEST_WAIT};
use crate::{
    budget::Limits,
    model::{ToolCall, ToolResult},
    tool::{
        Approval, CompiledTool, Decision, Effect, InDoubt, PendingDecision, Resolution, is_returned,
    },
};

/// Failures that are not those of a tool: the run fails.
const FATAL: [&str; 5] = [
    codes::AGENT_NOT_FOUND,
    codes::TASK_UNCLAIMED,
    codes::TOOL_NOT_FOUND,
    codes::INVALID_OPTIONS,
    codes::INVALID_LLM_AGENT,
];

/// Why a call that waited for a person, or for other calls, did not run.
const RUN_FAILS: &str = "The call did not run: another call has ended the run.";

/// A call whose arguments are valid.
#[derive(Debug)]
pub(super) struct Checked {
    /// The call as the model made it.
    pub(super) call: ToolCall,
    /// Valid for the schema of the tool.
    pub(super) arguments: Payload,
    /// Turn and place of the call, which name its signals.
    pub(super) place: String,
    /// The part of the budget that a sub-agent gets.
    pub(super) share: Limits,
}

/// The results of several calls, and how many of them ran.
pub(super) struct Results {
    /// In the order of the calls.
    pub(super) results: Vec<ToolResult>,
    /// Calls that were rejected do not count.
    pub(super) ran: u64,
}

/// Where calls run.
pub(super) struct Calls<'s> {
    /// The agent that made the response.
    pub(super) agent: &'s Compiled,
    /// The run.
    pub(super) context: &'s WorkflowContext,
    /// Decisions of persons that the run waits for.
    pub(super) decisions: &'s Decisions,
    /// Settles what called agents have spent, and knows the rest of the wall time.
    pub(super) accounting: &'s Accounting,
    /// Passed on to called agents.
    pub(super) subject: Option<&'s str>,
    /// The agent type that runs the tools.
    pub(super) tools_type: &'s str,
    /// Where child runs wait for their turn.
    pub(super) places: Places,
    /// Set once a call ends the run.
    pub(super) ending: Ending,
}

/// The end of one call.
pub(super) enum Ended {
    /// The text of the result.
    Result(String),
    /// The call did not run, for this reason.
    Rejected(String),
    /// The call ran and failed, for this reason.
    Failed(String),
}

impl Calls<'_> {
    /// Runs all calls. The results have the order of the calls.
    pub(super) async fn run(&self, calls: &[Checked]) -> Result<Results, WorkflowError> {
        let mut all = Results { results: Vec::with_capacity(calls.len()), ran: 0 };
        // Calls are concurrent branches of the workflow. Their order in the journal is that of
        // their ends.
        let ended = join_all(calls.iter().map(|checked| self.run_one(checked))).await;
        for (checked, ended) in calls.iter().zip(ended) {
            let (content, is_error, ran) = match ended? {
                Ended::Result(text) => (text, false, 1),
                Ended::Failed(reason) => (reason, true, 1),
                Ended::Rejected(reason) => (reason, true, 0),
            };
            let ToolCall { id, name, .. } = &checked.call;
            let call_id = id.clone();
            let name = name.clone();
            all.results.push(ToolResult { call_id, name, content, is_error });
            all.ran += ran;
        }
        Ok(all)
    }

    /// Runs one call, and records why it did not run.
    async fn run_one(&self, checked: &Checked) -> Result<Ended, WorkflowError> {
        let ended = self.run_approved(checked).await;
        match &ended {
            Ok(Ended::Rejected(reason)) => {
                let ToolCall { id, name, .. } = &checked.call;
                let (call_id, tool, reason) = (id.clone(), name.clone(), reason.clone());
                emit(self.context, "tool", "refused", &Refused { call_id, tool, reason })?;
            }
            Ok(_) => {}
            Err(_) => self.ending.begin(),
        }
        ended
    }

    /// Records the result of a call that no task shows.
    pub(super) fn answered(
        &self,
        checked: &Checked,
        result: &str,
        is_error: bool,
    ) -> Result<(), WorkflowError> {
        let ToolCall { id, name, .. } = &checked.call;
        let (call_id, tool, result) = (id.clone(), name.clone(), result.to_owned());
        emit(self.context, "tool", "answered", &Answered { call_id, tool, result, is_error })
    }

    /// Runs one call, after a person has approved it if that is required.
    async fn run_approved(&self, checked: &Checked) -> Result<Ended, WorkflowError> {
        let Some(compiled) = self.agent.tools.get(&checked.call.name) else {
            return Ok(Ended::Rejected("There is no tool with this name.".to_owned()));
        };
        let edited = match compiled.tool.approval {
            Approval::NotRequired => None,
            Approval::Required => match self.approve(compiled, checked).await? {
                Some(Ok(edited)) => edited,
                Some(Err(reason)) => {
                    return Ok(Ended::Rejected(format!("A person rejected this call: {reason}")));
                }
                None => return Ok(Ended::Rejected(RUN_FAILS.to_owned())),
            },
        };
        let place = self.places.take(&compiled.tool).await;
        if place.is_some() && self.ending.has_begun() {
            return Ok(Ended::Rejected(RUN_FAILS.to_owned()));
        }
        let left = match self.accounting.time_left() {
            Ok(left) => left.map(|left| left.clamp(Duration::from_millis(1), LONGEST_WAIT)),
            // The person, or the calls before this one, have taken longer than that.
            Err(failure) => return Ok(Ended::Rejected(failure.to_string())),
        };
        let arguments = edited.clone().unwrap_or_else(|| checked.arguments.clone());
        let ended = match compiled.tool.child() {
            Some(child) => self.run_child(&compiled.tool, child, checked, arguments, left).await?,
            None => self.dispatch(compiled, checked, arguments, left).await?,
        };
        let Some(arguments) = edited else { return Ok(ended) };
        let edited = Edited::new(&checked.call, arguments);
        Ok(match ended {
            Ended::Result(text) => Ended::Result(edited.told(&text)),
            Ended::Failed(reason) => Ended::Failed(edited.told(&reason)),
            rejected @ Ended::Rejected(_) => rejected,
        })
    }

    /// Asks a person. `None` if another call ends the run, so that no decision is needed any more.
    async fn decide<T: DeserializeOwned, D>(
        &self,
        pending: PendingDecision,
        accept: impl Fn(T) -> Result<D, String>,
    ) -> Result<Option<D>, WorkflowError> {
        let signal = pending.signal.clone();
        aios_agents::select! {
            () = self.ending.begun() => {}
            decision = self.decisions.decide(self.context, pending, accept) => {
                return decision.map(Some);
            }
        }
        self.decisions.withdraw(self.context, &signal)?;
        Ok(None)
    }

    /// Asks a person. Returns the arguments if they were changed, or the reason of the rejection; `None`
    /// if the run ends.
    async fn approve(
        &self,
        compiled: &CompiledTool,
        checked: &Checked,
    ) -> Result<Option<Result<Option<Payload>, String>>, WorkflowError> {
        let mut pending = PendingDecision {
            signal: format!("approval-{}", checked.place),
            tool: compiled.tool.name.clone(),
            arguments: checked.arguments.clone(),
            in_doubt: None,
            refused: None,
        };
        loop {
            let accept = |decision: Decision| match decision {
                Decision::Edit { arguments } => {
                    self.agent.check_size(arguments.as_str())?;
                    compiled.schema.check_json(&arguments)?;
                    Ok(Decision::Edit { arguments })
                }
                decision => Ok(decision),
            };
            let arguments = match self.decide(pending.clone(), accept).await? {
                None => return Ok(None),
                Some(Decision::Approve) => return Ok(Some(Ok(None))),
                Some(Decision::Reject { reason }) => return Ok(Some(Err(reason))),
                Some(Decision::Edit { arguments }) => arguments,
            };
            let tool = &compiled.tool.name;
            match self.agent.argument_fault(self.context, tool, &arguments).await? {
                None => {
                    let edited = Edited::new(&checked.call, arguments.clone());
                    emit(self.context, "tool", "edited", &edited)?;
                    return Ok(Some(Ok(Some(arguments))));
                }
                // Asked again, with the reason.
                fault => pending.refused = fault,
            }
        }
    }

    /// Runs a call as a task, again if a person says so. The wall time does not end a `write` call,
    /// whose outcome would be unknown.
    async fn dispatch(
        &self,
        compiled: &CompiledTool,
        checked: &Checked,
        arguments: Payload,
        left: Option<Duration>,
    ) -> Result<Ended, WorkflowError> {
        let tool = &compiled.tool;
        let left = left.filter(|_| tool.effect != Effect::Write);
        let task =
            ToolTask { tool: tool.name.clone(), call_id: checked.call.id.clone(), arguments };
        // Counts the doubts of this call, which name the signals.
        let mut doubts = 0;
        loop {
            let call = self.context.task::<String>(self.tools_type, &task).timeout(tool.timeout);
            let call = call.retry(tool.retry.clone());
            let call = match left {
                Some(left) => call.total_timeout(left),
                None => call,
            };
            let error = match call.await {
                Ok(result) => return Ok(Ended::Result(result)),
                Err(error) => error,
            };
            let Some(failure) = error.failure() else { return Err(error) };
            if is_returned(failure) {
                return Ok(Ended::Failed(failure.to_string()));
            }
            let is_write = tool.effect == Effect::Write;
            // The model can't do anything about these. An earlier attempt at a `write` call may have
            // begun nevertheless, unless none was assigned.
            let is_fatal = FATAL.contains(&&*failure.code) && !is_write;
            if is_fatal || failure.code == codes::INVALID_OPTIONS {
                return Err(error);
            }
            if !is_write {
                return Ok(Ended::Failed(failure.to_string()));
            }
            doubts += 1;
            match self.resolve(checked, &task, failure, doubts).await? {
                Some(Resolution::Done { result }) => {
                    self.answered(checked, &result, false)?;
                    return Ok(Ended::Result(result));
                }
                Some(Resolution::Fail { reason }) => {
                    self.answered(checked, &reason, true)?;
                    return Ok(Ended::Failed(reason));
                }
                Some(Resolution::Repeat) => {}
                None => return Ok(Ended::Failed(failure.to_string())),
            }
        }
    }

    /// Asks a person how a `write` call ended; `None` if the run ends. Each doubt has a signal of its
    /// own, so that an answer that was sent twice does not decide about the next one.
    async fn resolve(
        &self,
        checked: &Checked,
        task: &ToolTask,
        failure: &Failure,
        doubts: u32,
    ) -> Result<Option<Resolution>, WorkflowError> {
        let signal = match doubts {
            1 => format!("in-doubt-{}", checked.place),
            later => format!("in-doubt-{}-{later}", checked.place),
        };
        let in_doubt = InDoubt { code: failure.code.clone(), message: failure.message.clone() };
        let pending = PendingDecision {
            signal,
            tool: task.tool.clone(),
            arguments: task.arguments.clone(),
            in_doubt: Some(in_doubt),
            refused: None,
        };
        self.decide(pending, Ok::<Resolution, String>).await
    }
}
