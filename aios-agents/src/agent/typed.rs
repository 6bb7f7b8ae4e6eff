//! From a typed agent to an object-safe one.
//!
//! The host knows only `DynAgent`: JSON in, JSON out. This file is the single place where types are
//! converted, so that agents in Rust get the same checks of parameters and output everywhere.
//! `IntoDynAgent` accepts both kinds in the same setters. Its marker type keeps the two blanket
//! implementations apart, which the compiler would otherwise reject as overlapping.

use std::{fmt, sync::Arc};

use aios_core::{
    agent::{Agent, DynAgent, TaskContext, TaskError},
    catalog::codes,
    event::Payload,
    failure::Failure,
};
use async_trait::async_trait;
use serde_json::Value;

use super::{AgentError, validation::Schema};
use crate::schema::schema_of;

/// Adapts a typed [`Agent`] to [`DynAgent`]: checks the parameters against type and schema, and
/// serialises the answer to JSON.
///
/// Generates both schemas, and compiles that of the parameters, once.
///
/// # Examples
///
/// ```
/// use aios_agents::{agent::TypedAgent, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// # fn main() -> Result<(), aios_agents::agent::AgentError> {
/// // As the host sees it: JSON in, JSON out, and schemas of both.
/// let agent = TypedAgent::new(Upper)?;
/// assert_eq!(agent.parameters_schema()["type"], "string");
/// # Ok(())
/// # }
/// ```
pub struct TypedAgent<A> {
    /// The agent of the user.
    agent: A,
    /// Compiled once; checked for each task.
    parameters: Schema,
    /// Only published, not checked: the type guarantees it.
    output: Value,
}

impl<A: Agent> TypedAgent<A> {
    /// Wraps an agent.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidSchema`] if the schema of the parameters does not compile. Derived
    /// schemas always do.
    pub fn new(agent: A) -> Result<Self, AgentError> {
        Ok(Self {
            agent,
            parameters: Schema::compile(schema_of::<A::Parameters>())?,
            output: schema_of::<A::Output>(),
        })
    }
}

#[async_trait]
impl<A: Agent> DynAgent for TypedAgent<A> {
    fn parameters_schema(&self) -> &Value {
        self.parameters.as_value()
    }

    fn output_schema(&self) -> &Value {
        &self.output
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        // `validation` does not know the type, so it is added to the message here.
        let parameters = self.parameters.decode(&parameters).map_err(|mut error| {
            let subject = format!("invalid parameters for agent {}", context.agent_type());
            let message = &mut error.failure.message;
            *message = message.replacen("invalid parameters", &subject, 1);
            error
        })?;
        let output = self.agent.process_task(context, parameters).await?;
        Payload::encode(&output).map_err(|error| {
            TaskError::terminal(Failure::from_error(codes::INVALID_OUTPUT, &error))
        })
    }
}

impl<A> fmt::Debug for TypedAgent<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TypedAgent").finish_non_exhaustive()
    }
}

/// Markers of [`IntoDynAgent`]. They are always inferred.
pub mod marker {
    /// Marks types that implement [`Agent`](aios_core::agent::Agent).
    #[derive(Debug)]
    pub enum Typed {}

    /// Marks types that implement [`DynAgent`](aios_core::agent::DynAgent).
    #[derive(Debug)]
    pub enum Dynamic {}
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an agent",
    note = "an agent is a value of a type, such as `struct Greeter;`, that implements `Agent`; a function \
            is not one",
    note = "types that implement `DynAgent`, for JSON without types, are agents too"
)]
/// Values that can run as an agent: every [`Agent`] and every [`DynAgent`]. The marker `M`
/// distinguishes the two and is always inferred.
pub trait IntoDynAgent<M> {
    /// Converts the value into a [`DynAgent`].
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidSchema`]; see [`TypedAgent::new`].
    fn into_dyn(self) -> Result<Arc<dyn DynAgent>, AgentError>;
}

impl<A: Agent> IntoDynAgent<marker::Typed> for A {
    fn into_dyn(self) -> Result<Arc<dyn DynAgent>, AgentError> {
        Ok(Arc::new(TypedAgent::new(self)?))
    }
}

impl<A: DynAgent> IntoDynAgent<marker::Dynamic> for A {
    fn into_dyn(self) -> Result<Arc<dyn DynAgent>, AgentError> {
        Ok(Arc::new(self))
    }
}
