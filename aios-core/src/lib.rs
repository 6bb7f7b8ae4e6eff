//! Contracts and pure data of [aios](https://github.com/aios-rs/aios), a library for durable, event-driven agents and workflows.
//!
//! This crate contains everything that agents, brokers, stores and the runtime share: the event
//! envelope, the contract of an agent, the ports that adapters implement, errors with stable codes,
//! retry policies, the clock, and the suites that every adapter passes. It depends on no async
//! runtime, no driver and no web framework.
//!
//! Programs usually depend on `aios-agents`, whose prelude re-exports the common items. Depend on this
//! crate to write an adapter, to publish and consume events without the runtime, or for its types.
//!
//! # Example
//!
//! ```
//! use aios_core::event::{Event, Pattern};
//!
//! # fn main() -> Result<(), aios_core::event::EventError> {
//! let event = Event::new("agents.backend.task_completed".parse()?, "backend-1", &["done"])?;
//! assert!("agents.*.task_completed".parse::<Pattern>()?.matches(&event.event_type));
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! ```text
//!         your agents and workflows
//!                   │
//!             aios-agents ─────────────┐        the runtime depends on the ports, not on adapters
//!                   │                  │
//!    ┌──────────────▼──────────────────▼───┐
//!    │ aios-core                           │
//!    │   agent    event    retry   failure │    pure data and contracts
//!    │   broker (port)     store (ports)   │
//!    │   clock             conformance     │
//!    └──────▲──────────────────▲───────────┘
//!           │                  │
//!      aios-broker        aios-store            an adapter depends on its port, not on the runtime
//!    memory, RabbitMQ    memory, SQLite, PostgreSQL
//! ```
//!
//! | module | contains |
//! |---|---|
//! | [`catalog`] | every event of the domains `workflows`, `agents` and `system` with its data, and every code of a failure |
//! | [`event`] | the envelope, event types and patterns, payloads, metadata, CloudEvents |
//! | [`agent`] | the contract of an agent, tasks, their context and errors |
//! | [`broker`] | the broker port: publish, subscribe, settle, dead letters |
//! | [`store`] | the store ports: event log, leases, read models, checkpoints |
//! | [`output`] | output streams of runs: what they show while they work |
//! | [`projection`] | the changes of the read models that follow from an event |
//! | [`retry`] | retry policies as data |
//! | [`failure`] | failures as data that a journal can store |
//! | [`clock`] | the injected clock |
//!
//! # Which error when
//!
//! | type | means |
//! |---|---|
//! | [`agent::TaskError`] | an attempt at a task or step failed; tells whether another may succeed |
//! | [`broker::BrokerError`], [`store::StoreError`] | what an adapter reports |
//! | [`event::EventError`] | something is not an event, an event type, a pattern or the expected data |
//! | [`failure::Failure`] | code, message and details, as recorded in the log |
//!
//! Errors have a stable `code()` and, where applicable, `is_retryable()`. `Display` never repeats
//! the source; [`Chain`] prints an error with all its sources.
//!
//! # Guarantees
//!
//! The guarantees of an adapter are documented at its port, [`broker::Broker`] and [`store::EventStore`], and
//! checked by the conformance suite: delivery at least once, settlement exactly once, atomic and
//! idempotent appends, dense positions in commit order, fences checked in the appending transaction.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `tokio` | `clock::SystemClock`, which sleeps on tokio's timer |
//! | `conformance` | the suites for adapters, one test for each case |
//! | `simulation` | hooks for deterministic simulations |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod agent;
pub mod broker;
pub mod catalog;
mod cause;
mod chain;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod event;
pub mod failure;
mod forward;
pub mod output;
pub mod projection;
pub mod retry;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;
mod yielding;

use std::{future::Future, pin::Pin};

pub use self::{cause::Cause, chain::Chain, yielding::yield_now};

/// A boxed, sendable future, as returned by object-safe ports.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
