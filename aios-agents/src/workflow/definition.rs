//! Workflows as the engine sees them, and async functions as workflows.
//!
//! `Workflow` is object-safe, so that the engine holds Rust functions, coroutines of Python and
//! definitions given as data in the same registry. Input and result cross it as text (`Payload`); only
//! `FnWorkflow` decodes and encodes them.

use std::{fmt, future::Future, marker::PhantomData};

use aios_core::{
    BoxFuture,
    agent::{InvalidName, Name, TaskError},
    event::Payload,
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{WorkflowContext, WorkflowError};
use crate::{agent::decode, schema::schema_of};

/// A workflow that the engine can run: a Rust function, a coroutine of another language, or a
/// definition given as data.
///
/// # Examples
///
/// A workflow given as data:
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::{prelude::*, workflow::Workflow};
/// use aios_core::{BoxFuture, agent::Name};
/// # #[cfg(feature = "testing")]
/// use aios_agents::testing::WorkflowTest;
///
/// /// Passes the input through a list of agents.
/// struct Pipeline {
///     name: Name,
///     agents: Vec<String>,
/// }
///
/// impl Workflow for Pipeline {
///     fn name(&self) -> &Name {
///         &self.name
///     }
///
///     fn version(&self) -> u32 {
///         1
///     }
///
///     fn run(
///         &self,
///         context: WorkflowContext,
///         mut value: Payload,
///     ) -> BoxFuture<'static, Result<Payload, WorkflowError>> {
///         let agents = self.agents.clone();
///         Box::pin(async move {
///             for agent in agents {
///                 value = context.task(agent.as_str(), &value).await?;
///             }
///             Ok(value)
///         })
///     }
/// }
///
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pipeline = Pipeline { name: Name::new("tidy")?, agents: vec!["trim".into(), "upper".into()] };
/// let run = WorkflowTest::of(Arc::new(pipeline))
///     .agent("trim", |text: String| Ok(text.trim().to_owned()))
///     .agent("upper", |text: String| Ok(text.to_uppercase()))
///     .run(" tea ")
///     .await;
/// assert_eq!(run.result::<String>().unwrap(), "TEA");
/// # Ok(())
/// # }
/// ```
pub trait Workflow: Send + Sync + 'static {
    /// Name of the workflow.
    fn name(&self) -> &Name;

    /// Version of the workflow, from 1. A run keeps the version it started with.
    fn version(&self) -> u32;

    /// Runs the workflow. The future must be deterministic except for operations of `context`.
    fn run(
        &self,
        context: WorkflowContext,
        input: Payload,
    ) -> BoxFuture<'static, Result<Payload, WorkflowError>>;

    /// JSON Schema of the input, if it is known. The OpenAPI document of the HTTP API shows it.
    fn input_schema(&self) -> Option<&Value> {
        None
    }

    /// JSON Schema of the result, if it is known.
    fn output_schema(&self) -> Option<&Value> {
        None
    }

    /// Whether the code may see the outcome of a task or timer before it is durable; see
    /// [`FnWorkflow::with_lookahead`].
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Number of clones of its waker that the future keeps itself, in addition to those kept by what it
    /// awaits. For bindings of other languages; 0 for all other workflows.
    fn kept_wakers(&self) -> usize {
        0
    }
}

/// An async function as a workflow.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::{prelude::*, workflow::FnWorkflow};
///
/// async fn quote(_: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
///     Ok(u32::try_from(item.len())?)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // With schemas, the OpenAPI document of the HTTP API describes the input and the result.
/// let quote = FnWorkflow::new("quote", quote)?.with_version(2).with_schemas();
/// let builder = Runtime::builder().workflow_dyn(Arc::new(quote));
/// # drop(builder);
/// # Ok(())
/// # }
/// ```
pub struct FnWorkflow<F, I, O> {
    /// Checked by `new`.
    name: Name,
    /// 1, unless it was set.
    version: u32,
    /// Called once for each time that a run is loaded.
    function: F,
    /// The schemas of input and result, if they were derived.
    schemas: Option<(Value, Value)>,
    /// See `with_lookahead`.
    looks_ahead: bool,
    /// The types that input and result are decoded as and encoded from.
    types: PhantomData<fn(I) -> O>,
}

impl<F, I, O, Fut> FnWorkflow<F, I, O>
where
    F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + 'static,
{
    /// Creates version 1 of a workflow from a function.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is not `[a-z][a-z0-9_]*` with at most 100 bytes.
    pub fn new(name: impl AsRef<str>, function: F) -> Result<Self, InvalidName> {
        let name = Name::new(name)?;
        Ok(Self {
            name,
            version: 1,
            function,
            schemas: None,
            looks_ahead: false,
            types: PhantomData,
        })
    }

    /// Sets the version, from 1.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Lets the code see the outcome of a task or timer before it is durable. The outcome and what the code
    /// requests next are then recorded by one commit, so that a task in a sequence costs one commit instead
    /// of two. Nothing that the code requests begins before the commit.
    ///
    /// If another process appends to the journal first, for example a signal, the code has seen an order
    /// that the journal does not have. It is then dropped, and the run is loaded again from its journal.
    /// Nothing else is lost, because a run looks ahead only while it has nothing else in progress. Code
    /// that has effects outside of its operations, such as counters or lines of a log that must be exact,
    /// should not look ahead.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aios_agents::{prelude::*, workflow::FnWorkflow};
    ///
    /// async fn article(context: WorkflowContext, topic: String) -> Result<String, WorkflowError> {
    ///     let draft: String = context.task("writer", &topic).await?;
    ///     // The draft and the start of this task are recorded by one commit.
    ///     context.task("editor", &draft).await
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let article = FnWorkflow::new("article", article)?.with_lookahead();
    /// let builder = Runtime::builder().workflow_dyn(Arc::new(article));
    /// # drop(builder);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_lookahead(mut self) -> Self {
        self.looks_ahead = true;
        self
    }

    /// Derives the JSON Schemas of input and result, for the OpenAPI document of the HTTP API. The
    /// input is not checked against its schema, but decoded.
    #[must_use]
    pub fn with_schemas(mut self) -> Self
    where
        I: JsonSchema,
        O: JsonSchema,
    {
        self.schemas = Some((schema_of::<I>(), schema_of::<O>()));
        self
    }
}

impl<F, I, O, Fut> Workflow for FnWorkflow<F, I, O>
where
    F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + 'static,
{
    fn name(&self) -> &Name {
        &self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn looks_ahead(&self) -> bool {
        self.looks_ahead
    }

    fn input_schema(&self) -> Option<&Value> {
        self.schemas.as_ref().map(|(input, _)| input)
    }

    fn output_schema(&self) -> Option<&Value> {
        self.schemas.as_ref().map(|(_, output)| output)
    }

    fn run(
        &self,
        context: WorkflowContext,
        input: Payload,
    ) -> BoxFuture<'static, Result<Payload, WorkflowError>> {
        let input = match decode(&input) {
            Ok(input) => input,
            // The run fails: its input is recorded, and no retry changes it.
            Err(TaskError { mut failure, .. }) => {
                let input = format!("invalid input of workflow {}", self.name);
                failure.message = failure.message.replacen("invalid parameters", &input, 1);
                return Box::pin(std::future::ready(Err(WorkflowError::failed(failure))));
            }
        };
        let running = (self.function)(context, input);
        Box::pin(async move { Ok(Payload::encode(&running.await?)?) })
    }
}

impl<F, I, O> fmt::Debug for FnWorkflow<F, I, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FnWorkflow")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
