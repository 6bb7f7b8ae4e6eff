//! The end of one turn: the output, or the results of the calls of a response.
//!
//! | response | what follows |
//! |---|---|
//! | refusal | the run fails |
//! | no calls, valid output | the output |
//! | no calls, incomplete or otherwise | a fault, with which the model is asked again |
//! | a valid result among the calls, strategy `Early` | the output; the other calls are refused |
//! | a valid result among the calls, strategy `Exhaustive` | the others run; the output if all succeed, else the model is asked again |
//! | other calls | they run; their results follow in the conversation |
//! | a handover among the calls | the others run; then the other agent continues |
//!
//! Every call gets exactly one result, in the order of the calls: providers require that. Calls
//! that do not run, and results that no task shows, are recorded as events.

use std::{collections::BTreeMap, sync::Arc};

use aios_agents::workflow::WorkflowError;
use aios_core::{catalog::codes, event::Payload, failure::Failure};
use serde::{Deserialize, Serialize};

use super::{
    AgentUpdate,
    calls::{Answered, Calls, Checked, Ending, Places, Refused, emit},
    compiled::Compiled,
    handover::{HAND_BACK, HandedOver},
    output::FINAL_TOOL,
    session::Session,
};
use crate::{
    budget::{Limits, Spent},
    model::{FinishReason, Message, ModelResponse, ToolCall, ToolResult},
};

/// The fault of a call that is not complete.
const CALL_CUT_OFF: &str = "The call was cut off, or the maximum number of tokens was reached, and it \
    did not run. Make it shorter, or divide the work.";
/// Why a call did not run although nothing is wrong with it.
const BESIDE: &str = "The call did not run: the same response has a result.";
/// Why a result is no output although nothing is wrong with it.
const NOT_TAKEN: &str = "The result was not taken: another call of the same response failed. Call \
    the tool again with what is known now.";

/// The calls of a response that run in addition to the one with the result, if the result is a call of
/// the tool `final_result`.
///
/// A result that is the text of a response comes without calls: if a response has both, the calls run,
/// and the model is asked again.
///
/// # Examples
///
/// The answer is what counts, so calls beside it are not worth the wait:
///
/// ```
/// use aios_llm::{LlmAgent, agent::EndStrategy, testing::SchemaModel};
///
/// let agent = LlmAgent::new(SchemaModel::new()).end_strategy(EndStrategy::Early);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndStrategy {
    /// All calls run, and the result is the output if they all succeed. If one is faulty, fails or is
    /// rejected, the model gets their results, and has to call `final_result` again.
    #[default]
    Exhaustive,
    /// No other call runs, and the result is the output at once.
    Early,
}

/// The calls of a response, sorted.
#[derive(Default)]
struct Sorted {
    /// The results in the order of the calls; `None` for those that run.
    results: Vec<Option<ToolResult>>,
    /// The calls that run, in the order of the response.
    checked: Vec<Checked>,
    /// Why a call did not run: the latest reason, for the failure of the run.
    last_fault: Option<String>,
    /// The agent that continues, and whether it gets the conversation back.
    next: Option<(bool, Arc<Compiled>)>,
}

/// A valid result among the calls of a response.
struct Found {
    /// Number of its call.
    index: usize,
    /// The output, as the run returns it.
    output: Payload,
}

/// The calls of a response that have a result.
#[derive(Default)]
struct Candidates {
    /// The first valid result.
    found: Option<Found>,
    /// The faults of the results before it, by the numbers of their calls.
    faults: BTreeMap<usize, String>,
}

impl Session {
    /// Handles a response. Returns the output if it is final.
    pub(super) async fn handle(
        &mut self,
        turn: u32,
        response: &ModelResponse,
    ) -> Result<Option<Payload>, WorkflowError> {
        if response.finish_reason == FinishReason::Refusal {
            let reason = format!("the model refused to answer: {}", response.output_text());
            return Err(WorkflowError::failed(Failure::new(codes::MODEL_REFUSED, reason)));
        }
        self.messages.push(response.to_message());
        if response.tool_calls().next().is_none() {
            return self.finish(response).await;
        }
        self.handle_calls(turn, response).await
    }

