//! Finds faults of a model, and ends a run whose model does not recover from them.
//!
//! A fault is something that the model can correct: an unknown tool, invalid arguments, a repeated
//! call, invalid output. The model gets it as the result of the call. Only faults in a row
//! count, so a long run may have any number of them. Summaries that fail in a row are counted on
//! their own: the responses between them say nothing about the next summary. The calls that are counted as identical are
//! compared in canonical JSON, so the order of properties does not matter.

use std::collections::VecDeque;

use aios_agents::workflow::WorkflowError;
use aios_core::{catalog::codes, event::Payload, failure::Failure};

use super::compiled::Compiled;
use crate::{
    model::{ToolCall, write_canonical},
    schema::Schema,
};

/// Number of latest calls among which identical ones are counted.
const WINDOW: usize = 10;

/// Catches models that repeat faults or calls.
#[derive(Debug)]
pub(super) struct Faults {
    /// Faulty responses in a row that the run survives, whichever agent continues it, and as many
    /// failed summaries.
    most: u32,
    /// Faulty responses in a row.
    consecutive: u32,
    /// Failed summaries in a row.
    summaries: u32,
    /// Tool and canonical arguments, the oldest first.
    latest_calls: VecDeque<String>,
}

impl Faults {
    /// No faults yet, of which this many in a row are allowed.
    pub(super) fn new(most: u32) -> Self {
        Self { most, consecutive: 0, summaries: 0, latest_calls: VecDeque::new() }
    }

    /// Counts a response that had a fault. The last fault is the reason if it was one too many.
    pub(super) fn faulty(&mut self, fault: &str) -> Result<(), WorkflowError> {
        self.consecutive += 1;
        self.within(self.consecutive, "gave", "faulty responses", fault)
    }

    /// Counts a summary that failed. The last fault is the reason if it was one too many.
    pub(super) fn faulty_summary(&mut self, fault: &str) -> Result<(), WorkflowError> {
        self.summaries += 1;
        self.within(self.summaries, "failed to write", "summaries", fault)
    }

    /// Counts a summary that replaces messages.
    pub(super) fn good_summary(&mut self) {
        self.summaries = 0;
    }

    /// Fails if there are more faults of one kind in a row than are allowed.
    fn within(&self, count: u32, did: &str, what: &str, fault: &str) -> Result<(), WorkflowError> {
        if count <= self.most {
            return Ok(());
        }
        let reason = format!("the model {did} {count} {what} in a row, the last one: {fault}");
        Err(WorkflowError::failed(Failure::new(codes::MODEL_FAULTS, reason)))
    }

    /// Counts a response without a fault.
    pub(super) fn faultless(&mut self) {
        self.consecutive = 0;
    }

    /// Checks a call and returns its arguments. `depth` is the number of levels of child runs that
    /// are left. The error is for the model.
    pub(super) fn check(
        &mut self,
        agent: &Compiled,
        call: &ToolCall,
        depth: u32,
    ) -> Result<Payload, String> {
        let Some(compiled) = agent.tools.get(&call.name) else {
            let names: Vec<_> = agent.tools.keys().map(String::as_str).collect();
            let names = names.join(", ");
            return Err(format!("There is no tool with this name. The tools are: {names}"));
        };
        if depth == 0 && compiled.tool.child().is_some() {
            return Err("Nothing can be delegated any further. Do it yourself.".to_owned());
        }
        self.check_arguments(agent, call, &compiled.schema)
    }

    /// Checks the arguments of a call, and that it is not made too often. The error is for the model.
    pub(super) fn check_arguments(
        &mut self,
        agent: &Compiled,
        call: &ToolCall,
        schema: &Schema,
    ) -> Result<Payload, String> {
        agent.check_size(&call.arguments)?;
        // Some providers send nothing for a tool without parameters.
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let arguments = serde_json::from_str(text)
            .map_err(|error| format!("The arguments are not valid JSON: {error}"))?;
        // The value is only for checks: it has no numbers of more than 64 bits.
        schema
            .check(&arguments)
            .map_err(|faults| format!("The arguments do not match their schema:\n{faults}"))?;
        self.count(agent, &call.name, &arguments)?;
        Payload::from_text(text.to_owned())
            .map_err(|error| format!("The arguments are not valid JSON: {error}"))
    }

    /// Adds a call to the latest ones. Refuses it if it was made too often.
    fn count(
        &mut self,
        agent: &Compiled,
        tool: &str,
        arguments: &serde_json::Value,
    ) -> Result<(), String> {
        let mut key = format!("{tool} ");
        write_canonical(arguments, &mut key);
        let identical = self.latest_calls.iter().filter(|latest| **latest == key).count();
        if self.latest_calls.len() == WINDOW {
            self.latest_calls.pop_front();
        }
        self.latest_calls.push_back(key);
        let most = agent.options.max_identical_calls;
        if u32::try_from(identical).unwrap_or(u32::MAX) < most {
            return Ok(());
        }
        Err(format!(
            "This call was made {identical} times already with the same arguments, and is not \
             repeated. Use the earlier results, or do something else."
        ))
    }
}
