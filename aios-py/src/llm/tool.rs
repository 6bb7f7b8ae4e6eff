//! Tools: Python functions, and child runs of agents and workflows.
//!
//! A tool that is a function runs like a task: on the event loop or on a thread. A tool that starts
//! a child run needs no Python code at all. The effect of a tool decides what happens when it is
//! unknown whether a call was executed; see [`Effect`].

use std::sync::Arc;

use aios_core::event::Payload;
use aios_llm::{
    budget::Limits,
    tool::{Approval, Effect, OnFailure, Tool, ToolContext},
};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::Deserialize;
use serde_json::Value;

use super::{
    function::{FunctionArg, PythonCall},
    guardrail::verdict,
    parse,
};
use crate::{
    convert::{arguments::RetryArg, errors::ErrorInfo, json, seconds},
    python::{MakeArguments, PythonExecutors},
};

/// `aios._llm.tool.BoundTool`.
#[derive(FromPyObject)]
pub(super) struct ToolArg {
    name: String,
    description: String,
    /// JSON Schema of the arguments.
    parameters: String,
    /// `read`, `idempotent` or `write`.
    effect: String,
    /// Whether a person must approve each call.
    approval: bool,
    timeout: f64,
    retry: Option<RetryArg>,
    max_result_bytes: usize,
    /// How many calls run at the same time, if that is limited.
    concurrency: Option<usize>,
    invoke: Option<FunctionArg>,
    /// Checks arguments that a person has edited.
    check: Option<FunctionArg>,
    /// The child run that a call starts, as JSON, if it does.
    child: Option<String>,
}

/// The child run that a call of a tool starts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChildArg {
    /// The workflow, or the agent if `is_agent`.
    workflow: String,
    is_agent: bool,
    /// The limits of the child.
    limits: Limits,
    /// How the failure of the child affects the run.
    on_failure: OnFailure,
}

impl ToolArg {
    /// Whether its code runs on the event loop.
    pub(super) fn uses_loop(&self) -> bool {
        [&self.invoke, &self.check].into_iter().flatten().any(|function| function.is_async)
    }

    /// Whether the tool has effects that must not happen twice.
    pub(super) fn is_write(&self) -> bool {
        self.effect == "write"
    }

    /// The tool.
    pub(super) fn into_tool(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
    ) -> PyResult<Tool> {
        let approval = if self.approval { Approval::Required } else { Approval::NotRequired };
        let timeout = seconds(py, "timeout", self.timeout)?;
        let retry = self.retry;
        let max_result_bytes = self.max_result_bytes;
        let concurrency = self.concurrency;
        let tool = match (self.child, self.invoke) {
            (Some(child), _) => {
                child_tool(self.name, self.description, &self.parameters, parse(&child)?)?
            }
            (None, Some(invoke)) => {
                let call = invoke.into_call(format!("tool {:?}", self.name), executors);
                let effect = effect_of(&self.effect);
                let parameters = parse(&self.parameters)?;
                function_tool(self.name, self.description, effect, parameters, call)
            }
            (None, None) => return Err(PyValueError::new_err("a tool without work")),
        };
        let tool = tool
            .with_timeout(timeout)
            .with_max_result_bytes(max_result_bytes)
            .with_approval(approval);
        let tool = match self.check {
            Some(check) => {
                let call =
                    check.into_call(format!("the arguments of {:?}", tool.name()), executors);
                tool.with_argument_check(move |arguments| verdict(call.clone(), arguments))
            }
            None => tool,
        };
        let tool = match concurrency {
            Some(calls) => tool.with_concurrency(calls),
            None => tool,
        };
        Ok(match retry {
            Some(retry) => tool.with_retry(retry.into_policy(py)?),
            None => tool,
        })
    }
}

/// The effect with this name.
fn effect_of(effect: &str) -> Effect {
    match effect {
        "idempotent" => Effect::Idempotent,
        "write" => Effect::Write,
        _ => Effect::Read,
    }
}

/// A tool whose work is a child run.
fn child_tool(
    name: String,
    description: String,
    parameters: &str,
    child: ChildArg,
) -> PyResult<Tool> {
    let ChildArg { workflow, is_agent, limits, on_failure } = child;
    let tool = if is_agent {
        Tool::agent(name, description, workflow)
    } else {
        Tool::workflow_from_schema(name, description, parse(parameters)?, workflow)
    };
    Ok(tool.with_limits(limits).with_on_failure(on_failure))
}

/// A tool whose work is a Python function.
fn function_tool(
    name: String,
    description: String,
    effect: Effect,
    parameters: Value,
    call: PythonCall,
) -> Tool {
    let function = move |context: ToolContext, arguments: Payload| {
        let call = call.clone();
        async move {
            let make: MakeArguments = Box::new(move |py| {
                let arguments = json::read(py, arguments.as_str())?;
                Ok(vec![Bound::new(py, NativeToolContext(context))?.into_any(), arguments])
            });
            call.run(make).await
        }
    };
    Tool::from_schema(name, description, effect, parameters, function)
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
