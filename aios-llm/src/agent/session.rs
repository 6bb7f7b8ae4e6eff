//! The loop of one run: model call, tool calls, output.

use std::{sync::Arc, time::Duration};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{
    catalog::codes::{self, Retry},
    failure::Failure,
    retry::RetryPolicy,
};
use serde_json::{Value, json};

use super::{
    AgentUpdate, Prompt, Streaming, TOKENS,
    accounting::Accounting,
    calls::{Calls, Checked},
    compiled::Compiled,
    decisions::{Decisions, emit},
    delegation::report,
    faults::Faults,
    handover::{HAND_BACK, HandedOver},
    history::{MISSING, ModelTask, Told},
    host::{GUARDRAIL, ToolTask},
    output::FINAL_TOOL,
};
use crate::{
    budget::{Limits, Spent},
    guardrail::{Stage, Verdict},
    model::{FinishReason, Message, ModelError, ModelRequest, ModelResponse, ToolCall, ToolResult},
};

/// Longest timer of a workflow: 100 years.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The fault of a call that is not complete.
const CALL_CUT_OFF: &str = "The call was cut off at the maximum number of tokens and did not run. \
    Make it shorter, or divide the work.";

/// The workflow of an agent.
pub(super) async fn run(
    agent: Arc<Compiled>,
    context: WorkflowContext,
    prompt: Prompt,
) -> Result<Value, WorkflowError> {
    if prompt.messages.is_empty() {
        let reason = "a prompt has at least one message";
        return Err(WorkflowError::failed(Failure::new("INVALID_PARAMETERS", reason)));
    }
    let is_delegated = prompt.delegation.is_some();
    let mut session = Session::new(agent, context, prompt)?;
    let ended = session.run().await;
    if ended.is_err() {
        session.accounting.settle_rest().await?;
    }
    if is_delegated { report(ended, session.accounting.spent()) } else { ended }
}

pub(super) struct Session {
    pub(super) agent: Arc<Compiled>,
    pub(super) context: WorkflowContext,
    model_type: String,
    tools_type: String,
    /// The agents that handed the conversation over and may get it back.
    former: Vec<Arc<Compiled>>,
    /// The instructions of the prompt, which replace those of the first agent.
    instructions: Option<String>,
    pub(super) messages: Vec<Message>,
    /// Twice the number of times that messages were replaced.
    pub(super) epoch: u32,
    accounting: Accounting,
    subject: Option<String>,
    pub(super) faults: Faults,
    decisions: Decisions,
    /// The part of the conversation that the model calls have told.
    told: Told,
}

impl Session {
    fn new(
        agent: Arc<Compiled>,
        context: WorkflowContext,
        prompt: Prompt,
    ) -> Result<Self, WorkflowError> {
        let share = prompt.delegation.map(|it| it.share).unwrap_or_default();
        let accounting = Accounting::new(&agent, &context, share, prompt.subject.as_deref())?;
        Ok(Self {
            model_type: agent.model_type(),
            tools_type: agent.tools_type(),
            former: Vec::new(),
            instructions: prompt.instructions,
            messages: prompt.messages,
            epoch: 0,
            accounting,
            subject: prompt.subject,
            faults: Faults::default(),
            decisions: Decisions::default(),
            told: Told::default(),
            agent,
            context,
        })
    }

    /// Requests responses and runs their calls until there is an output.
    async fn run(&mut self) -> Result<Value, WorkflowError> {
        self.check(Stage::Input, &json!(self.messages)).await?;
        let turns = self.agent.options.max_turns;
        for turn in 1..=turns {
            let response = self.model_call().await?;
            if let Some(output) = self.handle(turn, &response).await? {
                self.check(Stage::Output, &output).await?;
                self.end_stream()?;
                return Ok(output);
            }
            self.compact(turn, response.usage.total_tokens()).await?;
        }
        let reason = format!("the agent has no result after {turns} model responses (`max_turns`)");
        Err(WorkflowError::failed(Failure::new("TURN_LIMIT", reason)))
    }

    /// Runs the guardrails of the current agent that check this.
    async fn check(&self, stage: Stage, value: &Value) -> Result<(), WorkflowError> {
        for guardrail in self.agent.guardrails.iter().filter(|it| it.stage == stage) {
            let tool = format!("{GUARDRAIL}{}", guardrail.name());
            let call_id = String::new();
            let task = ToolTask { tool, call_id, arguments: value.clone() };
            let check = self.context.task::<Verdict>(self.tools_type.as_str(), &task);
            if let Verdict::Trip { reason } = check.timeout(guardrail.timeout).await? {
                let tripped = guardrail.tripped(&reason);
                emit(&self.context, "guardrail", "tripped", &tripped)?;
                return Err(WorkflowError::failed(tripped.to_failure()));
            }
        }
        Ok(())
    }

    fn end_stream(&self) -> Result<(), WorkflowError> {
        if self.agent.options.streaming == Streaming::Off {
            return Ok(());
        }
        let ended = self.context.stream(TOKENS)?.end();
        ended.map_err(|error| WorkflowError::failed(Failure::from_error(error.code(), &error)))
    }

