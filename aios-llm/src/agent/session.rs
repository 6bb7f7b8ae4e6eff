//! The loop of one run: model call, tool calls, output.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{
    catalog::codes::{self, Retry},
    event::Timestamp,
    failure::Failure,
    retry::RetryPolicy,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Prompt, Streaming, TOKENS,
    calls::{Calls, Checked},
    compiled::Compiled,
    decisions::{Decisions, emit},
    faults::Faults,
    history::{MISSING, Told},
    output::FINAL_TOOL,
};
use crate::{
    budget::{Account, AtLimit, BUDGET_SIGNAL, BudgetDecision, Exceeded, Reservation, Spent},
    model::{
        FinishReason, Message, ModelError, ModelRequest, ModelResponse, ToolCall, ToolResult, Usage,
    },
};

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
    let mut session = Session::new(agent, context, prompt);
    session.settle_when_cancelled();
    for turn in 1..=session.agent.options.max_turns {
        let response = session.model_call().await?;
        if let Some(output) = session.handle(turn, &response).await? {
            session.end_stream()?;
            return Ok(output);
        }
    }
    let turns = session.agent.options.max_turns;
    let reason = format!("the agent has no result after {turns} model responses (`max_turns`)");
    Err(WorkflowError::failed(Failure::new("TURN_LIMIT", reason)))
}

struct Session {
    agent: Arc<Compiled>,
    context: WorkflowContext,
    started: Timestamp,
    model_type: String,
    tools_type: String,
    instructions: Option<String>,
    messages: Vec<Message>,
    account: Account,
    faults: Faults,
    decisions: Decisions,
    /// The part of the conversation that the model calls have told.
    told: Told,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Serialize)]
struct Reserved<'a> {
    amounts: &'a Spent,
}

#[derive(Serialize)]
struct Settled<'a> {
    amounts: &'a Spent,
    spent: &'a Spent,
    /// Whether the amounts are an estimate, because the run was cancelled during the call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_estimate: bool,
}

