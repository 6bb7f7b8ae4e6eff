//! Agents over language models whose tools and models are Python code. The loop is that of `aios-llm`.

mod client;
mod conversation;
mod fake_provider;
mod function;
mod model;

use std::{collections::HashMap, sync::Arc};

use aios_core::{agent::ResultExt, event::Payload};
use aios_llm::{
    LanguageModel, LlmAgent, LlmAgentError, Streaming,
    budget::{AtLimit, Budget, Cost, Limits, Price, PriceTable, UnknownPrice},
    tool::{Approval, Effect, Tool, ToolContext},
};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub(crate) use self::{
    client::{model_request_body, model_response, model_status_error},
    conversation::read_conversation,
    fake_provider::{NativeFakeProvider, check_real_requests, forbid_real_requests},
    function::NativePieces,
};
use self::{function::FunctionArg, model::ModelArg};
use crate::{
    convert::{arguments::RetryArg, errors::ErrorInfo, json, seconds},
    python::{LoopPulse, MakeArguments, PythonExecutors},
};

/// An agent that is added to a runtime when its store is open.
pub(crate) struct PreparedAgent {
    pub(crate) name: String,
    pub(crate) agent: LlmAgent<Value>,
    pub(crate) has_write_tool: bool,
    /// The probe of the event loop, if code of the agent runs there.
    pub(crate) pulse: Option<Arc<LoopPulse>>,
}

/// `aios._llm.BoundLlmAgent`.
#[derive(FromPyObject)]
pub(crate) struct LlmAgentArg {
    name: String,
    model: ModelArg,
    tools: Vec<ToolArg>,
    /// The name and the JSON Schema of the output; `None` for text.
    output: Option<(String, String)>,
    model_retry: Option<RetryArg>,
    options: String,
}

/// `aios._tool.BoundTool`.
#[derive(FromPyObject)]
struct ToolArg {
    name: String,
    description: String,
    parameters: String,
    effect: String,
    approval: bool,
    timeout: f64,
    retry: Option<RetryArg>,
    max_result_bytes: usize,
    invoke: FunctionArg,
}

/// The options of an agent, which Python passes as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    instructions: Option<String>,
    version: u32,
    max_output_tokens: Option<u32>,
    temperature: Option<f64>,
    model_timeout: f64,
    max_turns: u32,
    max_faults: u32,
    max_identical_calls: u32,
    max_argument_bytes: usize,
    streaming: bool,
    budget: Option<BudgetArg>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetArg {
    requests: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost: Option<f64>,
    tool_calls: Option<u64>,
    wall_time: Option<f64>,
    soft_percent: u8,
    ask: bool,
    /// Dollars for a million input, output and cached input tokens.
    prices: Vec<(String, f64, f64, Option<f64>)>,
    unknown_price_is_free: bool,
}

/// The models that agents share, by the identities of their Python objects.
pub(crate) type SharedModels = HashMap<usize, Arc<dyn LanguageModel>>;

fn parse<T: DeserializeOwned>(text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
}

impl LlmAgentArg {
    pub(crate) fn prepare(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
        pulse: &Arc<LoopPulse>,
        models: &mut SharedModels,
    ) -> PyResult<PreparedAgent> {
        let options: Options = parse(&self.options)?;
        let uses_loop =
            self.model.uses_loop() || self.tools.iter().any(|tool| tool.invoke.is_async);
        let has_write_tool = self.tools.iter().any(|tool| tool.effect == "write");
        let model = self.model.into_model(py, executors, models)?;
        let mut agent = LlmAgent::new(model);
        for tool in self.tools {
            agent = agent.tool(tool.into_tool(py, executors)?);
        }
        let agent = match self.output {
            Some((name, schema)) => agent.output_schema(name, parse(&schema)?),
            None => agent.output_text(),
        };
        let agent = match self.model_retry {
            Some(retry) => agent.model_retry(retry.into_policy(py)?),
            None => agent,
        };
        Ok(PreparedAgent {
            name: self.name,
            agent: options.apply(py, agent)?,
            has_write_tool,
            pulse: uses_loop.then(|| Arc::clone(pulse)),
        })
    }
}

