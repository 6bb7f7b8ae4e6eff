//! Common imports for services that use agents and workflows.
//!
//! ```
//! use aios_agents::prelude::*;
//!
//! async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
//!     Ok(format!("Welcome, {name}!"))
//! }
//!
//! let builder = Runtime::builder().workflow("welcome", welcome);
//! # drop(builder);
//! ```

pub use aios_core::{
    agent::{Agent, DynAgent, ResultExt, TaskContext, TaskError},
    broker::{Broker, BrokerExt as _, Mailbox},
    clock::Clock,
    event::{Event, EventType, Pattern, Payload, Timestamp},
    failure::Failure,
    retry::RetryPolicy,
    store::{EventStoreExt as _, Store},
};

pub use crate::{
    declared::{AgentRef, TypedRun, WorkflowRef},
    runtime::{RunError, RunHandle, Runtime, RuntimeBuilder, RuntimeError},
    select,
    workflow::{Target, WorkflowContext, WorkflowError, race},
};
