//! Agents over language models whose tools and models are Python code. The loop is that of `aios-llm`.

mod agent;
mod budget;
mod client;
mod conversation;
mod fake_provider;
mod function;
mod guardrail;
mod model;
mod tool;

use std::{collections::HashMap, sync::Arc};

use aios_llm::{LanguageModel, middleware::Rate};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::de::DeserializeOwned;

pub(crate) use self::{
    agent::{LlmAgentArg, PreparedAgent},
    client::{model_request_body, model_response, model_status_error},
    conversation::read_conversation,
    fake_provider::{NativeFakeProvider, check_real_requests, forbid_real_requests},
    function::NativePieces,
    tool::NativeToolContext,
};

/// Models and rates that agents share, by the identities of their Python objects.
#[derive(Default)]
pub(crate) struct Shared {
    models: HashMap<usize, Arc<dyn LanguageModel>>,
    rates: HashMap<usize, Rate>,
}

fn parse<T: DeserializeOwned>(text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
}
