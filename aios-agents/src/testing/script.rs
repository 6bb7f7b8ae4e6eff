//! The script of a test: the workflow, and what its agents, its children and the outside world do.

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use aios_core::{
    agent::{InvalidName, TaskError},
    catalog::codes,
    event::Payload,
    failure::Failure,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::workflow::{
    FnWorkflow, InvalidSignalName, Workflow, WorkflowContext, WorkflowError, machine::Outcome,
};

/// Answers a task or a child from its JSON input.
type Script = Box<dyn Fn(&Payload) -> Result<Payload, TaskError> + Send + Sync>;

/// An event from outside of the run.
#[derive(Clone, Debug)]
pub(super) enum ExternalEvent {
    /// A signal, with its name and payload.
    Signal(Box<str>, Payload),
    /// A request to cancel, with its reason.
    Cancel(String),
    /// A pause.
    Pause,
    /// The end of a pause.
    Resume,
}

/// A workflow under test, with scripted agents, children and external events.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::{prelude::*, testing::WorkflowTest};
///
/// async fn order(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
///     let price: u32 = context.task("prices", &item).await?;
///     let by: String = context.signal("approved").await?;
///     Ok(format!("{item} for {price}, approved by {by}"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let test = WorkflowTest::new("order", order)?
///     .agent("prices", |item: String| match &*item {
///         "tea" => Ok(4),
///         _ => Err(TaskError::terminal(Failure::new("UNKNOWN", item))),
///     })
///     // An hour passes in no time.
///     .signal(Duration::from_secs(3600), "approved", "Ada");
/// let ended = test.run("tea").await;
/// assert_eq!(ended.result::<String>().unwrap(), "tea for 4, approved by Ada");
/// # Ok(())
/// # }
/// ```
pub struct WorkflowTest {
    /// The code under test.
    pub(super) workflow: Arc<dyn Workflow>,
    /// By agent type.
    pub(super) agents: HashMap<String, Script>,
    /// By workflow.
    pub(super) children: HashMap<String, Script>,
    /// With the time after the start.
    pub(super) external: Vec<(Duration, ExternalEvent)>,
    /// Why the script is invalid, if it is.
    pub(super) invalid: Option<Failure>,
}

impl WorkflowTest {
    /// Tests an async function.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is not `[a-z][a-z0-9_]*` with at most 100 bytes.
    pub fn new<F, I, O, Fut>(name: &str, function: F) -> Result<Self, InvalidName>
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        Ok(Self::of(Arc::new(FnWorkflow::new(name, function)?)))
    }

    /// Tests any workflow.
    ///
    /// Tasks of types without a script fail with `AGENT_NOT_FOUND`, children without one with
    /// `WORKFLOW_NOT_FOUND`; both are terminal.
    #[must_use]
    pub fn of(workflow: Arc<dyn Workflow>) -> Self {
        Self {
            workflow,
            agents: HashMap::new(),
            children: HashMap::new(),
            external: Vec::new(),
            invalid: None,
        }
    }

    /// Scripts the agents of a type: this function processes every task.
    #[must_use]
    pub fn agent<P, T>(
        mut self,
        agent_type: impl Into<String>,
        script: impl Fn(P) -> Result<T, TaskError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        T: Serialize,
    {
        self.agents.insert(agent_type.into(), scripted(script));
        self
    }

    /// Scripts the runs of a child workflow.
    #[must_use]
    pub fn child<P, T>(
        mut self,
        workflow: impl Into<String>,
        script: impl Fn(P) -> Result<T, TaskError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        T: Serialize,
    {
        self.children.insert(workflow.into(), scripted(script));
        self
    }

    /// Sends a signal at a time after the start. A payload that cannot be serialised to JSON is sent as
    /// null. With a name that no signal can have, the run ends with `INVALID_SIGNAL_NAME` before it
    /// begins.
    #[must_use]
    pub fn signal<T: Serialize + ?Sized>(
        mut self,
        after: Duration,
        name: &str,
        payload: &T,
    ) -> Self {
        if let Err(invalid) = InvalidSignalName::check(name) {
            let failure = Failure::from_error(InvalidSignalName::CODE, &invalid);
            self.invalid.get_or_insert(failure);
        }
        let payload = Payload::encode(payload).unwrap_or_default();
        self.external.push((after, ExternalEvent::Signal(name.into(), payload)));
        self
    }

    /// Requests cancellation at a time after the start.
    #[must_use]
    pub fn cancel(mut self, after: Duration, reason: impl Into<String>) -> Self {
        self.external.push((after, ExternalEvent::Cancel(reason.into())));
        self
    }

    /// Pauses the run at a time after the start.
    #[must_use]
    pub fn pause(mut self, after: Duration) -> Self {
        self.external.push((after, ExternalEvent::Pause));
        self
    }

    /// Resumes the run at a time after the start.
    #[must_use]
    pub fn resume(mut self, after: Duration) -> Self {
        self.external.push((after, ExternalEvent::Resume));
        self
    }

    /// The answer of the scripted agent.
    pub(super) fn answer(
        &self,
        agent_type: &str,
        parameters: &Payload,
    ) -> Result<Payload, TaskError> {
        match self.agents.get(agent_type) {
            Some(script) => script(parameters),
            None => Err(TaskError::terminal(Failure::new(
                codes::AGENT_NOT_FOUND,
                format!("no agent of type {agent_type} is scripted"),
            ))),
        }
    }

    /// The outcome of the scripted child.
    pub(super) fn child_outcome(&self, workflow: &str, input: &Payload) -> Outcome {
        match self.children.get(workflow) {
            Some(script) => script(input).map_err(|error| error.failure),
            None => Err(Failure::new(
                codes::WORKFLOW_NOT_FOUND,
                format!("no child of workflow {workflow} is scripted"),
            )),
        }
    }
}

/// A script with types from one with JSON.
fn scripted<P: DeserializeOwned, T: Serialize>(
    script: impl Fn(P) -> Result<T, TaskError> + Send + Sync + 'static,
) -> Script {
    Box::new(move |parameters| Ok(Payload::encode(&script(parameters.decode()?)?)?))
}

impl fmt::Debug for WorkflowTest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WorkflowTest")
            .field("workflow", self.workflow.name())
            .field("external", &self.external)
            .finish_non_exhaustive()
    }
}
