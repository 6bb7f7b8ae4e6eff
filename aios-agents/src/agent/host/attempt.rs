use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use aios_core::{
    agent::{TaskAssigned, TaskContext, TaskControl, TaskError, TaskId, TaskInfo},
    broker::Delivery,
    event::{Event, Payload},
    failure::Failure,
};
use futures_util::FutureExt;
use serde::Deserialize;

use super::{
    answer::log_unsettled,
    hosted::{HostedAgent, HostedType},
    ledger::{Dispatch, Entry, Key},
    running::Stop,
    slot::Occupied,
    vigil::{Outcome, Vigil},
};
use crate::{
    agent::{codes, letters::final_reason},
    panic::panic_failure,
};

/// What is read of a task of which not all can be read.
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
    /// Does one task, or answers a repeated dispatch, and settles the delivery.
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
        match self.shared.ledger.begin(Key::new(&assigned, &delivery.event.metadata)) {
            Dispatch::New(entry) => {
                if let Some(slot) = occupied.slot() {
                    entry.running.occupy(slot);
                }
                self.attempt(&agent, assigned, delivery, entry).await;
            }
            Dispatch::Running(running) => running.hand_over(delivery),
            Dispatch::Finished(answer, entry) => {
                let (event, answer) = (delivery.event.clone(), Ok(*answer));
                let answered =
                    self.deliver_answer(answer, &assigned, &event, Some(delivery), &entry);
                Box::pin(answered).await;
            }
        }
    }

    /// Gives up a task that can't be read, and says so as far as it says whose it is.
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
        entry: Entry<'_>,
    ) {
        let Some(delivery) = self.cleared(&assigned, delivery, &entry.running).await else {
            return;
        };
        let event = delivery.event.clone();
        let host: Arc<dyn TaskControl> = Arc::clone(&entry.running) as _;
        let context = TaskContext::new(self.describe(agent, &assigned, &event), host);
        let parameters = assigned.parameters.clone();
        let mut vigil = Vigil::new(self, &entry.running, &assigned, delivery);
        let outcome = vigil.attend(run(agent, &context, parameters)).await;
        let delivery = vigil.into_delivery();
        let result = match outcome {
            Outcome::Done(Ok(output)) => Ok(output),
            Outcome::Done(Err(error)) => match entry.running.stopped() {
                None => Err(error),
                Some(Stop::Cancelled) => Err(cancelled()),
                Some(Stop::Abandoned) => return,
            },
            Outcome::TimedOut(after) => Err(timed_out(after)),
            Outcome::Cancelled => Err(cancelled()),
            Outcome::Abandoned => return,
        };
        let answer = self.answer(&assigned, &event, result, &context);
        self.deliver_answer(answer, &assigned, &event, delivery, &entry).await;
    }

    fn describe(&self, agent: &HostedAgent, assigned: &TaskAssigned, event: &Event) -> TaskInfo {
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

/// Runs the agent's code; a panic in it is a failure.
async fn run(
    agent: &HostedAgent,
    context: &TaskContext,
    parameters: Payload,
) -> Result<Payload, TaskError> {
    let work = async { agent.agent.process_task(context, parameters).await };
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// A panic as a failure of a task.
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
