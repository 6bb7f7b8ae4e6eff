//! Middleware for agents, one concern each.
//!
//! Add a layer to a definition with [`with_layer`](crate::agent::AgentDefinition::with_layer). The
//! first layer added is the outermost. A layer that needs time uses the clock passed to its
//! constructor.
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
//!
//! | layer | a task … |
//! |---|---|
//! | [`Timeout`] | fails after a time |
//! | [`Retry`] | is tried again within the process |
//! | [`ConcurrencyLimit`], [`RateLimit`] | waits for its turn |
//! | [`CircuitBreaker`] | is rejected while the agent fails |
//! | [`Deduplicate`] | is answered with the output of an earlier attempt |
//! | [`Trace`], [`Metrics`] | is logged and measured |
//!
//! Layers see JSON, and run within the attempt: the timeout of the task includes them. `Retry`
//! inside of `Timeout` limits all tries together; outside of it, each try.

mod circuit_breaker;
mod concurrency_limit;
mod deduplicate;
mod metrics;
mod rate_limit;
mod retry;
mod timeout;
mod trace;

use std::{fmt, sync::Arc};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    catalog::codes,
    event::Payload,
    failure::Failure,
};
use async_trait::async_trait;
use serde_json::Value;

use crate::agent::AgentError;

pub use self::{
    circuit_breaker::CircuitBreaker, concurrency_limit::ConcurrencyLimit, deduplicate::Deduplicate,
    metrics::Metrics, rate_limit::RateLimit, retry::Retry, timeout::Timeout, trace::Trace,
};

/// Code that wraps every task of an agent.
///
/// All agents that a middleware wraps share its state (permits, rates, a circuit), because clones
/// share it.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use aios_agents::{agent::AgentDefinition, middleware::Middleware, prelude::*};
///
/// /// Counts the bytes of all parameters. Clones share the count.
/// #[derive(Clone, Default)]
/// struct Traffic(Arc<AtomicU64>);
///
/// impl Middleware for Traffic {
///     async fn call(
///         &self,
///         agent: &dyn DynAgent,
///         context: &TaskContext,
///         parameters: Payload,
///     ) -> Result<Payload, TaskError> {
///         self.0.fetch_add(parameters.as_str().len() as u64, Ordering::Relaxed);
///         agent.process_task(context, parameters).await
///     }
/// }
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let traffic = Traffic::default();
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .agents(AgentDefinition::instance("upper", Upper).with_layer(traffic.clone()))
///     .start()
///     .await?;
/// runtime.task("upper", "hello").await?.result::<String>().await?;
/// assert_eq!(traffic.0.load(Ordering::Relaxed), r#""hello""#.len() as u64);
/// # Ok(())
/// # }
/// ```
pub trait Middleware: Clone + Send + Sync + 'static {
    /// Runs one task, usually by calling [`agent.process_task`](DynAgent::process_task).
    ///
    /// # Errors
    ///
    /// See [`Agent::process_task`](aios_core::agent::Agent::process_task).
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the task times out or is cancelled, as for every agent.
    fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> impl Future<Output = Result<Payload, TaskError>> + Send;

    /// Rejects invalid options. Called once, before any agent is wrapped.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidConfiguration`] with the reason.
    fn check(&self) -> Result<(), AgentError> {
        Ok(())
    }

    /// Wraps an agent. [`AgentDefinition::with_layer`](crate::agent::AgentDefinition::with_layer)
    /// calls this for every agent of a type.
    fn wrap(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent> {
        Arc::new(Wrapped { agent, middleware: self.clone() })
    }
}

/// Waits for something before the agent's code begins, unless the task is cancelled before.
async fn unless_cancelled<T>(
    context: &TaskContext,
    waiting: impl Future<Output = T>,
) -> Result<T, TaskError> {
    tokio::select! {
        biased;
        () = context.cancelled() => {
            let message = "the task was cancelled before it began";
            Err(TaskError::terminal(Failure::new(codes::TASK_CANCELLED, message)))
        }
        waited = waiting => Ok(waited),
    }
}

/// A type-erased [`Middleware`].
///
/// A definition holds layers of different types in one list. `Middleware` itself can't be an
/// object, because it is `Clone` and its `call` returns an unnamed future.
pub(crate) trait Layer: Send + Sync {
    /// See [`Middleware::wrap`].
    fn wrap(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent>;

    /// See [`Middleware::check`].
    fn check(&self) -> Result<(), AgentError>;
}

impl<M: Middleware> Layer for M {
    fn wrap(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent> {
        Middleware::wrap(self, agent)
    }

    fn check(&self) -> Result<(), AgentError> {
        Middleware::check(self)
    }
}

/// An agent wrapped by a middleware.
///
/// It has the schemas of the agent that it wraps.
struct Wrapped<M> {
    /// The agent, or the next layer.
    agent: Arc<dyn DynAgent>,
    middleware: M,
}

#[async_trait]
impl<M: Middleware> DynAgent for Wrapped<M> {
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
        self.middleware.call(&*self.agent, context, parameters).await
    }
}

impl<M> fmt::Debug for Wrapped<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wrapped").finish_non_exhaustive()
    }
}