    /// Handles a response without tool calls.
    async fn finish(&mut self, response: &ModelResponse) -> Result<Option<Payload>, WorkflowError> {
        let fault = match (&response.finish_reason, self.agent.output.is_tool()) {
            (FinishReason::Length, _) => {
                "The answer was cut off at the maximum number of tokens. Answer more briefly."
                    .to_owned()
            }
            (FinishReason::Other(reason), _) => {
                format!("The answer may be incomplete: it ended with {reason:?}. Answer again.")
            }
            (_, true) => format!("Call the tool {FINAL_TOOL} with the result."),
            _ => match self.read(&response.output_text()).await? {
                Ok(output) => return Ok(Some(output)),
                Err(fault) => fault,
            },
        };
        self.faults.faulty(&fault)?;
        self.messages.push(Message::user(fault));
        Ok(None)
    }

    /// Reads and checks the output. The inner error is for the model.
    async fn read(&self, text: &str) -> Result<Result<Payload, String>, WorkflowError> {
        let output = match self.agent.output.read(text) {
            Ok(output) => output,
            Err(fault) => return Ok(Err(fault)),
        };
        let fault = self.agent.output_fault(&self.context, &output).await?;
        Ok(fault.map_or(Ok(output), |fault| Err(format!("The result is not valid: {fault}"))))
    }

    /// Handles a response with tool calls.
    async fn handle_calls(
        &mut self,
        turn: u32,
        response: &ModelResponse,
    ) -> Result<Option<Payload>, WorkflowError> {
        let Candidates { found, faults } = self.candidates(response).await?;
        if let Some(found) = &found
            && self.agent.options.end_strategy == EndStrategy::Early
        {
            for (index, call) in response.tool_calls().enumerate() {
                if index != found.index {
                    self.refuse(call.clone(), BESIDE)?;
                }
            }
            return Ok(Some(found.output.clone()));
        }
        let mut sorted = self.sort(turn, response, found.as_ref(), faults)?;
        let has_fault = sorted.last_fault.is_some();
        match sorted.last_fault.take() {
            Some(fault) => self.faults.faulty(&fault)?,
            None => self.faults.faultless(),
        }
        // Faults are counted before the calls run, so that a run which fails of them has no further
        // effects.
        let ran = self.run_calls(sorted.checked).await?;
        let all_succeeded = !has_fault && ran.iter().all(|result| !result.is_error);
        if let Some(Found { index, output }) = found {
            if all_succeeded {
                return Ok(Some(output));
            }
            if let Some(call) = response.tool_calls().nth(index) {
                let refused = self.refuse(call.clone(), NOT_TAKEN)?;
                // The result was left out when the calls were sorted; now it needs a place.
                sorted.results.insert(index, Some(refused));
            }
        }
        let mut ran = ran.into_iter();
        let results = sorted.results.into_iter().filter_map(|it| it.or_else(|| ran.next()));
        self.messages.push(Message::tool_results(results.collect::<Vec<_>>()));
        if let Some((is_back, agent)) = sorted.next {
            self.hand_over(is_back, agent)?;
        }
        Ok(None)
    }

    /// The first valid result among the calls, and what is wrong with those before it.
    async fn candidates(&self, response: &ModelResponse) -> Result<Candidates, WorkflowError> {
        let mut candidates = Candidates::default();
        if !self.agent.output.is_tool() {
            return Ok(candidates);
        }
        let last = response.tool_calls().count().saturating_sub(1);
        for (index, call) in response.tool_calls().enumerate() {
            let is_cut_off = index == last && response.is_call_cut_off();
            if call.name != FINAL_TOOL || is_cut_off {
                continue;
            }
            match self.read(&call.arguments).await? {
                Ok(output) => {
                    candidates.found = Some(Found { index, output });
                    break;
                }
                Err(fault) => {
                    candidates.faults.insert(index, fault);
                }
            }
        }
        Ok(candidates)
    }

