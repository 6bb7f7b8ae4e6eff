use std::{fmt, sync::Arc};

use aios_core::{
    agent::{Agent, DynAgent, TaskContext, TaskError},
    event::Payload,
    failure::Failure,
};
use async_trait::async_trait;
use serde_json::Value;

use super::{AgentError, codes, validation::Schema};
use crate::schema::schema_of;

/// Adapts a typed [`Agent`] to [`DynAgent`]: checks the parameters against type and schema, and
/// serialises the answer to JSON.
///
/// Generates both schemas, and compiles that of the parameters, once.
pub struct TypedAgent<A> {
    agent: A,
    parameters: Schema,
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
        let parameters = self.parameters.decode(&parameters).map_err(|mut error| {
            let subject = format!("the parameters do not fit agent {}", context.agent_type());
            let message = &mut error.failure.message;
            *message = message.replacen("the parameters do not fit", &subject, 1);
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
