//! A runtime in memory, and tools for its agents.

use std::{future::Future, sync::Arc, time::Duration};

use aios_agents::{RunHandle, Runtime, RuntimeBuilder, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_llm::{
    LanguageModel, LlmAgent, ModelResponse, RuntimeBuilderExt,
    model::{Part, Usage},
    pending_decisions,
    providers::{AwsCredentials, ProviderOptions, connect},
    testing::{FakeProvider, ScriptedModel},
    tool::{PendingDecision, Tool},
};
use aios_store::memory::MemoryStore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// No test waits longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Query {
    pub(crate) words: String,
}

pub(crate) async fn search(query: Query) -> Result<String, TaskError> {
    Ok(format!("found {}", query.words))
}

pub(crate) fn search_tool() -> Tool {
    Tool::read("search", "Searches.", search)
}

/// A response with one call.
pub(crate) fn call(id: &str, tool: &str, arguments: &Value) -> ModelResponse {
    ModelResponse::new(vec![Part::tool_call(id, tool, arguments)]).with_usage(Usage::new(10, 5))
}

pub(crate) fn search_call(words: &str) -> ModelResponse {
    call("c", "search", &json!({ "words": words }))
}

pub(crate) fn text(text: &str) -> ModelResponse {
    ModelResponse::text(text).with_usage(Usage::new(10, 5))
}

pub(crate) fn scripted(responses: impl IntoIterator<Item = ModelResponse>) -> Arc<ScriptedModel> {
    Arc::new(ScriptedModel::new(responses))
}

pub(crate) fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

pub(crate) fn builder(store: &Arc<dyn Store>) -> RuntimeBuilder {
    Runtime::builder().store(Arc::clone(store)).broker(Arc::new(MemoryBroker::new()))
}

/// A runtime with this agent as `agent`.
pub(crate) async fn runtime<O>(agent: LlmAgent<O>) -> Runtime {
    builder(&store()).llm_agent("agent", agent).unwrap().start().await.unwrap()
}

/// The value of JSON.
pub(crate) fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

pub(crate) async fn start(runtime: &Runtime) -> RunHandle {
    runtime.start("agent", "go").await.unwrap()
}

/// A model of each protocol behind a provider.
pub(crate) fn models(provider: &FakeProvider) -> Vec<Arc<dyn LanguageModel>> {
    models_with_timeout(provider, Duration::from_secs(60))
}

pub(crate) fn models_with_timeout(
    provider: &FakeProvider,
    timeout: Duration,
) -> Vec<Arc<dyn LanguageModel>> {
    let options = |url: String| {
        ProviderOptions::new("large").with_api_key("key").with_base_url(url).with_timeout(timeout)
    };
    let (openai, google) = (provider.openai_url(), provider.gemini_url());
    let bedrock = options(provider.bedrock_url())
        .with_region("eu-west-1")
        .with_aws_credentials(|| AwsCredentials::new("AKID", "key").with_session_token("token"));
    vec![
        connect("openai", options(openai.clone())).unwrap(),
        connect("openai-responses", options(openai.clone())).unwrap(),
        connect("anthropic", options(provider.anthropic_url())).unwrap(),
        connect("gemini", options(google)).unwrap(),
        connect("bedrock", bedrock).unwrap(),
        connect("ollama", options(openai)).unwrap(),
    ]
}

/// The failure of a run that fails.
pub(crate) async fn failure(run: &RunHandle) -> Failure {
    match in_time(run.result::<Value>()).await.unwrap_err() {
        RunError::Failed { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

/// Waits until the run waits for decisions that fit.
pub(crate) async fn pending(
    run: &RunHandle,
    fits: impl Fn(&[PendingDecision]) -> bool,
) -> Vec<PendingDecision> {
    in_time(async {
        loop {
            let pending = pending_decisions(&run.status().await.unwrap()).unwrap();
            if fits(&pending) {
                return pending;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// The only decision that the run waits for.
pub(crate) async fn one_pending(run: &RunHandle) -> PendingDecision {
    pending(run, |pending| pending.len() == 1).await.remove(0)
}
