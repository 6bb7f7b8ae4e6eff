//! Typed declarations of agent types, and how a task names its receiver.
//!
//! The parameters of a call are borrowed (`P: Borrow<Q>`), so that a declaration with `String`
//! takes a `&str`.

use std::{borrow::Borrow, fmt, marker::PhantomData};

use aios_core::agent::Agent;
use serde::{Serialize, de::DeserializeOwned};

use super::StartTyped;
use crate::{
    agent::AgentDefinition,
    runtime::StartTask,
    workflow::{Target, TaskCall, WorkflowContext},
};

/// A typed declaration of an agent type: its name, parameters `P` and output `O`.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// const UPPER: AgentRef<String, String> = AgentRef::new("upper");
///
/// struct Upper;
///
/// impl Agent for Upper {
///     type Parameters = String;
///     type Output = String;
///
///     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
///         Ok(text.to_uppercase())
///     }
/// }
///
/// async fn shout(context: WorkflowContext, text: String) -> Result<String, WorkflowError> {
///     UPPER.task(&context, text.as_str()).await
/// }
///
/// let builder = Runtime::builder().agents(UPPER.instance(Upper)).workflow("shout", shout);
/// # drop(builder);
/// ```
pub struct AgentRef<P, O> {
    /// As text; every check happens where the name is used.
    agent_type: &'static str,
    /// A function type, so that the declaration is `Send`, `Sync` and `Copy` for all `P` and `O`.
    types: PhantomData<fn(P) -> O>,
}

impl<P, O> AgentRef<P, O> {
    /// Declares the agent type with this name. The name is checked when it is used.
    #[must_use]
    pub const fn new(agent_type: &'static str) -> Self {
        Self { agent_type, types: PhantomData }
    }

    /// Name of the type.
    #[must_use]
    pub const fn agent_type(&self) -> &'static str {
        self.agent_type
    }

    /// Sends a task to any agent of the type; see [`WorkflowContext::task`].
    pub fn task<Q>(&self, context: &WorkflowContext, parameters: &Q) -> TaskCall<O>
    where
        P: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        context.task(self.agent_type, parameters)
    }

    /// Sends a task to one agent of the type; see [`WorkflowContext::task`].
    pub fn task_of<Q>(
        &self,
        agent_id: impl Into<String>,
        context: &WorkflowContext,
        parameters: &Q,
    ) -> TaskCall<O>
    where
        P: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        context.task(Target::agent(self.agent_type, agent_id), parameters)
    }
}

impl<P: DeserializeOwned, O> AgentRef<P, O> {
    /// Defines the type with one existing agent; see [`AgentDefinition::instance`].
    #[must_use]
    pub fn instance<A>(&self, agent: A) -> AgentDefinition
    where
        A: Agent<Parameters = P, Output = O>,
    {
        AgentDefinition::instance::<crate::agent::marker::Typed>(self.agent_type, agent)
    }
}

/// Receivers of a task of [`Runtime::task`](crate::Runtime::task): anything that converts into a
/// [`Target`], or an [`AgentRef`] with parameters `P`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not take tasks with parameters of type `{P}`",
    note = "name the type of the agents as text, or one agent as `(\"type\", \"id\")`; an `AgentRef` \
            takes its own parameters only"
)]
pub trait StartAgentTask<P: ?Sized> {
    /// The future that sends the task when awaited.
    type Start;

    /// Calls `start` with the target and returns the future.
    fn into_start(self, start: impl FnOnce(Target) -> StartTask) -> Self::Start;
}

#[diagnostic::do_not_recommend]
impl<A: Into<Target>, P: ?Sized> StartAgentTask<P> for A {
    type Start = StartTask;

    fn into_start(self, start: impl FnOnce(Target) -> StartTask) -> StartTask {
        start(self.into())
    }
}

#[diagnostic::do_not_recommend]
impl<P: Borrow<Q>, O, Q: ?Sized> StartAgentTask<Q> for AgentRef<P, O> {
    type Start = StartTyped<StartTask, O>;

    fn into_start(self, start: impl FnOnce(Target) -> StartTask) -> Self::Start {
        StartTyped::new(start(self.agent_type.into()))
    }
}

impl<P, O> Clone for AgentRef<P, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P, O> Copy for AgentRef<P, O> {}

impl<P, O> fmt::Debug for AgentRef<P, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("AgentRef").field(&self.agent_type).finish()
    }
}
