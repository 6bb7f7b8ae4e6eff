//! Typed declarations of workflows.

use std::{borrow::Borrow, fmt, marker::PhantomData};

use serde::Serialize;

use super::{StartTyped, TypedRun};
use crate::{
    runtime::{Runtime, RuntimeError, StartRun, StartWorkflow},
    workflow::{ChildCall, WorkflowContext, WorkflowError},
};

/// A typed declaration of a workflow: its name, input `I` and output `O`.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// const WELCOME: WorkflowRef<String, String> = WorkflowRef::new("welcome");
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Welcome, {name}!"))
/// }
///
/// // The compiler compares the types of the function with those of the declaration.
/// let builder = Runtime::builder().workflow(WELCOME, welcome);
/// assert_eq!(WELCOME.name(), "welcome");
/// # drop(builder);
/// ```
pub struct WorkflowRef<I, O> {
    /// As text; every check happens where the name is used.
    name: &'static str,
    /// A function type, so that the declaration is `Send`, `Sync` and `Copy` for all `I` and `O`.
    types: PhantomData<fn(I) -> O>,
}

impl<I, O> WorkflowRef<I, O> {
    /// Declares the workflow with this name. The name is checked when it is used.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// Name of the workflow.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Starts a run of the workflow as a child and waits for its end; see
    /// [`WorkflowContext::child`].
    pub fn child<Q>(&self, context: &WorkflowContext, input: &Q) -> ChildCall<O>
    where
        I: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        context.child(self.name, input)
    }

    /// Ends the run and continues it as a new one; see [`WorkflowError::continue_as_new`].
    ///
    /// The new run has the same workflow, so its input has the declared type.
    #[must_use]
    pub fn continue_as_new<Q>(&self, input: &Q) -> WorkflowError
    where
        I: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        WorkflowError::continue_as_new(input)
    }

    /// Returns a handle for an existing run of the workflow, started here or elsewhere.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownRun`] if this workflow has no such run; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn handle(
        &self,
        runtime: &Runtime,
        run_id: &str,
    ) -> Result<TypedRun<O>, RuntimeError> {
        let run = runtime.handle(run_id).await?;
        // Otherwise the result of another workflow would be decoded as this one's.
        if run.status().await?.workflow != self.name {
            return Err(RuntimeError::UnknownRun { run_id: run_id.to_owned() });
        }
        Ok(TypedRun::new(run))
    }
}

/// Names of a workflow with input `I` and output `O`: text, which fits all types, or a
/// [`WorkflowRef`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a workflow from `{I}` to `{O}`",
    note = "the function must have the input and output that the `WorkflowRef` declares: \
            `async fn(WorkflowContext, {I}) -> Result<{O}, WorkflowError>`"
)]
pub trait WorkflowName<I, O> {
    /// Returns the name as text.
    fn into_name(self) -> String;
}

#[diagnostic::do_not_recommend]
impl<N: AsRef<str>, I, O> WorkflowName<I, O> for N {
    fn into_name(self) -> String {
        self.as_ref().to_owned()
    }
}

impl<I, O> WorkflowName<I, O> for WorkflowRef<I, O> {
    fn into_name(self) -> String {
        self.name.to_owned()
    }
}

#[diagnostic::do_not_recommend]
impl<I: Borrow<Q>, O, Q: ?Sized> StartWorkflow<Q> for WorkflowRef<I, O> {
    type Start = StartTyped<StartRun, O>;

    fn into_start(self, start: impl FnOnce(&str) -> StartRun) -> Self::Start {
        StartTyped::new(start(self.name))
    }
}

impl<I, O> Clone for WorkflowRef<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for WorkflowRef<I, O> {}

impl<I, O> fmt::Debug for WorkflowRef<I, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("WorkflowRef").field(&self.name).finish()
    }
}
