//! The models and tools of the agents, which count what they do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_agents::{
    middleware::Middleware,
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_core::{
    agent::{DynAgent, TaskContext},
    broker::Broker,
    event::Payload,
};
use aios_llm::{
    LlmAgent, ModelError, ModelRequest, ModelResponse,
    budget::{Limits, SubjectBudget},
    model::{ModelErrorKind, Part, Role, Usage},
    testing::FunctionModel,
    tool::{Effect, Tool, ToolContext},
};
use serde_json::json;

use super::{
    executions::{Executions, moment},
    shapes::Shape,
};
use crate::support::Query;

/// The usage that each answer of a model, and each failure, is billed for.
pub(super) const USAGE: Usage = Usage::new(10, 5);
/// A window that no trial leaves.
const WINDOW: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Name of the tool call that hangs the first time.
const HANGING: &str = "hanging";

/// The store as one process sees it, and what all processes have done.
#[derive(Clone)]
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    /// Attempts at tasks, by task.
    pub(super) attempts: Executions,
    /// Calls of models and tools.
    pub(super) calls: Executions,
    /// Calls of `write` tools, by idempotency key.
    pub(super) writes: Executions,
}

impl World {
    pub(super) fn new(store: &Arc<dyn Store>) -> Self {
        let [attempts, calls, writes] = [(); 3].map(|()| Executions::default());
        Self { store: Arc::clone(store), attempts, calls, writes }
    }

    /// A process with the agents of a shape.
    pub(super) fn process(
        &self,
        shape: &Shape,
        store: Arc<dyn Store>,
        broker: Arc<dyn Broker>,
        lease_time: Duration,
    ) -> RuntimeBuilder {
        let options = EngineOptions::new()
            .with_lease_time(lease_time)
            .with_child_poll_interval(Duration::from_millis(500));
        let builder = Runtime::builder().store(Arc::clone(&store)).broker(broker);
        (shape.register)(builder.engine_options(options), &Self { store, ..self.clone() })
    }

    /// Adds an agent whose tasks are noted.
    pub(super) fn add<O>(
        &self,
        builder: RuntimeBuilder,
        name: &str,
        agent: LlmAgent<O>,
    ) -> RuntimeBuilder {
        let built = agent.write_log(Arc::clone(&self.store)).build(name).unwrap();
        let noted = Noted(self.attempts.clone());
        let builder = builder.workflow_dyn(built.workflow().unwrap());
        let agents = built.agents().into_iter().map(|agent| agent.with_layer(noted.clone()));
        agents.fold(builder, RuntimeBuilder::agents)
    }

    /// A model that answers with a function of the request and the number of its turn, from 0.
    pub(super) fn model(
        &self,
        name: &'static str,
        answer: fn(&ModelRequest, usize) -> ModelResponse,
    ) -> FunctionModel {
        let calls = self.calls.clone();
        let model = FunctionModel::new(move |request: ModelRequest| {
            let turn = request.messages.iter().filter(|it| it.role == Role::Assistant).count();
            calls.note(&format!("model {name}"), &format!("turn {turn}"));
            async move {
                moment().await;
                Ok(answer(&request, turn).with_usage(USAGE))
            }
        });
        model.with_name(format!("test:{name}"))
    }

    /// A model that is billed for its failures.
    pub(super) fn failing_model(&self, name: &'static str) -> FunctionModel {
        let calls = self.calls.clone();
        let model = FunctionModel::new(move |_| {
            calls.note(&format!("model {name}"), "fails");
            async {
                moment().await;
                let error = ModelError::new(ModelErrorKind::Overloaded, "try later");
                Err(error.with_usage(USAGE))
            }
        });
        model.with_name(format!("test:{name}"))
    }

    /// How often models were called.
    pub(super) fn requests(&self) -> u64 {
        let calls = self.calls.all();
        let requests = calls.iter().filter(|(of, _)| of.starts_with("model ")).count();
        u64::try_from(requests).unwrap()
    }

    /// A tool that returns what it did.
    pub(super) fn tool(&self, name: &'static str, effect: Effect) -> Tool {
        let (calls, writes) = (self.calls.clone(), self.writes.clone());
        let run = move |context: ToolContext, Query { words }: Query| {
            if effect == Effect::Write {
                writes.note(context.idempotency_key(), &words);
            }
            let before = calls.all().into_iter().filter(|(of, what)| of == name && *what == words);
            let hangs = words.starts_with(HANGING) && before.count() == 0;
            calls.note(name, &words);
            async move {
                moment().await;
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, TaskError>(did(name, &words))
            }
        };
        Tool::with_context(name, "Does something.", effect, run)
    }

    /// The budget that all runs of a subject share.
    pub(super) fn subject_budget(&self, requests: Option<u64>) -> SubjectBudget {
        let limits = Limits { requests, ..Limits::default() };
        SubjectBudget::new(Arc::clone(&self.store), WINDOW, limits)
    }
}

/// The result of a tool.
pub(super) fn did(tool: &str, words: &str) -> String {
    format!("{tool} did {words}")
}

/// A response with these calls: tool and words.
pub(super) fn calls(calls: &[(&str, &str)]) -> ModelResponse {
    let part = |(tool, words): &(&str, &str)| {
        let arguments = match tool.strip_prefix("ask_") {
            Some(_) => json!({ "task": words }),
            None => json!({ "words": words, "reason": words }),
        };
        Part::tool_call(format!("{tool}-{words}"), *tool, &arguments)
    };
    ModelResponse::new(calls.iter().map(part).collect())
}

/// An answer that repeats the results of the last calls.
pub(super) fn answer(request: &ModelRequest) -> ModelResponse {
    let parts = request.messages.last().map(|message| message.content.clone()).unwrap_or_default();
    let results = parts.into_iter().map(|part| match part {
        Part::ToolResult(result) => result.content,
        Part::Text { text } => text,
        _ => String::new(),
    });
    ModelResponse::text(format!("answer to {}", results.collect::<Vec<_>>().join(", ")))
}

/// How often each thing was done.
pub(super) fn counts(executions: &Executions, id: &str) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for (of, what) in executions.all() {
        *counts.entry((of, what.replace(id, "ID"))).or_default() += 1;
    }
    counts
}

/// Notes the attempts at tasks.
#[derive(Clone)]
struct Noted(Executions);

impl Middleware for Noted {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        self.0.note(context.task_id().as_str(), &format!("attempt {}", context.attempt()));
        agent.process_task(context, parameters).await
    }
}