    /// Requests the next response.
    async fn model_call(&mut self) -> Result<ModelResponse, WorkflowError> {
        self.call(None).await
    }

    /// Requests a summary. It has an epoch of its own, before that of the messages that follow.
    pub(super) async fn summary_call(
        &mut self,
        request: ModelRequest,
    ) -> Result<ModelResponse, WorkflowError> {
        self.call(Some(request)).await
    }

    /// Requests the next response, or a summary. Every request is an operation, also a repeated one.
    async fn call(
        &mut self,
        summary: Option<ModelRequest>,
    ) -> Result<ModelResponse, WorkflowError> {
        let is_summary = summary.is_some();
        let epoch = self.epoch + u32::from(is_summary);
        let mut attempt = 1;
        loop {
            let mut request = summary.clone().unwrap_or_else(|| self.request());
            let granted = self.accounting.reserve_request(&self.agent, &mut request).await?;
            let timeout = self.model_timeout(granted.left);
            let told = self.told.next(epoch, request);
            let task = ModelTask { is_cheaper: granted.is_cheaper, is_summary, ..told };
            let is_whole = task.kept == 0;
            let call = self.context.task::<ModelResponse>(self.model_type.as_str(), &task);
            let ended = call.retry(RetryPolicy::never()).timeout(timeout).await;
            let error = match ended {
                Ok(response) => {
                    let name = match response.model.as_str() {
                        "" => self.agent.model(granted.is_cheaper).name(),
                        name => name,
                    };
                    self.accounting.settle_response(name, &response).await?;
                    return Ok(response);
                }
                Err(error) => error,
            };
            let Some(failure) = error.failure() else { return Err(error) };
            if failure.code == MISSING && !is_whole {
                // No request was made. The next call holds the whole conversation.
                self.told.forget();
                self.accounting.settle(Spent::default()).await?;
                continue;
            }
            let reported = ModelError::from_failure(failure);
            let usage = reported.as_ref().and_then(ModelError::usage).unwrap_or_default();
            let delay = self.delay_after(attempt, failure, reported.as_ref());
            let names = self.agent.model(granted.is_cheaper).names();
            self.accounting.settle_request(&names, usage).await?;
            let Some(delay) = delay else { return Err(error) };
            // After that, no request is left in the wall time anyway.
            self.context.sleep(granted.left.map_or(delay, |left| delay.min(left))).await?;
            attempt += 1;
        }
    }

    /// The timeout of a model call, if this much of the wall time is left.
    fn model_timeout(&self, left: Option<Duration>) -> Duration {
        let timeout = self.agent.options.model_timeout;
        left.map_or(timeout, |left| timeout.min(left.max(Duration::from_millis(1))))
    }

    /// When to repeat a request that failed; `None` if it is not repeated.
    fn delay_after(
        &self,
        attempt: u32,
        failure: &Failure,
        reported: Option<&ModelError>,
    ) -> Option<Duration> {
        let policy = &self.agent.options.model_retry;
        let is_retryable = match reported {
            Some(error) => error.is_retryable(),
            None => codes::find(&failure.code).is_some_and(|code| code.retry != Retry::No),
        };
        if !is_retryable || !policy.allows(&failure.code) {
            return None;
        }
        let delay = policy.delay_after(attempt, self.context.random())?;
        let asked = reported.and_then(ModelError::retry_after).unwrap_or_default();
        Some(delay.max(asked)).filter(|delay| *delay <= LONGEST_WAIT)
    }

    fn request(&self) -> ModelRequest {
        let of_prompt = self.instructions.clone().filter(|_| self.former.is_empty());
        let of_agent = of_prompt.or_else(|| self.agent.instructions.clone());
        let instructions: Vec<_> =
            [of_agent, self.accounting.soft_notice()].into_iter().flatten().collect();
        let mut request = ModelRequest {
            instructions: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            messages: self.messages.clone(),
            tools: self.agent.specs.clone(),
            max_output_tokens: self.agent.options.max_output_tokens,
            temperature: self.agent.options.temperature,
            ..ModelRequest::default()
        };
        self.agent.output.request_in(&mut request);
        request
    }

    /// Handles a response. Returns the output if it is final.
    async fn handle(
        &mut self,
        turn: u32,
        response: &ModelResponse,
    ) -> Result<Option<Value>, WorkflowError> {
        if response.finish_reason == FinishReason::Refusal {
            let reason = format!("the model refused to answer: {}", response.output_text());
            return Err(WorkflowError::failed(Failure::new("MODEL_REFUSED", reason)));
        }
        self.messages.push(response.to_message());
        if response.tool_calls().next().is_none() {
            return self.finish(response);
        }
        self.handle_calls(turn, response).await
    }

