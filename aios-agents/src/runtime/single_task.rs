//! A task outside of a workflow: a run of a workflow that every runtime has.
//!
//! So a single task is as durable as any other, and has retries, timeouts, cancellation and a
//! journal without code of its own. The shape of `SingleTask` is part of journals, and may only be
//! extended.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aios_core::{
    event::{EventError, Metadata, Payload},
    retry::RetryPolicy,
};
use serde::{Deserialize, Serialize};

use super::{Client, RunHandle, RuntimeError, StartRun};
use crate::options::{check_named, check_retry, check_timeout};
use crate::workflow::{FnWorkflow, SINGLE_TASK, Target, Workflow, WorkflowContext, WorkflowError};

/// Input of a `single_task` run.
#[derive(Debug, Serialize, Deserialize)]
struct SingleTask {
    /// A type, or one agent.
    agent: Target,
    parameters: Payload,
    /// Of each attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<Duration>,
    /// Of all attempts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    total_timeout: Option<Duration>,
    /// Of failed attempts.
    retry: RetryPolicy,
}

/// The workflow that runs single tasks.
pub(super) fn workflow() -> Result<Arc<dyn Workflow>, RuntimeError> {
    Ok(Arc::new(FnWorkflow::new(SINGLE_TASK, single_task)?.with_lookahead()))
}

/// The code of that workflow: one task, whose answer is the result.
async fn single_task(context: WorkflowContext, task: SingleTask) -> Result<Payload, WorkflowError> {
    let mut call = context.task(task.agent, &task.parameters).retry(task.retry);
    if let Some(timeout) = task.timeout {
        call = call.timeout(timeout);
    }
    if let Some(timeout) = task.total_timeout {
        call = call.total_timeout(timeout);
    }
    call.await
}

/// A task for an agent outside of any workflow: a run with a single task, as durable as any other
/// run.
///
/// # Cancel safety
///
/// If it is cancelled, the task may or may not have been assigned. Assign it again with the same id.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
///
/// # async fn example(runtime: &Runtime) -> Result<(), Box<dyn std::error::Error>> {
/// let run = runtime
///     .task("mailer", "Welcome, Ada!")
///     .timeout(Duration::from_secs(30)) // for each attempt
///     .retry(RetryPolicy::fixed(3, Duration::from_secs(5)))
///     .id("welcome-ada") // sent once, however often this is called
///     .await?;
/// run.result::<()>().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a task is sent only when this is awaited"]
pub struct StartTask {
    /// An error if the runtime has no store; returned when this is awaited.
    client: Result<Client, RuntimeError>,
    agent: Target,
    /// An error if they cannot be serialised to JSON; returned when this is awaited.
    parameters: Result<Payload, EventError>,
    timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    retry: RetryPolicy,
    /// A new UUID if `None`.
    run_id: Option<String>,
    metadata: Metadata,
}

impl StartTask {
    /// A task with the default options.
    pub(super) fn new<T: Serialize + ?Sized>(
        client: Result<Client, RuntimeError>,
        agent: Target,
        parameters: &T,
    ) -> Self {
        let parameters = Payload::encode(parameters);
        Self {
            client,
            agent,
            parameters,
            timeout: None,
            total_timeout: None,
            retry: RetryPolicy::default(),
            run_id: None,
            metadata: Metadata::default(),
        }
    }

    /// Sets the timeout of each attempt. Without it, an attempt may take indefinitely.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the timeout of all attempts together, including the time in queues and between
    /// attempts. After it the run fails with `TASK_TIMEOUT`. Without it, there is no such limit.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// Sets the retry policy of failed attempts. The default is [`RetryPolicy::new`], five attempts.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the id of the run; see [`StartRun::id`].
    pub fn id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Sets the correlation id, user and trace context of all events that the task causes; see
    /// [`StartRun::metadata`].
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Checks the options and starts the run.
    async fn start(self) -> Result<RunHandle, RuntimeError> {
        let parameters = self.parameters?;
        let agent = self.agent.checked()?;
        let timeout = self.timeout;
        let total_timeout = self.total_timeout;
        let retry = self.retry;
        let checked = check_timeout(timeout)
            .and_then(|()| check_named("total_timeout", total_timeout))
            .and_then(|()| check_retry("retry", &retry));
        checked.map_err(|reason| RuntimeError::InvalidConfiguration { reason })?;
        let task = SingleTask { agent, parameters, timeout, total_timeout, retry };
        let start = StartRun::new(self.client, SINGLE_TASK, &task).metadata(self.metadata);
        match self.run_id {
            Some(run_id) => start.id(run_id).await,
            None => start.await,
        }
    }
}

impl IntoFuture for StartTask {
    type Output = Result<RunHandle, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
