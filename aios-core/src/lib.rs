//! Contracts of aios: what agents, brokers and stores have to agree on, and nothing else.
//!
//! This crate holds pure data (the [event envelope](event), [retry policies](retry),
//! [failures](failure)), the ports an adapter implements ([`broker`], [`store`], [`clock`]), the
//! contract of an [`agent`], and, behind the feature `conformance`, the suites that every adapter
//! has to pass. It depends on no async runtime, no driver and no web framework.
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

pub mod agent;
pub mod broker;
mod chain;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod event;
pub mod failure;
pub mod projection;
pub mod retry;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;

use std::{future::Future, pin::Pin};

pub use self::chain::Chain;

/// A boxed, sendable future: what object-safe ports return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The error a backend's driver reported, shared so that every member of a failed batch can carry it.
pub type Cause = std::sync::Arc<dyn std::error::Error + Send + Sync + 'static>;
