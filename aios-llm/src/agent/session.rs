//! The loop of one run: model call, tool calls, output.
//!
//! ```text
//! input guardrails
//!   │
//!   ▼
//! model call ──► handle the response ──output──► output guardrails ──► end
//!   ▲               │ calls ran, or a fault was reported
//!   └── compact ◄───┘   (at most `max_turns` responses)
//! ```
//!
//! The code is that of a workflow: it awaits only operations of its context. Model calls, tool
//! calls, guardrails, decisions and steps on the budget are all recorded, and a replay reaches the
//! same messages.
//!
//! A failed model call is repeated by this code and not by the engine, because each request has to
//! be reserved before and settled after. The waiting time is a durable timer. It is the longer one
//! of the retry policy's and the provider's `Retry-After`.

use std::{sync::Arc, time::Duration};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{
    catalog::codes::{self, Retry},
    event::Payload,
    failure::Failure,
    retry::RetryPolicy,
};

use super::{
    Prompt, Streaming, TOKENS,
    accounting::Accounting,
    calls::{Decisions, emit},
    checks::{self, GUARDRAIL},
    compiled::Compiled,
    delegation::report,
    faults::Faults,
    handover,
    history::{ModelTask, SentMessages},
};
use crate::{
    budget::Spent,
    guardrail::{Stage, Verdict},
    model::{Message, ModelError, ModelErrorKind, ModelRequest, ModelResponse},
};

/// Longest timer of a workflow: 100 years.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Wait before a request that could not be made, if nothing says how long to wait.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// Shortest wait before a request that could not be made.
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// The workflow of an agent.
pub(super) async fn run(
    agent: Arc<Compiled>,
    context: WorkflowContext,
    prompt: Prompt,
) -> Result<Payload, WorkflowError> {
    if prompt.messages.is_empty() {
        let reason = "a prompt has at least one message";
        return Err(WorkflowError::failed(Failure::new(codes::INVALID_PARAMETERS, reason)));
    }
    let is_delegated = prompt.delegation.is_some();
    let mut session = Session::new(agent, context, prompt)?;
    let ended = session.run().await;
    if ended.is_err() {
        // The run fails for its own reason. What cannot be settled here, the compensation tries again.
        let _settled = session.accounting.settle_rest().await;
    }
    if is_delegated { report(ended, session.accounting.sums()) } else { ended }
}

/// The state of one run. It is rebuilt by each replay.
pub(super) struct Session {
    /// The agent that continues the conversation. It changes with a handover.
    pub(super) agent: Arc<Compiled>,
    /// The run.
    pub(super) context: WorkflowContext,
    /// The agent type of the model calls of the current agent.
    pub(super) model_type: String,
    /// The agent type of the tools of the current agent.
    pub(super) tools_type: String,
    /// The agents that handed the conversation over and may get it back.
    pub(super) former: Vec<Arc<Compiled>>,
    /// The instructions of the prompt, which replace those of the agent with which the run began.
    instructions: Option<String>,
    /// The agent with which the run began.
    first: Arc<Compiled>,
    /// The most responses, whichever agent continues.
    max_turns: u32,
    /// The conversation as the next model call gets it.
    pub(super) messages: Vec<Message>,
    /// Twice the number of times that messages were replaced.
    pub(super) epoch: u32,
    /// The account of the run, whichever agent continues it.
    pub(super) accounting: Accounting,
    /// The subject of the prompt.
    pub(super) subject: Option<String>,
    /// Faults of the model, across handovers.
    pub(super) faults: Faults,
    /// Decisions that the run waits for.
    pub(super) decisions: Decisions,
    /// The part of the conversation that the model calls have sent.
    sent: SentMessages,
}

impl Session {
    /// Begins a run, with the agent that has the conversation. Fails if there is no such agent any more, or
    /// if the prompt names no subject and the agent needs one.
    fn new(
        agent: Arc<Compiled>,
        context: WorkflowContext,
        prompt: Prompt,
    ) -> Result<Self, WorkflowError> {
        let share = prompt.delegation.map(|it| it.share);
        let accounting = Accounting::new(&agent, &context, share, prompt.subject.as_deref())?;
        let faults = Faults::new(agent.options.max_faults);
        let max_turns = agent.options.max_turns;
        let (former, agent) = after_handovers(agent, &prompt.handovers)?;
        Ok(Self {
            model_type: agent.model_type(),
            tools_type: agent.tools_type(),
            first: Arc::clone(&agent),
            max_turns,
            former,
            instructions: prompt.instructions,
            messages: prompt.messages,
            epoch: 0,
            accounting,
            subject: prompt.subject,
            faults,
            decisions: Decisions::default(),
            sent: SentMessages::default(),
            agent,
            context,
        })
    }