/// The amounts to settle if the run is cancelled.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    in_progress: Option<Spent>,
    spent: Spent,
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    fn new(agent: Arc<Compiled>, context: WorkflowContext, prompt: Prompt) -> Self {
        Self {
            started: context.now(),
            model_type: agent.model_type(),
            tools_type: agent.tools_type(),
            instructions: prompt.instructions.or_else(|| agent.instructions.clone()),
            messages: prompt.messages,
            account: Account::new(agent.budget.clone()),
            faults: Faults::default(),
            decisions: Decisions::default(),
            told: Told::default(),
            ledger: Arc::default(),
            agent,
            context,
        }
    }

    fn end_stream(&self) -> Result<(), WorkflowError> {
        if self.agent.options.streaming == Streaming::Off {
            return Ok(());
        }
        let ended = self.context.stream(TOKENS)?.end();
        ended.map_err(|error| WorkflowError::failed(Failure::from_error(error.code(), &error)))
    }

    /// Requests the next response. Every request is an operation, also a repeated one.
    async fn model_call(&mut self) -> Result<ModelResponse, WorkflowError> {
        let mut attempt = 1;
        loop {
            let (request, timeout) = self.reserve_request().await?;
            let task = self.told.next(0, request);
            let is_whole = task.kept == 0;
            let call = self.context.task::<ModelResponse>(self.model_type.as_str(), &task);
            let ended = call.retry(RetryPolicy::never()).timeout(timeout).await;
            let error = match ended {
                Ok(response) => {
                    self.settle(self.account.amounts(self.priced(&response), response.usage))?;
                    return Ok(response);
                }
                Err(error) => error,
            };
            let Some(failure) = error.failure() else { return Err(error) };
            if failure.code == MISSING && !is_whole {
                // No request was made. The next call holds the whole conversation.
                self.told.forget();
                self.settle(Spent::default())?;
                continue;
            }
            let reported = ModelError::from_failure(failure);
            let usage = reported.as_ref().and_then(ModelError::usage).unwrap_or_default();
            let amounts = self.account.amounts(self.agent.model.name(), usage);
            let delay = self.delay_after(attempt, failure, reported.as_ref());
            self.settle(amounts)?;
            let Some(delay) = delay else { return Err(error) };
            self.context.sleep(delay).await?;
            attempt += 1;
        }
    }

    /// The name under which a response is priced.
    fn priced<'r>(&'r self, response: &'r ModelResponse) -> &'r str {
        match response.model.as_str() {
            "" => self.agent.model.name(),
            name => name,
        }
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
        Some(delay.max(asked))
    }

    /// Reserves a request and returns it with the timeout of the call.
    async fn reserve_request(&mut self) -> Result<(ModelRequest, Duration), WorkflowError> {
        loop {
            let mut request = self.request();
            let elapsed = self.context.now().duration_since(self.started);
            let reserved = self.account.time_left(elapsed).and_then(|left| {
                let model = self.agent.model.name();
                Ok((left, self.account.reserve_request(model, &mut request)?))
            });
            match reserved {
                Ok((left, reservation)) => {
                    self.record(&reservation)?;
                    let timeout = self.agent.options.model_timeout;
                    let least = Duration::from_millis(1);
                    return Ok((
                        request,
                        left.map_or(timeout, |left| timeout.min(left.max(least))),
                    ));
                }
                Err(failure) => self.at_limit(failure).await?,
            }
        }
    }

    /// Handles a limit: fails, or waits until a person raises it.
    async fn at_limit(&mut self, failure: Failure) -> Result<(), WorkflowError> {
        let asks = self.agent.budget.at_limit == AtLimit::Ask && failure.code == Exceeded::CODE;
        if !asks {
            return Err(WorkflowError::failed(failure));
        }
        emit(&self.context, "budget", "limit_reached", &failure.details)?;
        self.context
            .set_status(format!("waits for the signal `{BUDGET_SIGNAL}`: {}", failure.message));
        let decision: Value = self.context.signal(BUDGET_SIGNAL).await?;
        match serde_json::from_value(decision) {
            Ok(BudgetDecision::Raise { limits }) => self.account.raise(limits),
            Ok(BudgetDecision::Stop) => return Err(WorkflowError::failed(failure)),
            // Not a decision: the next reservation asks again.
            Err(error) => self.context.set_status(format!("the signal was not accepted: {error}")),
        }
        Ok(())
    }

    /// Settles the call in progress if the run is cancelled. Its provider does not report what it
    /// costs, so that the reserved input counts, and no output.
    fn settle_when_cancelled(&self) {
        let ledger = Arc::clone(&self.ledger);
        self.context.compensate("settle", move |context| async move {
            let Ledger { in_progress, mut spent } = *lock(&ledger);
            let Some(amounts) = in_progress else { return Ok(()) };
            spent = spent.plus(&amounts);
            let settled = Settled { amounts: &amounts, spent: &spent, is_estimate: true };
            emit(&context, "budget", "settled", &settled)
        });
    }

    fn record(&self, reservation: &Reservation) -> Result<(), WorkflowError> {
        let Spent { usage, tool_calls, requests, .. } = reservation.0;
        let least = if requests > 0 {
            let model = self.agent.model.name();
            self.account.amounts(model, Usage::new(usage.input_tokens, 0))
        } else {
            Spent { tool_calls, ..Spent::default() }
        };
        lock(&self.ledger).in_progress = Some(least);
        emit(&self.context, "budget", "reserved", &Reserved { amounts: &reservation.0 })
    }

    fn settle(&mut self, amounts: Spent) -> Result<(), WorkflowError> {
        self.account.settle(amounts);
        let spent = self.account.spent();
        *lock(&self.ledger) = Ledger { in_progress: None, spent: *spent };
        let settled = Settled { amounts: &amounts, spent, is_estimate: false };
        emit(&self.context, "budget", "settled", &settled)
    }

    fn request(&self) -> ModelRequest {
        let instructions = [self.instructions.clone(), self.account.soft_notice()];
        let instructions: Vec<_> = instructions.into_iter().flatten().collect();
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
        let calls: Vec<_> = response.tool_calls().cloned().collect();
        if calls.is_empty() {
            return self.finish(response);
        }
        self.handle_calls(turn, calls).await
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
        calls: Vec<ToolCall>,
    ) -> Result<Option<Value>, WorkflowError> {
        let mut results: Vec<Option<ToolResult>> = Vec::with_capacity(calls.len());
        let (mut checked, mut last_fault) = (Vec::new(), None);
        for (index, call) in calls.into_iter().enumerate() {
            let is_output = self.agent.output.is_tool() && call.name == FINAL_TOOL;
            let fault = if is_output {
                match self.agent.output.read(&call.arguments) {
                    Ok(output) => return Ok(Some(output)),
                    Err(fault) => fault,
                }
            } else {
                match self.faults.check(&self.agent, &call) {
                    Ok(arguments) => {
                        let place = format!("{turn}-{index}");
                        checked.push(Checked { call, arguments, place });
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
        let mut ran = self.run_calls(&checked).await?.into_iter();
        let results = results.into_iter().filter_map(|result| result.or_else(|| ran.next()));
        self.messages.push(Message::tool_results(results.collect::<Vec<_>>()));
        Ok(None)
    }

    async fn run_calls(&mut self, calls: &[Checked]) -> Result<Vec<ToolResult>, WorkflowError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        loop {
            match self.account.reserve_tool_calls(count) {
                Ok(reservation) => break self.record(&reservation)?,
                Err(failure) => self.at_limit(failure).await?,
            }
        }
        let running = Calls {
            agent: &self.agent,
            context: &self.context,
            decisions: &self.decisions,
            tools_type: &self.tools_type,
        };
        let ended = running.run(calls).await?;
        self.settle(Spent { tool_calls: ended.ran, ..Spent::default() })?;
        Ok(ended.results)
    }
}