    /// Handles a response without tool calls.
    fn finish(&mut self, response: &ModelResponse) -> Result<Option<Value>, WorkflowError> {
        let fault = match (&response.finish_reason, self.agent.output.is_tool()) {
            (FinishReason::Length, _) => {
                "The answer was cut off at the maximum number of tokens. Answer more briefly."
                    .to_owned()
            }
            (_, true) => format!("Call the tool {FINAL_TOOL} with the result."),
            _ => match self.agent.output.read(&response.output_text()) {
                Ok(output) => return Ok(Some(output)),
                Err(fault) => fault,
            },
        };
        self.faults.faulty(self.agent.options.max_faults, &fault)?;
        self.messages.push(Message::user(fault));
        Ok(None)
    }

    async fn handle_calls(
        &mut self,
        turn: u32,
        response: &ModelResponse,
    ) -> Result<Option<Value>, WorkflowError> {
        let mut results: Vec<Option<ToolResult>> = Vec::new();
        let mut checked = Vec::new();
        let mut last_fault = None;
        let mut next = None;
        let last = response.tool_calls().count().saturating_sub(1);
        for (index, call) in response.tool_calls().cloned().enumerate() {
            let is_output = self.agent.output.is_tool() && call.name == FINAL_TOOL;
            let is_cut_off = index == last && response.is_call_cut_off();
            let successor = self.successor(&call.name).filter(|_| next.is_none() && !is_cut_off);
            if let Some(agent) = successor {
                let content = format!("The conversation continues with {}.", agent.name.as_str());
                next = Some((call.name == HAND_BACK, agent));
                let ToolCall { id: call_id, name, .. } = call;
                results.push(Some(ToolResult { call_id, name, content, is_error: false }));
                continue;
            }
            let fault = if is_cut_off {
                CALL_CUT_OFF.to_owned()
            } else if is_output {
                match self.agent.output.read(&call.arguments) {
                    Ok(output) => return Ok(Some(output)),
                    Err(fault) => fault,
                }
            } else {
                match self.faults.check(&self.agent, &call, self.accounting.depth()) {
                    Ok(arguments) => {
                        let place = format!("{turn}-{index}");
                        let share = Limits::default();
                        checked.push(Checked { call, arguments, place, share });
                        results.push(None);
                        continue;
                    }
                    Err(fault) => fault,
                }
            };
            last_fault = Some(fault.clone());
            let ToolCall { id: call_id, name, .. } = call;
            results.push(Some(ToolResult { call_id, name, content: fault, is_error: true }));
        }
        match last_fault {
            Some(fault) => self.faults.faulty(self.agent.options.max_faults, &fault)?,
            None => self.faults.faultless(),
        }
        let mut ran = self.run_calls(checked).await?.into_iter();
        let results = results.into_iter().filter_map(|result| result.or_else(|| ran.next()));
        self.messages.push(Message::tool_results(results.collect::<Vec<_>>()));
        if let Some((is_back, agent)) = next {
            self.hand_over(is_back, agent)?;
        }
        Ok(None)
    }

    /// The agent that continues the conversation after a call of this tool.
    fn successor(&self, tool: &str) -> Option<Arc<Compiled>> {
        match tool {
            HAND_BACK if self.agent.hands_back => self.former.last().map(Arc::clone),
            tool => self.agent.handovers.get(tool).map(Arc::clone),
        }
    }

    /// Continues the conversation with another agent.
    fn hand_over(&mut self, is_back: bool, agent: Arc<Compiled>) -> Result<(), WorkflowError> {
        let from = std::mem::replace(&mut self.agent, agent);
        let to = self.agent.name.as_str();
        emit(&self.context, "agent", "handed_over", &HandedOver { from: from.name.as_str(), to })?;
        self.agent.tell(&self.context, &AgentUpdate::HandedOver { to: to.to_owned() })?;
        self.accounting.handed_over();
        (self.model_type, self.tools_type) = (self.agent.model_type(), self.agent.tools_type());
        if is_back {
            self.former.pop();
        } else {
            self.former.push(from);
        }
        Ok(())
    }

    async fn run_calls(&self, mut calls: Vec<Checked>) -> Result<Vec<ToolResult>, WorkflowError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        let mut wanted: Vec<_> = calls.iter_mut().filter_map(|it| self.limits_of(it)).collect();
        let limits: Vec<_> = wanted.iter().map(|(_, limits)| *limits).collect();
        let (shares, left) = self.accounting.reserve_calls(count, &limits).await?;
        for ((call, _), share) in wanted.iter_mut().zip(shares) {
            call.share = share;
        }
        let running = Calls {
            agent: &self.agent,
            context: &self.context,
            decisions: &self.decisions,
            subject: self.subject.as_deref(),
            accounting: &self.accounting,
            tools_type: &self.tools_type,
            left,
        };
        let ended = running.run(&calls).await?;
        self.accounting.settle(Spent { tool_calls: ended.ran, ..Spent::default() }).await?;
        Ok(ended.results)
    }

    /// A call with the limits of the agent that it calls, if it does.
    fn limits_of<'c>(&self, checked: &'c mut Checked) -> Option<(&'c mut Checked, Limits)> {
        let child = self.agent.tools.get(&checked.call.name)?.tool.child()?;
        child.is_agent.then_some((checked, child.limits))
    }
}
