//! Wrappers for any agent, one concern each.
//!
//! A layer is added to a definition with
//! [`with_layer`](crate::agent::AgentDefinition::with_layer); the one that was added first is the
//! outermost. Time comes from the clock that a layer is given.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use aios_agents::{agent::AgentDefinition, middleware::{ConcurrencyLimit, Timeout, Trace}};
//! use aios_core::{agent::{Agent, TaskContext, TaskError}, clock::{Clock, SystemClock}};
//!
//! # struct Upper;
//! # impl Agent for Upper {
//! #     type Parameters = String;
//! #     type Output = String;
//! #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
//! #         Ok(text.to_uppercase())
//! #     }
//! # }
//! let clock: Arc<dyn Clock> = Arc::new(SystemClock);
//! let definition = AgentDefinition::instance("upper", Upper)
//!     .with_layer(Trace::new())
//!     .with_layer(Timeout::new(clock, Duration::from_secs(30)))
//!     .with_layer(ConcurrencyLimit::new(4));
//! ```

mod circuit_breaker;
mod concurrency_limit;
mod deduplicate;
mod measure;
mod rate_limit;
mod retry;
mod timeout;
mod trace;

use std::{fmt, sync::Arc};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use async_trait::async_trait;
use serde_json::Value;

use crate::agent::AgentError;

pub use self::{
    circuit_breaker::CircuitBreaker, concurrency_limit::ConcurrencyLimit, deduplicate::Deduplicate,
    measure::Measure, rate_limit::RateLimit, retry::Retry, timeout::Timeout, trace::Trace,
};

/// Wraps agents. What a layer keeps (permits, rates, a circuit) is shared by all agents that it
/// wraps.
pub trait AgentLayer: Send + Sync + 'static {
    /// Wraps one agent.
    fn layer(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent>;

    /// Refuses options that make no sense; called once, before any agent is wrapped.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidConfiguration`] says what is wrong.
    fn check(&self) -> Result<(), AgentError> {
        Ok(())
    }
}

/// Does something around every task of an agent. The easy way to write an [`AgentLayer`]: clones
/// share what the layer keeps.
pub trait Around: Clone + Send + Sync + 'static {
    /// Does one task, usually by handing it to `agent`.
    ///
    /// # Errors
    ///
    /// See [`Agent::process_task`](aios_core::agent::Agent::process_task).
    ///
    /// # Cancel safety
    ///
    /// As for every agent, the future is dropped when the task is over time or cancelled.
    fn around(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> impl Future<Output = Result<Payload, TaskError>> + Send;

    /// See [`AgentLayer::check`].
    ///
    /// # Errors
    ///
    /// See [`AgentLayer::check`].
    fn check(&self) -> Result<(), AgentError> {
        Ok(())
    }
}

impl<L: Around> AgentLayer for L {
    fn layer(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent> {
        Arc::new(Wrapped { agent, layer: self.clone() })
    }

    fn check(&self) -> Result<(), AgentError> {
        Around::check(self)
    }
}

/// An agent with something around it.
struct Wrapped<L> {
    agent: Arc<dyn DynAgent>,
    layer: L,
}

#[async_trait]
impl<L: Around> DynAgent for Wrapped<L> {
    fn parameters_schema(&self) -> &Value {
        self.agent.parameters_schema()
    }

    fn output_schema(&self) -> &Value {
        self.agent.output_schema()
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        self.layer.around(&*self.agent, context, parameters).await
    }
}

impl<L> fmt::Debug for Wrapped<L> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wrapped").finish_non_exhaustive()
    }
}
