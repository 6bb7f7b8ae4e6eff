//! The runtime of [aios](https://github.com/aios-rs/aios): hosts agents and runs durable workflows, embedded in your process.
//!
//! Agents and workflows are plain async functions. Every result is recorded in an event log before the
//! workflow sees it, so that a run resumes after a crash where it stopped.
//!
//! # Example
//!
//! ```
//! use aios_agents::prelude::*;
//!
//! struct Greeter;
//!
//! impl Agent for Greeter {
//!     type Parameters = String;
//!     type Output = String;
//!
//!     async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
//!         Ok(format!("Hello, {name}!"))
//!     }
//! }
//!
//! async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
//!     let greeting: String = context.task("greeter", &name).await?;
//!     context.run("shout", || async { greeting.to_uppercase() }).await
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let runtime = Runtime::builder()
//!         .store(aios_store::connect("memory://").await?) // or sqlite://hello.db, postgres://…
//!         .broker(aios_broker::connect("memory://").await?) // or amqp://…
//!         .agent("greeter", Greeter)
//!         .workflow("welcome", welcome)
//!         .start()
//!         .await?;
//!     let run = runtime.start("welcome", "Ada").id("welcome-ada").await?;
//!     assert_eq!(run.result::<String>().await?, "HELLO, ADA!");
//!     Ok(())
//! }
//! ```
//!
//! # Architecture
//!
//! ```text
//!   start, signal, cancel                             ┌────────────────────────┐
//!  ─────────────────────────► Runtime ── engine ────► │ store port             │
//!                               │          │  ▲       │ log, leases, read      │
//!                               │    task  │  │ answer│ models, checkpoints    │
//!                               │          ▼  │       └────────────────────────┘
//!                               │       broker port ◄── relay (the log is the outbox)
//!                               │          │  ▲
//!                               └─ host ◄──┘  │
//!                                   │         │
//!                           middleware ► your agents
//! ```
//!
//! | module | contains |
//! |---|---|
//! | [`runtime`] | [`Runtime`], which hosts agents and advances runs, and handles of runs |
//! | [`workflow`] | the context of workflows and the rules of determinism |
//! | [`agent`] | definitions of agents, options of their host, direct calls |
//! | [`middleware`] | layers around agents: timeout, retry, rate and concurrency limits, circuit breaker, metrics |
//! | [`projection`] | read models of your own |
//! | [`output`] | output streams of runs: tokens, partial results, progress |
//! | [`trace`] | ids of the spans of runs, derived from their journals |
//! | [`declared`] | agents and workflows declared once, with their types |
//! | `testing` | scripted agents, virtual time, replay of journals (feature `testing`) |
//! | [`prelude`] | the common imports |
//!
//! A process picks its roles: agents only (a broker and no store), an engine, a client without an
//! engine, or all of them.
//!
//! # Which error when
//!
//! | type | returned by | means |
//! |---|---|---|
//! | [`TaskError`](prelude::TaskError) | agents and steps | a failure, and whether another attempt may succeed |
//! | [`WorkflowError`](workflow::WorkflowError) | workflows and their operations | why the run ends without a result |
//! | [`RunError`] | [`RunHandle::result`] | the run failed, was cancelled, is blocked, or has a result of another type |
//! | [`RuntimeError`] | everything else of [`Runtime`] and [`RunHandle`] | configuration, unknown run, store, broker |
//! | [`AgentError`](agent::AgentError) | hosting agents | a definition is invalid, or tasks did not end in time |
//!
//! An error from `?` is retryable: there are up to five attempts by default.
//! [`terminal`](prelude::ResultExt::terminal) makes it final. Every error has a stable code: `code()`, and in a `TaskError`
//! `failure.code`.
//!
//! # Guarantees
//!
//! - A recorded result is never computed again. A step or task whose process dies before the record
//!   runs again: at least once, with an idempotency key.
//! - A run resumes after a crash, on the next start of an engine on the same store.
//! - A run has one writer: shards are leased, and the store checks the fence of every append.
//! - Code that does not match the journal blocks the run, and the error names the operation.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `testing` | the module `testing` |
//! | `simulation` | hooks for deterministic simulations |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod agent;
mod counting_store;
pub mod declared;
mod failing;
mod measure;
pub mod middleware;
mod options;
pub mod output;
mod panic;
pub mod prelude;
pub mod projection;
pub mod runtime;
mod schema;
mod suggest;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod workflow;

/// Items that macros expand to.
#[doc(hidden)]
pub mod __private {
    pub use tokio::{join, select, try_join};
}

pub use self::declared::{AgentRef, TypedRun, WorkflowRef};
pub use self::runtime::{RunError, RunHandle, Runtime, RuntimeBuilder, RuntimeError};
