//! Guardrails whose checks are Python functions.
//!
//! A check of the input takes the messages, one of the output the output; both return `None` or a
//! reason.

use std::sync::Arc;

use aios_core::{
    agent::{ResultExt, TaskError},
    event::Payload,
};
use aios_llm::{
    guardrail::{Guardrail, Verdict},
    model::Message,
};
use pyo3::prelude::*;
use serde::Serialize;

use super::function::{FunctionArg, PythonCall};
use crate::{
    convert::{json, seconds},
    python::{MakeArguments, PythonExecutors},
};

/// `aios._llm.guardrail.BoundGuardrail`.
#[derive(FromPyObject)]
pub(super) struct GuardrailArg {
    name: String,
    /// Whether it checks the messages, and not the output.
    is_input: bool,
    /// How long a check may take, in seconds.
    timeout: f64,
    invoke: FunctionArg,
}

impl GuardrailArg {
    /// Whether its code runs on the event loop.
    pub(super) fn uses_loop(&self) -> bool {
        self.invoke.is_async
    }

    /// The guardrail.
    pub(super) fn into_guardrail(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
    ) -> PyResult<Guardrail> {
        let call = self.invoke.into_call(format!("guardrail {:?}", self.name), executors);
        let guardrail = if self.is_input {
            Guardrail::input(self.name, move |messages: Vec<Message>| {
                verdict(call.clone(), messages)
            })
        } else {
            Guardrail::output(self.name, move |output: Payload| verdict(call.clone(), output))
        };
        Ok(guardrail.with_timeout(seconds(py, "timeout", self.timeout)?))
    }
}

/// Calls a function that returns `None`, or the reason for which a value is not accepted.
pub(super) async fn verdict(call: PythonCall, value: impl Serialize) -> Result<Verdict, TaskError> {
    let value = Payload::encode(&value).terminal()?;
    let make: MakeArguments = Box::new(move |py| Ok(vec![json::read(py, value.as_str())?]));
    let reason: Option<String> = call.run(make).await?.decode().terminal()?;
    Ok(reason.map_or(Verdict::Pass, Verdict::trip))
}
