//! A workflow as an agent type: each task is a run.
//!
//! The id of the run derives from that of the task. A task that is delivered again, or assigned again
//! after its process died, finds the run that it has started, and waits for it.
//!
//! | what happens to the attempt | effect on the run |
//! |---|---|
//! | it is delivered or assigned again | none; the new attempt waits for the same run |
//! | its host stops or dies | none; another host waits for it |
//! | it is cancelled, or takes longer than its timeout | it is cancelled |
//!
//! An attempt only waits, so it never counts as begun: a host that stops releases it at once. This also
//! distinguishes a cancellation from the end of the host: a released task can no longer begin, a cancelled
//! one can.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use aios_core::{
    Chain,
    agent::{DynAgent, TaskContext, TaskError, TaskQueued},
    catalog::codes,
    event::{EventId, Metadata, Payload, Timestamp},
    failure::Failure,
    retry::Backoff,
};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use super::{Client, RunError, RunHandle, RuntimeError, StartRun};
use crate::{
    agent::AgentDefinition,
    task,
    workflow::{Workflow, engine::Engine},
};

/// How often the end of a blocked run is asked for.
const BLOCKED: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// By how much the end of an attempt, which is computed from a timestamp, may be too late.
const ROUNDING: Duration = Duration::from_millis(1);

/// The engine of the runtime, which starts after its agents.
pub(super) type LateEngine = Arc<OnceLock<Weak<Engine>>>;

/// An agent whose tasks are runs of a workflow.
struct WorkflowAgent {
    /// Without the engine.
    client: Client,
    /// Weak, because the agent lives as long as its host. An attempt that waits holds the engine through the
    /// handle of its run.
    engine: LateEngine,
    workflow: String,
    /// JSON Schemas of parameters and output; `true` if they are not known.
    parameters: Value,
    output: Value,
}

/// The agent type of a workflow. It runs as many tasks at a time as a type can: they only wait.
pub(super) fn definition(
    workflow: &dyn Workflow,
    client: Client,
    engine: LateEngine,
) -> AgentDefinition {
    let schema = |schema: Option<&Value>| schema.cloned().unwrap_or(Value::Bool(true));
    let name = workflow.name().as_str();
    let agent: Arc<dyn DynAgent> = Arc::new(WorkflowAgent {
        client,
        engine,
        workflow: name.to_owned(),
        parameters: schema(workflow.input_schema()),
        output: schema(workflow.output_schema()),
    });
    AgentDefinition::instance(name, agent).with_concurrency(u16::MAX)
}

/// The progress of a task: the run that works on it.
#[derive(Serialize)]
struct Progress<'r> {
    run_id: &'r str,
}

impl WorkflowAgent {
    /// Starts the run of a task, or finds it.
    async fn start(
        &self,
        context: &TaskContext,
        parameters: &Payload,
    ) -> Result<RunHandle, RuntimeError> {
        let engine = self.engine.get().and_then(Weak::upgrade);
        let client = Client { engine, ..self.client.clone() };
        let run_id = EventId::derive(&format!("tasks/{}/run", context.idempotency_key()));
        let theirs = context.metadata();
        let metadata = Metadata {
            correlation_id: theirs.correlation_id.clone(),
            user_id: theirs.user_id.clone(),
            traceparent: theirs.traceparent.clone(),
            tracestate: theirs.tracestate.clone(),
            ..Metadata::default()
        };
        let start = StartRun::new(Ok(client), &self.workflow, parameters);
        start.id(run_id.to_string()).metadata(metadata).await
    }

    /// Waits for the end of a run. A blocked run is waited for: it may be resumed.
    async fn ended(&self, run: &RunHandle) -> Result<Payload, TaskError> {
        let mut pause = BLOCKED.initial_delay;
        loop {
            let error = match run.result::<Payload>().await {
                Ok(result) => return Ok(result),
                Err(RunError::Blocked { .. }) => {
                    self.client.journals.clock.sleep(pause).await;
                    pause = BLOCKED.next(pause);
                    continue;
                }
                Err(error) => error,
            };
            return Err(match error {
                // Another attempt would find the same end.
                RunError::Failed { failure, .. } | RunError::Cancelled { failure, .. } => {
                    TaskError::terminal(failure)
                }
                RunError::Runtime(error) => to_task_error(&error),
                error => TaskError::terminal(Failure::from_error(error.code(), &error)),
            });
        }
    }
}

#[async_trait]
impl DynAgent for WorkflowAgent {
    fn parameters_schema(&self) -> &Value {
        &self.parameters
    }

    fn output_schema(&self) -> &Value {
        &self.output
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let queued = context.queued();
        let run = self.start(context, &parameters).await.map_err(|error| to_task_error(&error))?;
        context.heartbeat(&Progress { run_id: run.id() })?;
        let clock = &self.client.journals.clock;
        let rest = |deadline: Timestamp| deadline.duration_since(clock.now());
        let ends_at = context.deadline().map(|deadline| clock.elapsed() + rest(deadline));
        let mut attempt = Attempt { context, queued, ends_at, run: Some(&run) };
        tokio::select! {
            biased;
            ended = self.ended(&run) => {
                attempt.run = None;
                ended
            }
            () = context.cancelled() => {
                let message = "the task was cancelled";
                Err(TaskError::terminal(Failure::new(codes::TASK_CANCELLED, message)))
            }
        }
    }
}

/// An attempt that waits for its run. Dropping it cancels the run, if the attempt was cancelled or has
/// timed out.
struct Attempt<'a> {
    context: &'a TaskContext,
    /// May begin unless the host has released the task.
    queued: TaskQueued,
    /// When it times out, by elapsed time: the wall clock may be set back.
    ends_at: Option<Duration>,
    /// `None` once it has ended.
    run: Option<&'a RunHandle>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(run) = self.run.filter(|_| self.queued.begin()).cloned() else { return };
        let clock = &run.client.journals.clock;
        let reason = match self.ends_at {
            _ if self.context.is_cancelled() => "the task of the run was cancelled",
            Some(ends_at) if clock.elapsed() + ROUNDING >= ends_at => {
                "the task of the run timed out"
            }
            _ => return,
        };
        task::spawn(async move {
            if let Err(error) = run.cancel(reason).await
                && !matches!(error, RuntimeError::RunEnded { .. })
            {
                tracing::warn!(
                    error = %Chain(&error), run_id = run.id(),
                    "the run of a cancelled task could not be cancelled"
                );
            }
        });
    }
}

/// A failure to start or to reach the run. Another process may reach it.
fn to_task_error(error: &RuntimeError) -> TaskError {
    let is_of_process = matches!(error, RuntimeError::EngineStopped { .. } | RuntimeError::Closed);
    let failure = Failure::from_error(error.code(), error);
    TaskError::terminal(failure).with_retryable(is_of_process || error.is_retryable())
}