impl Options {
    fn apply(self, py: Python<'_>, mut agent: LlmAgent<Value>) -> PyResult<LlmAgent<Value>> {
        if let Some(instructions) = self.instructions {
            agent = agent.instructions(instructions);
        }
        if let Some(tokens) = self.max_output_tokens {
            agent = agent.max_output_tokens(tokens);
        }
        if let Some(temperature) = self.temperature {
            agent = agent.temperature(temperature);
        }
        if let Some(budget) = self.budget {
            agent = agent.budget(budget.into_budget(py)?);
        }
        let streaming = if self.streaming { Streaming::On } else { Streaming::Off };
        Ok(agent
            .version(self.version)
            .model_timeout(seconds(py, self.model_timeout)?)
            .max_turns(self.max_turns)
            .max_faults(self.max_faults)
            .max_identical_calls(self.max_identical_calls)
            .max_argument_bytes(self.max_argument_bytes)
            .streaming(streaming))
    }
}

impl BudgetArg {
    fn into_budget(self, py: Python<'_>) -> PyResult<Budget> {
        let mut prices = PriceTable::new();
        for (model, input, output, cached) in self.prices {
            let price = Price::per_million_dollars(input, output);
            let price = cached.map_or(price, |cached| price.with_cached_input(cached));
            prices = prices.with_price(model, price);
        }
        let limits = Limits {
            requests: self.requests,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: self.cost.map(Cost::dollars),
            tool_calls: self.tool_calls,
            wall_time: self.wall_time.map(|time| seconds(py, time)).transpose()?,
            ..Limits::default()
        };
        let unknown =
            if self.unknown_price_is_free { UnknownPrice::Free } else { UnknownPrice::Fail };
        Ok(Budget::new()
            .limits(limits)
            .soft_percent(self.soft_percent)
            .at_limit(if self.ask { AtLimit::Ask } else { AtLimit::Fail })
            .prices(prices)
            .unknown_price(unknown))
    }
}

impl ToolArg {
    fn into_tool(self, py: Python<'_>, executors: &Arc<PythonExecutors>) -> PyResult<Tool> {
        let effect = match self.effect.as_str() {
            "idempotent" => Effect::Idempotent,
            "write" => Effect::Write,
            _ => Effect::Read,
        };
        let call = self.invoke.into_call(format!("tool {:?}", self.name), executors);
        let function = move |context: ToolContext, arguments: Value| {
            let call = call.clone();
            async move {
                let arguments = Payload::encode(&arguments).terminal()?;
                let make: MakeArguments = Box::new(move |py| {
                    let arguments = json::read(py, arguments.as_str())?;
                    Ok(vec![Bound::new(py, NativeToolContext(context))?.into_any(), arguments])
                });
                call.run(make).await?.decode::<Value>().terminal()
            }
        };
        let parameters = parse(&self.parameters)?;
        let tool = Tool::from_schema(self.name, self.description, effect, parameters, function)
            .timeout(seconds(py, self.timeout)?)
            .max_result_bytes(self.max_result_bytes)
            .approval(if self.approval { Approval::Required } else { Approval::NotRequired });
        Ok(match self.retry {
            Some(retry) => tool.retry(retry.into_policy(py)?),
            None => tool,
        })
    }
}

impl From<LlmAgentError> for ErrorInfo {
    fn from(error: LlmAgentError) -> Self {
        Self::new("runtime", "INVALID_RUNTIME_CONFIGURATION", error.to_string())
    }
}

/// The native part of `aios.ToolContext`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeToolContext(ToolContext);

#[pymethods]
impl NativeToolContext {
    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt()
    }

    #[getter]
    fn idempotency_key(&self) -> &str {
        self.0.idempotency_key()
    }

    fn progress(&self, progress: &Bound<'_, PyAny>) -> PyResult<()> {
        let written = json::write(progress)?;
        let reported = self.0.progress(&written);
        reported.map_err(|error| ErrorInfo::from(error).into_error(progress.py()))
    }
}