    /// Sorts the calls apart from the result that was found.
    fn sort(
        &mut self,
        turn: u32,
        response: &ModelResponse,
        found: Option<&Found>,
        mut faults: BTreeMap<usize, String>,
    ) -> Result<Sorted, WorkflowError> {
        let mut sorted = Sorted::default();
        let last = response.tool_calls().count().saturating_sub(1);
        for (index, call) in response.tool_calls().cloned().enumerate() {
            if found.is_some_and(|found| found.index == index) {
                continue;
            }
            let is_cut_off = index == last && response.is_call_cut_off();
            let successor = self.successor(&call.name).filter(|_| !is_cut_off);
            let is_result = self.agent.output.is_tool() && call.name == FINAL_TOOL;
            if found.is_some() && (is_result || successor.is_some()) {
                let refused = self.refuse(call, BESIDE)?;
                sorted.results.push(Some(refused));
                continue;
            }
            // Only the first handover counts; others are faults.
            let successor = successor.filter(|_| sorted.next.is_none());
            let checked = match &successor {
                Some(_) => self.check_handover(&call),
                None => match faults.remove(&index) {
                    Some(fault) => Err(fault),
                    None => self.check_call(&call, is_cut_off),
                },
            };
            match (checked, successor) {
                (Ok(_), Some(agent)) => {
                    let name = agent.name.as_str();
                    let content = format!("The conversation continues with {name}.");
                    sorted.next = Some((call.name == HAND_BACK, agent));
                    sorted.results.push(Some(self.answer(call, content)?));
                }
                (Ok(arguments), None) => {
                    let place = format!("{turn}-{index}");
                    let share = Limits::default();
                    sorted.checked.push(Checked { call, arguments, place, share });
                    sorted.results.push(None);
                }
                (Err(fault), _) => {
                    let refused = self.refuse(call, &fault)?;
                    sorted.results.push(Some(refused));
                    sorted.last_fault = Some(fault);
                }
            }
        }
        Ok(sorted)
    }

    /// The arguments of a call that can run. The error is for the model.
    fn check_call(&mut self, call: &ToolCall, is_cut_off: bool) -> Result<Payload, String> {
        if is_cut_off {
            return Err(CALL_CUT_OFF.to_owned());
        }
        self.faults.check(&self.agent, call, self.accounting.depth())
    }

    /// Checks the arguments of a handover. The error is for the model.
    fn check_handover(&mut self, call: &ToolCall) -> Result<Payload, String> {
        self.faults.check_arguments(&self.agent, call, &self.agent.handover_schema)
    }

    /// Records that a call does not run, and tells the model why.
    fn refuse(&self, call: ToolCall, reason: &str) -> Result<ToolResult, WorkflowError> {
        let ToolCall { id: call_id, name: tool, .. } = call;
        let refused = Refused { call_id, tool, reason: reason.to_owned() };
        emit(&self.context, "tool", "refused", &refused)?;
        let Refused { call_id, tool: name, reason: content } = refused;
        Ok(ToolResult { call_id, name, content, is_error: true })
    }

    /// Records the result of a call that needs no work.
    fn answer(&self, call: ToolCall, result: String) -> Result<ToolResult, WorkflowError> {
        let ToolCall { id: call_id, name: tool, .. } = call;
        let answered = Answered { call_id, tool, result, is_error: false };
        emit(&self.context, "tool", "answered", &answered)?;
        let Answered { call_id, tool: name, result: content, is_error } = answered;
        Ok(ToolResult { call_id, name, content, is_error })
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
        let [from_name, to] = [&from, &self.agent].map(|agent| agent.name.as_str().to_owned());
        let handed_over = HandedOver { from: from_name, to };
        emit(&self.context, "agent", "handed_over", &handed_over)?;
        self.agent.tell(&self.context, &AgentUpdate::HandedOver { to: handed_over.to })?;
        self.accounting.handed_over();
        (self.model_type, self.tools_type) = (self.agent.model_type(), self.agent.tools_type());
        if is_back {
            self.former.pop();
        } else {
            self.former.push(from);
        }
        Ok(())
    }

    /// Reserves, runs and settles the calls. Called agents get their shares before any call begins.
    async fn run_calls(&self, mut calls: Vec<Checked>) -> Result<Vec<ToolResult>, WorkflowError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        let mut wanted: Vec<_> = calls.iter_mut().filter_map(|it| self.limits_of(it)).collect();
        let limits: Vec<_> = wanted.iter().map(|(_, limits)| *limits).collect();
        let shares = self.accounting.reserve_calls(count, &limits).await?;
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
            places: Places::of(&self.agent),
            ending: Ending::default(),
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
