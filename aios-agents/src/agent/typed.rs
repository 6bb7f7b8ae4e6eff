use std::{fmt, sync::Arc};

use aios_core::{
    agent::{Agent, DynAgent, TaskContext, TaskError},
    event::Payload,
    failure::Failure,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde_json::Value;

use super::{AgentError, codes, faults::Schema};

/// A typed [`Agent`] as a [`DynAgent`]: checks the parameters against type and schema, and writes
/// the answer as JSON.
///
/// Both schemas are made, and the parameters' schema compiled, once, here.
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
    /// [`AgentError::InvalidSchema`] if the schema of the parameters can't be compiled, which only
    /// a handwritten one causes.
    pub fn new(agent: A) -> Result<Self, AgentError> {
        Ok(Self {
            agent,
            parameters: Schema::compile(schema_of::<A::Parameters>())?,
            output: schema_of::<A::Output>(),
        })
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
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
            let whom = format!("the parameters do not fit agent {}", context.agent_type());
            let message = &mut error.failure.message;
            *message = message.replacen("the parameters do not fit", &whom, 1);
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

/// Markers of [`IntoDynAgent`], which are always inferred.
pub mod marker {
    /// Marks types that implement [`Agent`](aios_core::agent::Agent).
    #[derive(Debug)]
    pub enum Typed {}

    /// Marks types that implement [`DynAgent`](aios_core::agent::DynAgent).
    #[derive(Debug)]
    pub enum Dynamic {}

    /// Marks [`DynAgent`](aios_core::agent::DynAgent)s that are already behind a pointer.
    #[derive(Debug)]
    pub enum Boxed {}
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an agent",
    label = "implement `Agent` for this type",
    note = "an agent is a value of a type that implements `Agent`, or `DynAgent` for JSON without \
            types, or an `Arc<dyn DynAgent>`"
)]
/// What can be run as an agent: every [`Agent`] and every [`DynAgent`]. The marker `M` tells the
/// two apart and is always inferred.
pub trait IntoDynAgent<M> {
    /// Erases the type.
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

impl IntoDynAgent<marker::Boxed> for Arc<dyn DynAgent> {
    fn into_dyn(self) -> Result<Self, AgentError> {
        Ok(self)
    }
}
