//! Language-model agents of [aios](https://github.com/aios-rs/aios): every model call and every tool
//! call is one recorded operation of a durable workflow.
//!
//! An agent survives any crash without repeating a recorded call, asks for human approval where you
//! require it, and stays within its budget.
//!
//! # Example
//!
//! ```
//! use aios_agents::prelude::*;
//! use aios_llm::{LlmAgent, RuntimeBuilderExt, budget::Budget, testing::SchemaModel, tool::Tool};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Query {
//!     /// Words to search for.
//!     words: String,
//! }
//!
//! #[derive(Debug, Serialize, Deserialize, JsonSchema)]
//! struct Report {
//!     title: String,
//! }
//!
//! async fn search(query: Query) -> Result<Vec<String>, std::io::Error> {
//!     Ok(vec![format!("a page about {}", query.words)])
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let researcher = LlmAgent::new(SchemaModel::new()) // in production, a model of a provider
//!         .instructions("Research the question and write a report.")
//!         .tool(Tool::read("search", "Searches the web.", search))
//!         .output::<Report>()
//!         .budget(Budget::new().with_requests(20));
//!     let runtime = Runtime::builder()
//!         .store(aios_store::connect("memory://").await?) // or sqlite://agents.db, postgres://…
//!         .broker(aios_broker::connect("memory://").await?) // or amqp://…
//!         .llm_agent("researcher", researcher)?
//!         .start()
//!         .await?;
//!     let run = runtime.start("researcher", "What is new about sqlite?").await?;
//!     let report: Report = run.result().await?;
//!     println!("{}", report.title);
//!     Ok(())
//! }
//! ```
//!
//! # Architecture
//!
//! ```text
//!    start ──► workflow of the agent          one turn after another; deterministic
//!                │          ▲
//!      requests  │          │ recorded responses and results
//!                ▼          │
//!    ┌───────────────────────────────────┐    ┌────────────────────────────┐
//!    │ task: model call                  │──► │ middleware ──► model       │──► provider
//!    │ task: tool call                   │──► │ your function              │
//!    │ child run: agent or workflow      │    └────────────────────────────┘
//!    │ signal: decision of a person      │ ◄── approve, reject, edit
//!    └───────────────────────────────────┘
//!                │
//!                └──► output stream: tokens, progress, partial results
//! ```
//!
//! The workflow decides and the tasks perform. Budgets, guardrails and limits of faults are part of the
//! workflow, so a replay comes to the same decisions.
//!
//! | module | contains |
//! |---|---|
//! | [`model`] | [`LanguageModel`], requests, responses, errors, the switch that forbids real requests |
//! | [`middleware`] | wrappers around models: fallback, circuit breaker, rate limit, cache |
//! | [`tool`] | [`Tool`](tool::Tool), effect classes, approval, decisions about calls in doubt |
//! | [`team`] | several agents that a workflow joins or races |
//! | [`agent`] | [`LlmAgent`] and its registration |
//! | [`budget`] | limits, prices, the sums of a run |
//! | [`guardrail`] | checks of the input and the output of an agent |
//! | [`gen_ai`] | OpenTelemetry attributes of the spans of model calls and tool calls |
//! | [`conversation`] | the conversation of a run: read, continue and change it |
//! | `providers` | models of providers over HTTP (feature `providers`) |
//! | `testing` | models that make no requests, and a provider on this machine (feature `testing`) |
//!
//! # Which error when
//!
//! | type | returned by | means |
//! |---|---|---|
//! | [`LlmAgentError`] | [`llm_agent`](RuntimeBuilderExt::llm_agent), [`LlmAgent::build`] | a name, tool, guardrail, schema or option of the agent is invalid |
//! | [`ConversationError`](conversation::ConversationError) | [`Conversation::runs`] | the run is unknown, or the store failed |
//! | [`ModelError`] | [`LanguageModel`] | why a request has no response; its kind tells whether to repeat it |
//! | [`TaskError`](aios_agents::prelude::TaskError) | tools and guardrails | a failure, and whether another attempt may succeed; a terminal one is reported to the model |
//! | [`RunError`](aios_agents::RunError) | [`RunHandle::result`](aios_agents::RunHandle::result) | the run failed with a code: `MODEL_…`, `BUDGET_EXCEEDED`, `GUARDRAIL_TRIPPED` |
//!
//! Codes are listed in the reference of the guide.
//!
//! # Guarantees
//!
//! - A model call or tool call whose result is recorded is never repeated, even after a crash. A call
//!   in progress at a crash is repeated, except a call of a `write` tool: an operator is asked.
//! - Budget totals are computed from recorded results only, so a replay gives the same totals. A request
//!   that was in progress at a crash is counted once, although the provider may bill it twice.
//! - Faults of the model (unknown tools, invalid arguments, invalid output, repeated calls) are
//!   reported to it. The number of faulty responses in a row is limited, as is the number of responses;
//!   then the run fails with a code.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `providers` | the module `providers`: `OpenAI`, Anthropic, Gemini, Bedrock, Ollama, and servers that are compatible with `OpenAI` |
//! | `testing` | the module `testing` |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod agent;
pub mod budget;
pub mod conversation;
#[cfg(any(feature = "providers", feature = "testing"))]
mod crc32;
pub mod gen_ai;
pub mod guardrail;
pub mod middleware;
pub mod model;
mod partial_json;
#[cfg(feature = "providers")]
pub mod providers;
mod schema;
pub mod team;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;

pub use self::{
    agent::{
        AgentUpdate, Compaction, EndStrategy, LlmAgent, LlmAgentError, Prompt, RuntimeBuilderExt,
        Streaming, TOKENS, pending_decisions,
    },
    conversation::Conversation,
    model::{LanguageModel, ModelError, ModelRequest, ModelResponse},
};
