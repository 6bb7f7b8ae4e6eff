//! Performs programs: the workflow and the agent of every simulation.

use std::{sync::Arc, time::Duration};

use aios_agents::workflow::{StepContext, WorkflowContext, WorkflowError};
use aios_core::{
    BoxFuture,
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::{Event, Payload},
    failure::Failure,
    retry::RetryPolicy,
};
use async_trait::async_trait;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    program::{GIVEN_UP, Part, Program, planned},
    world::World,
};

/// Name of the workflow.
pub const WORKFLOW: &str = "sim";
/// Type of the agents.
pub const AGENT: &str = "worker";
/// How long a task may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The parameters of a task.
#[derive(Serialize, Deserialize)]
struct Work {
    value: i64,
    failures: u32,
    millis: u64,
}

/// An executor of programs: a node, or a check that replays a journal without reporting to the
/// world.
#[derive(Clone)]
pub struct Performer {
    pub world: Option<Arc<World>>,
    pub clock: Arc<dyn Clock>,
}

impl Performer {
    /// Runs a program.
    pub async fn run(
        self,
        context: WorkflowContext,
        program: Program,
    ) -> Result<Vec<i64>, WorkflowError> {
        let mut made = program.before;
        for (place, part) in program.parts.iter().enumerate() {
            if matches!(part, Part::Continue) {
                let parts = program.parts[place + 1..].to_vec();
                return Err(WorkflowError::continue_as_new(&Program { parts, before: made }));
            }
            made.extend(self.part(&context, part).await?);
        }
        Ok(made)
    }

    fn part<'a>(
        &'a self,
        context: &'a WorkflowContext,
        part: &'a Part,
    ) -> BoxFuture<'a, Result<Vec<i64>, WorkflowError>> {
        let forever = RetryPolicy::fixed(0, Duration::from_secs(1));
        Box::pin(async move {
            match part {
                Part::Step { value, failures, millis } => {
                    let code = |step| self.step(step, *value, *failures, *millis);
                    let call = context.step_with("step", code).retry(forever);
                    let operation = call.number();
                    let value = call.await?;
                    self.seen(context, operation);
                    Ok(vec![value])
                }
                Part::DoomedStep { attempts } => {
                    let retry = RetryPolicy::fixed(*attempts, Duration::from_secs(1));
                    let code = |step| self.step(step, 0, u32::MAX, 0);
                    let call = context.step_with("doomed", code).retry(retry);
                    Ok(vec![given_up(call.await)?])
                }
                Part::Task { value, failures, millis } => {
                    let work = Work { value: *value, failures: *failures, millis: *millis };
                    let operation = context.task(AGENT, &work).timeout(TIMEOUT).retry(forever);
                    Ok(vec![operation.await?])
                }
                Part::DoomedTask { attempts } => {
                    let retry = RetryPolicy::fixed(*attempts, Duration::from_secs(1));
                    let work = Work { value: 0, failures: u32::MAX, millis: 0 };
                    let task = context.task(AGENT, &work).timeout(TIMEOUT).retry(retry);
                    Ok(vec![given_up(task.await)?])
                }
                Part::Sleep { millis } => {
                    context.sleep(Duration::from_millis(*millis)).await?;
                    Ok(Vec::new())
                }
                Part::Signal { name } => Ok(vec![context.signal(name.as_str()).await?]),
                Part::Child(program) => {
                    let child = context.child::<Vec<i64>>(WORKFLOW, program);
                    let summed = child.await.map(|values| values.iter().sum());
                    Ok(vec![given_up(summed)?])
                }
                Part::All(parts) => {
                    let all = join_all(parts.iter().map(|part| self.part(context, part))).await;
                    let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
                    Ok(all.concat())
                }
                Part::Compensate { number } => {
                    let number = *number;
                    context.compensate("undo", move |context| async move {
                        context.run("undo", || async { number }).await.map(drop)
                    });
                    Ok(Vec::new())
                }
                Part::Emit { number } => {
                    let data = json!({"run": context.run_id(), "number": number});
                    context.emit(Event::new("sim.thing.happened".parse()?, "sim", &data)?)?;
                    Ok(Vec::new())
                }
                Part::Continue => Ok(Vec::new()),
                Part::Fail => Err(WorkflowError::failed(planned())),
            }
        })
    }

    /// The code of a step.
    fn step(
        &self,
        step: StepContext,
        value: i64,
        failures: u32,
        millis: u64,
    ) -> impl Future<Output = Result<i64, TaskError>> + Send + use<> {
        let this = self.clone();
        async move {
            if let Some(world) = &this.world {
                world.step_began(step.idempotency_key(), step.attempt());
            }
            if millis > 0 {
                this.clock.sleep(Duration::from_millis(millis)).await;
            }
            if step.attempt() <= failures {
                return Err(TaskError::retryable(Failure::new("NOT_YET", "not this time")));
            }
            Ok(value)
        }
    }

    fn seen(&self, context: &WorkflowContext, operation: u64) {
        if let Some(world) = &self.world {
            world.outcome_seen(context.run_id(), operation);
        }
    }
}

/// Failures are part of the result, except those that end the run.
fn given_up(outcome: Result<i64, WorkflowError>) -> Result<i64, WorkflowError> {
    match outcome {
        Err(error) if error.failure().is_some() && error.code() != WorkflowError::CANCELLED => {
            Ok(GIVEN_UP)
        }
        outcome => outcome,
    }
}

/// The agent.
pub struct Worker {
    pub world: Arc<World>,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl DynAgent for Worker {
    fn parameters_schema(&self) -> &Value {
        &Value::Null
    }

    fn output_schema(&self) -> &Value {
        &Value::Null
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let work: Work = parameters.decode()?;
        self.world.task_began(context.task_id().as_str(), context.attempt());
        if work.millis > 0 {
            self.clock.sleep(Duration::from_millis(work.millis)).await;
        }
        if context.attempt() <= work.failures {
            return Err(TaskError::retryable(Failure::new("NOT_YET", "not this time")));
        }
        Ok(Payload::encode(&work.value)?)
    }
}
