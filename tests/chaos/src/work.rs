//! The workflows and the agents.

use std::time::Duration;

use aios_agents::prelude::*;
use futures_util::future::try_join_all;

use crate::{
    effect::{Effect, Kind, Reporter, now},
    plan::{AGENT, CHILD, Plan, SIGNAL, Work},
    plant::{Plant, Plants},
};

/// How long an attempt at a task may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a task of a measured run may take: longer than the slowest handover.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// The pause between two tasks of a measured run.
const CHAIN_PAUSE: Duration = Duration::from_millis(40);

/// Every failure here is caused by a fault, and is temporary.
fn patient() -> RetryPolicy {
    RetryPolicy::new()
        .with_max_attempts(0)
        .with_delays(Duration::from_millis(200), Duration::from_secs(2))
}

/// One round of a run.
pub(crate) async fn round(
    context: WorkflowContext,
    plan: Plan,
    reporter: Reporter,
    plants: Plants,
) -> Result<u64, WorkflowError> {
    if plants.hits(Plant::DropRun, plan.number) {
        let (): () = context.signal("never").await?;
    }
    let tasks = try_join_all(
        plan.tasks()
            .map(|work| context.task::<u64>(AGENT, &work).timeout(TIMEOUT).retry(patient())),
    );
    let mut sum = tasks.await?.into_iter().fold(plan.sum, add);
    sum = add(sum, step(&context, "open", plan.part(0), &reporter, &plants).await?);
    context.sleep(plan.timer()).await?;
    let (): () = context.signal(SIGNAL).await?;
    sum = add(sum, step(&context, "close", plan.part(1), &reporter, &plants).await?);
    if plan.child {
        sum = add(sum, context.child::<u64>(CHILD, &plan.part(2)).await?);
    }
    if plan.rounds > 0 {
        return Err(WorkflowError::continue_as_new(&plan.next(sum)));
    }
    Ok(sum)
}

/// A run of tasks, one after the other, with a pause after each.
pub(crate) async fn chain(context: WorkflowContext, links: u64) -> Result<u64, WorkflowError> {
    for index in 0..links {
        let work = Work { number: 0, index };
        context.task::<u64>(AGENT, &work).timeout(CHAIN_TIMEOUT).await?;
        context.sleep(CHAIN_PAUSE).await?;
    }
    Ok(links)
}

/// A run of one step.
pub(crate) async fn child(
    context: WorkflowContext,
    work: Work,
    reporter: Reporter,
) -> Result<u64, WorkflowError> {
    step(&context, "child", work, &reporter, &Plants::default()).await
}

fn add(sum: u64, result: u64) -> u64 {
    sum.wrapping_add(result) >> 1
}

#[allow(clippy::disallowed_methods, reason = "what a step does takes time")]
async fn step(
    context: &WorkflowContext,
    name: &str,
    work: Work,
    reporter: &Reporter,
    plants: &Plants,
) -> Result<u64, WorkflowError> {
    let (fence, run_id) = (context.fence(), context.run_id().to_owned());
    let step = context.step_with(name, move |step| {
        let effect = Effect {
            kind: Kind::Step,
            operation: format!("{run_id}/{name}"),
            key: step.idempotency_key().to_owned(),
            attempt: step.attempt(),
            fence,
            process: reporter.process.clone(),
            at: now(),
        };
        async move {
            reporter.report(&effect).await?;
            plants.repeat(&effect, reporter);
            tokio::time::sleep(work.time()).await;
            Ok::<_, TaskError>(work.result())
        }
    });
    step.retry(patient()).await
}

/// Runs tasks.
#[derive(Debug)]
pub(crate) struct Worker(pub(crate) Reporter, pub(crate) Plants);

impl Agent for Worker {
    type Parameters = Work;
    type Output = u64;

    #[allow(clippy::disallowed_methods, reason = "a task takes time")]
    async fn process_task(&self, context: &TaskContext, work: Work) -> Result<u64, TaskError> {
        let effect = Effect {
            kind: Kind::Task,
            operation: context.task_id().as_str().to_owned(),
            key: context.idempotency_key().to_owned(),
            attempt: context.attempt(),
            fence: context.fence(),
            process: self.0.process.clone(),
            at: now(),
        };
        self.0.report(&effect).await?;
        self.1.repeat_otherwise(&effect, work.number, &self.0).await;
        tokio::time::sleep(work.time()).await;
        let is_wrong = self.1.hits(Plant::WrongResult, work.number + 4);
        Ok(work.result() + u64::from(is_wrong))
    }
}
