//! Agents over language models whose tools and models are Python code. The loop is that of
//! `aios-llm`.
//!
//! The turns of an agent, its budgets and its journal are native; Python is called for the work
//! that is written in Python: tools, models, and checks of guardrails. Each of these is a
//! [`PyFunction`](crate::python::PyFunction), called like a step of a workflow; no native thread waits
//! for it.
//!
//! An agent comes in two steps, because a part of it needs the store:
//!
//! 1. `open` of the client takes [`LlmAgentArg`]s and turns them into [`PreparedAgent`]s, with the
//!    interpreter, before anything is connected. Errors of options are raised here.
//! 2. The session gives them the store, for the write log of tools with effects and for the budgets
//!    of subjects, and adds them to the runtime.
//!
//! | module | contents |
//! |---|---|
//! | `agent` | agents with their options |
//! | `model` | models of providers, wrappers such as `fallback` and `cache` |
//! | `function` | Python functions as models and tools; responses in pieces |
//! | `tool`, `guardrail` | tools and guardrails |
//! | `budget` | budgets of runs and of subjects |
//! | `client` | bodies of requests and responses for the clients that providers publish |
//! | `conversation` | the conversation of a run, from its journal |
//! | `fake_provider` | a provider on this machine, for tests |

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

use aios_llm::{
    LanguageModel,
    middleware::{Circuit, Rate},
};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::de::DeserializeOwned;

pub(crate) use self::{
    agent::{LlmAgentArg, PreparedAgent},
    client::{NativeResponseEvents, model_request, model_response, model_status_error},
    conversation::read_conversation,
    fake_provider::{NativeFakeProvider, check_real_requests, forbid_real_requests},
    function::NativePieces,
    tool::NativeToolContext,
};

/// Models, rates and circuits that agents share, by the identities of their Python objects.
#[derive(Default)]
pub(crate) struct Shared {
    /// A model that two agents share has one cache, and one state of its circuit breaker.
    models: HashMap<usize, Arc<dyn LanguageModel>>,
    /// A rate that two models share counts the requests of both.
    rates: HashMap<usize, Rate>,
    /// A circuit that two models share counts the failures of both.
    circuits: HashMap<usize, Circuit>,
}

/// Reads options that Python passes as JSON. An error is a `ValueError`.
fn parse<T: DeserializeOwned>(text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
}
