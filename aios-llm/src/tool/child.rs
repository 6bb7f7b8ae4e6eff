//! Tools whose calls are child runs: agents, and other workflows.
//!
//! A child run is durable by itself: it is started once, whatever crashes, and its result is
//! recorded. So these tools have no attempts, and count as idempotent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Effect, Tool, Work};
use crate::{budget::Limits, schema::schema_of};

/// The effect of the failure of a child run on the run whose model has called it.
///
/// # Examples
///
/// A report without its check is of no use, so the run fails with the check:
///
/// ```
/// use aios_llm::tool::{OnFailure, Tool};
///
/// let check = Tool::agent("check", "Checks a report.", "checker");
/// let check = check.with_on_failure(OnFailure::Fail);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The model gets the failure as the result of its call.
    #[default]
    TellModel,
    /// The run fails with the failure of the child.
    Fail,
}

/// A child run that a call starts.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// Name of the workflow.
    pub(crate) workflow: String,
    /// Whether the workflow is an agent over a language model, which takes part in the budget.
    pub(crate) is_agent: bool,
    /// Of each call of an agent, within what the caller has left.
    pub(crate) limits: Limits,
    /// The effect of a failure of the child.
    pub(crate) on_failure: OnFailure,
}

/// Arguments of a call of a sub-agent.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Assignment {
    /// The task, with everything that has to be known for it.
    pub(crate) task: String,
}

impl Tool {
    /// An agent as a tool: each call is a child run of the [`LlmAgent`](crate::LlmAgent) that is
    /// registered as `agent`, and gets a task as text.
    ///
    /// The child draws on the budget of the calling run: its share is reserved before the
    /// call and settled when the child ends. Unless [`limits`](Self::with_limits) are set, the children of
    /// one response and the calling run get equal shares of what is left. Without limits, the child
    /// has only its own. The number of levels is limited by
    /// [`Limits::depth`](crate::budget::Limits::depth).
    ///
    /// A child is cancelled with its parent. Timeout and retry policy of the tool do not apply.
    ///
    /// # Examples
    ///
    /// A writer that delegates research to another agent:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// use aios_llm::{LlmAgent, RuntimeBuilderExt, testing::SchemaModel, tool::Tool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let research = Tool::agent("research", "Researches a question.", "researcher");
    /// let runtime = Runtime::builder()
    ///     .store(aios_store::connect("memory://").await?)
    ///     .broker(aios_broker::connect("memory://").await?)
    ///     .llm_agent("researcher", LlmAgent::new(SchemaModel::new()))?
    ///     .llm_agent("writer", LlmAgent::new(SchemaModel::new()).tool(research))?
    ///     .start()
    ///     .await?;
    /// let run = runtime.start("writer", "Write about tea.").await?;
    /// assert!(!run.result::<String>().await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn agent(
        name: impl Into<String>,
        description: impl Into<String>,
        agent: impl Into<String>,
    ) -> Self {
        let child = Child::new(agent.into(), true);
        let parameters = schema_of::<Assignment>();
        Self::of(
            name.into(),
            description.into(),
            Effect::Idempotent,
            parameters,
            Work::Child(child),
        )
    }

    /// A workflow as a tool: each call is a child run, which gets the arguments as input.
    ///
    /// A child is started once for each call, whatever crashes, and is cancelled with its parent.
    /// Timeout and retry policy of the tool do not apply.
    #[must_use]
    pub fn workflow<P: JsonSchema>(
        name: impl Into<String>,
        description: impl Into<String>,
        workflow: impl Into<String>,
    ) -> Self {
        Self::workflow_from_schema(name, description, schema_of::<P>(), workflow)
    }

    /// A [`workflow`](Self::workflow) whose input is described by a JSON Schema of an object, for
    /// workflows that are not written in Rust.
    #[must_use]
    pub fn workflow_from_schema(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: Value,
        workflow: impl Into<String>,
    ) -> Self {
        let child = Child::new(workflow.into(), false);
        Self::of(
            name.into(),
            description.into(),
            Effect::Idempotent,
            parameters,
            Work::Child(child),
        )
    }

    /// Limits each call of a sub-agent, within what the budget of the calling run has left. Without
    /// effect on tools that are not [agents](Self::agent).
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        if let Work::Child(child) = &mut self.work {
            child.limits = limits;
        }
        self
    }

    /// Sets what the failure of a child run does. Without effect on tools that are functions.
    #[must_use]
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        if let Work::Child(child) = &mut self.work {
            child.on_failure = on_failure;
        }
        self
    }

    /// The child run that a call starts, if it does.
    pub(crate) fn child(&self) -> Option<&Child> {
        match &self.work {
            Work::Child(child) => Some(child),
            Work::Function(_) => None,
        }
    }
}

impl Child {
    /// A child without limits of its own.
    fn new(workflow: String, is_agent: bool) -> Self {
        Self { workflow, is_agent, limits: Limits::default(), on_failure: OnFailure::default() }
    }
}
