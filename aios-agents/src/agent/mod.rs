//! Agents: definitions, the host that runs them in this process, and a client without a journal.
//!
//! An [`AgentDefinition`] describes how agents of one type are created, an [`AgentSet`] collects
//! definitions, and an [`AgentHost`] runs them on a broker. A caller that needs no durability sends
//! tasks with a [`TaskClient`]; all others use a workflow.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use aios_agents::agent::{AgentHost, AgentSet, TaskClient};
//! use aios_broker::memory::MemoryBroker;
//! use aios_core::{
//!     agent::{Agent, TaskContext, TaskError},
//!     broker::Broker,
//!     clock::{Clock, SystemClock},
//! };
//!
//! struct Upper;
//!
//! impl Agent for Upper {
//!     type Parameters = String;
//!     type Output = String;
//!
//!     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
//!         Ok(text.to_uppercase())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
//! let clock: Arc<dyn Clock> = Arc::new(SystemClock);
//! let agents = AgentSet::new().agent("upper", Upper);
//! let host = AgentHost::builder(agents).broker(broker.clone()).source("service").start().await?;
//!
//! let caller = TaskClient::new(broker, clock, "client").await?;
//! let answer = caller.task("upper", "hello").await.map_err(|error| error.failure)?;
//! assert_eq!(answer.decode::<String>()?, "HELLO");
//!
//! host.shutdown(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod backoff;
mod caller;
mod definition;
mod error;
mod host;
pub(crate) mod letters;
pub(crate) mod managed;
mod names;
mod registry;
mod subscriber;
mod typed;
mod validation;

#[doc(hidden)]
pub use self::typed::marker;
pub use self::{
    caller::{TaskCall, TaskClient},
    definition::{AgentDefinition, RegisteredAgent},
    error::AgentError,
    host::{AgentHost, AgentHostBuilder, Beat, HostOptions, Pulse},
    managed::{
        AgentType, Change, ConfigFault, ExpectedVersion, ManagedAgent, ManagedAgentError,
        ManagedAgents,
    },
    registry::AgentSet,
    typed::{IntoDynAgent, TypedAgent},
};
pub(crate) use self::{
    host::{FIRST_BEAT, is_simulated},
    names::{group_of, mailbox_of, no_agent},
    validation::decode,
};