    /// Requests responses and runs their calls until there is an output.
    async fn run(&mut self) -> Result<Payload, WorkflowError> {
        self.check(Stage::Input, &Payload::encode(&self.messages)?).await?;
        let turns = self.max_turns;
        for turn in 1..=turns {
            let response = self.model_call().await?;
            if let Some(output) = self.handle(turn, &response).await? {
                self.check(Stage::Output, &output).await?;
                self.end_stream()?;
                return Ok(output);
            }
            // Without another request, nothing needs the summary.
            if turn < turns {
                self.compact(turn, response.own_usage().total_tokens()).await?;
            }
        }
        let reason = format!("the agent has no result after {turns} model responses (`max_turns`)");
        Err(WorkflowError::failed(Failure::new(codes::TURN_LIMIT, reason)))
    }

    /// Runs the guardrails of the current agent that check this.
    async fn check(&self, stage: Stage, value: &Payload) -> Result<(), WorkflowError> {
        for guardrail in self.agent.guardrails.iter().filter(|it| it.stage == stage) {
            let name = format!("{GUARDRAIL}{}", guardrail.name());
            let timeout = guardrail.timeout;
            let verdict =
                checks::check(&self.context, &self.tools_type, name, value, timeout).await?;
            if let Verdict::Trip { reason } = verdict {
                let tripped = guardrail.tripped(&reason);
                emit(&self.context, "guardrail", "tripped", &tripped)?;
                return Err(WorkflowError::failed(tripped.to_failure()));
            }
        }
        Ok(())
    }

    /// Ends the output stream, so that readers need not wait for the end of the run.
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
            let sent = self.sent.next(epoch, request);
            let (is_cheaper, is_repeated) = (granted.is_cheaper, attempt > 1);
            let task = ModelTask { is_cheaper, is_summary, is_repeated, ..sent };
            let is_whole = task.kept == 0;
            // A single attempt: the engine must not repeat a request that is not reserved.
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
            if failure.code == codes::CONVERSATION_MISSING && !is_whole {
                // No request was made. The next call holds the whole conversation.
                self.sent.forget();
                self.accounting.settle(Spent::default()).await?;
                continue;
            }
            let reported = ModelError::from_failure(failure);
            let usage = reported.as_ref().and_then(ModelError::usage).unwrap_or_default();
            let is_requested = reported.as_ref().is_none_or(ModelError::is_requested);
            let delay = self.delay_after(attempt, failure, reported.as_ref());
            if is_requested {
                let names = self.agent.model(granted.is_cheaper).names();
                self.accounting.settle_request(&names, usage).await?;
            } else {
                self.accounting.settle(Spent::default()).await?;
            }
            let Some(delay) = delay else { return Err(error) };
            let delay = self.delay_within(granted.left, delay, reported.as_ref());
            self.context.sleep(delay).await?;
            attempt += u32::from(is_requested);
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
            // Not reported by a model: for example a timeout, or no process.
            None => codes::find(&failure.code).is_some_and(|code| code.retry != Retry::No),
        };
        if !is_retryable || !policy.allows(&failure.code) {
            return None;
        }
        let delay = policy.delay_after(attempt, self.context.random());
        let asked = reported.and_then(ModelError::retry_after);
        let delay = if reported.is_none_or(ModelError::is_requested) {
            delay?.max(asked.unwrap_or_default())
        } else {
            // To wait is no attempt, but a policy without retries waits for nothing. A model that made no
            // request knows when it will.
            policy.delay_after(1, 0.0)?;
            asked.or(delay).unwrap_or(DEFAULT_WAIT).max(LEAST_WAIT)
        };
        Some(delay).filter(|delay| *delay <= LONGEST_WAIT)
    }

    /// The delay before the next request, if this much of the wall time was left before the one that failed.
    fn delay_within(
        &self,
        left: Option<Duration>,
        delay: Duration,
        reported: Option<&ModelError>,
    ) -> Duration {
        let is_timeout = reported.is_some_and(|error| error.kind() == ModelErrorKind::Timeout);
        match left {
            // It took what was left but for the time of its report, which is too short for another one.
            Some(left) if is_timeout && left <= self.agent.options.model_timeout => {
                self.accounting.time_left().ok().flatten().unwrap_or_default()
            }
            // After that, no request is left in the wall time anyway.
            Some(left) => delay.min(left),
            None => delay,
        }
    }

    /// The next request, without anything about the budget but the notice.
    fn request(&self) -> ModelRequest {
        // Instructions of the prompt are for the agent with which the run began. Others have their own.
        let of_prompt = self.instructions.clone().filter(|_| Arc::ptr_eq(&self.agent, &self.first));
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
}

/// The agents that handed a conversation over and may get it back, and the one that has it.
fn after_handovers(
    mut agent: Arc<Compiled>,
    handovers: &[String],
) -> Result<(Vec<Arc<Compiled>>, Arc<Compiled>), WorkflowError> {
    let mut former = Vec::with_capacity(handovers.len());
    for name in handovers {
        let Some(next) = agent.handovers.get(&handover::tool_of(name)).map(Arc::clone) else {
            let reason = format!("agent {} hands over to no agent {name:?}", agent.name.as_str());
            return Err(WorkflowError::failed(Failure::new(codes::INVALID_PARAMETERS, reason)));
        };
        former.push(std::mem::replace(&mut agent, next));
    }
    Ok((former, agent))
}
