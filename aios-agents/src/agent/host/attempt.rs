use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use aios_core::{
    agent::{TaskAssigned, TaskContext, TaskControl, TaskError, TaskId, TaskInfo},
    broker::Delivery,
    event::{Event, Payload},
    failure::Failure,
    output::Outputs,
};
use futures_util::FutureExt;
use serde::Deserialize;
use tracing::Instrument;

use super::{
    answer::log_unsettled,
    attempt_cache::{AttemptGuard, Key, Lookup},
    hosted::{HostedAgent, HostedType},
    slot::Occupied,
    supervisor::{Outcome, TaskSupervisor},
    task_state::StopReason,
};
use crate::{
    agent::{codes, letters::final_reason},
    panic::panic_failure,
    workflow::span,
};

/// The part of an undecodable task that identifies its attempt.
#[derive(Deserialize)]
struct Unreadable {
    task_id: TaskId,
    #[serde(default = "first_attempt")]
    attempt: u32,
}

fn first_attempt() -> u32 {
    1
}

impl HostedType {
    /// Runs one task, or answers a repeated dispatch, and settles the delivery.
    pub(super) async fn take(
        self: Arc<Self>,
        agent: Arc<HostedAgent>,
        delivery: Delivery,
        occupied: Occupied,
    ) {
        let assigned: TaskAssigned = match delivery.event.data() {
            Ok(assigned) => assigned,
            Err(error) => {
                let failure = Failure::from_error(error.code(), &error);
                return Box::pin(self.refuse(delivery, failure)).await;
            }
        };
        match self.shared.attempt_cache.begin(Key::new(&assigned, &delivery.event.metadata)) {
            Lookup::New(guard) => {
                if let Some(slot) = occupied.slot() {
                    guard.state.occupy(slot);
                }
                self.attempt(&agent, assigned, delivery, guard).await;
            }
            Lookup::Running(running) => running.redeliver(delivery),
            Lookup::Finished(answer, guard) => {
                let event = delivery.event.clone();
                let answer = Ok(*answer);
                let answered =
                    self.deliver_answer(answer, &assigned, &event, Some(delivery), &guard);
                Box::pin(answered).await;
            }
        }
    }

    /// Dead-letters a task that can't be decoded, and answers it if at least its id can be read.
    async fn refuse(&self, delivery: Delivery, failure: Failure) {
        let reason = final_reason(&failure);
        if let Ok(task) = delivery.event.data::<Unreadable>() {
            self.answer_unreadable(task.task_id, task.attempt, failure, &delivery.event).await;
        }
        log_unsettled(delivery.dead_letter(reason).await);
    }

    async fn attempt(
        &self,
        agent: &HostedAgent,
        assigned: TaskAssigned,
        delivery: Delivery,
        guard: AttemptGuard<'_>,
    ) {
        let Some(delivery) = self.cleared(&assigned, delivery, &guard.state).await else {
            return;
        };
        let event = delivery.event.clone();
        self.shared.waits.report(&self.agent_type, &event, self.shared.clock.now());
        let host: Arc<dyn TaskControl> = Arc::clone(&guard.state) as _;
        let outputs = self.shared.outputs.clone().map(|hub| -> Arc<dyn Outputs> { Arc::new(hub) });
        let context = TaskContext::new(self.task_info(agent, &assigned, &event), host)
            .with_store(self.shared.store.clone())
            .with_outputs(outputs);
        let parameters = assigned.parameters.clone();
        let mut supervisor = TaskSupervisor::new(self, &guard.state, &assigned, delivery);
        let outcome = supervisor
            .supervise(run(agent, &context, parameters).instrument(span::of_task(context.info())))
            .await;
        let delivery = supervisor.into_delivery();
        if let Some(hub) = &self.shared.outputs {
            hub.flushed("a task", context.flush_streams()).await;
        }
        let result = match outcome {
            Outcome::Done(Ok(output)) => Ok(output),
            Outcome::Done(Err(error)) => match guard.state.stopped() {
                None => Err(error),
                Some(StopReason::Cancelled) => Err(cancelled()),
                Some(StopReason::Abandoned) => return,
            },
            Outcome::TimedOut(after) => Err(timed_out(after)),
            Outcome::Cancelled => Err(cancelled()),
            Outcome::Abandoned => return,
        };
        let answer = self.answer(&assigned, &event, result, &context);
        self.deliver_answer(answer, &assigned, &event, delivery, &guard).await;
    }

    fn task_info(&self, agent: &HostedAgent, assigned: &TaskAssigned, event: &Event) -> TaskInfo {
        TaskInfo {
            task_id: assigned.task_id.clone(),
            agent_type: Arc::clone(&self.type_name),
            agent_id: Arc::clone(&agent.id),
            attempt: assigned.attempt,
            deadline: assigned.timeout().map(|timeout| self.shared.clock.now() + timeout),
            metadata: event.metadata.clone(),
        }
    }
}

/// Runs the agent's code and turns a panic into a failure.
async fn run(
    agent: &HostedAgent,
    context: &TaskContext,
    parameters: Payload,
) -> Result<Payload, TaskError> {
    let work = async { agent.agent.process_task(context, parameters).await };
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// Turns a panic into a failure of a task.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> TaskError {
    TaskError::retryable(panic_failure(codes::AGENT_PANICKED, panic))
}

fn timed_out(after: std::time::Duration) -> TaskError {
    let message = format!("the task took longer than {after:?}");
    TaskError::retryable(Failure::new(codes::TASK_TIMEOUT, message))
}

fn cancelled() -> TaskError {
    TaskError::terminal(Failure::new(codes::TASK_CANCELLED, "the task was cancelled"))
}
