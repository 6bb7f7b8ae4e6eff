//! One attempt at a task, from its delivery to its settlement.
//!
//! The steps, each in a spawned future that holds a slot of the type:
//!
//! 1. Decode the assignment. One that can't be decoded becomes a dead letter.
//! 2. Look the attempt up in the cache. One that runs here gets the new delivery; one that has
//!    ended here is answered again.
//! 3. Ask the engine, if another process may have begun the attempt (`questions`).
//! 4. Run the agent's code under supervision (`supervisor`), which enforces the task's timeout. If the host
//!    does not, the engine does, `task_grace` later (`workflow/engine/driver/assignment.rs`).
//! 5. Write what the code left in its output streams.
//! 6. Publish the answer and settle the delivery (`answer`).
//!
//! An abandoned attempt ends without an answer. Its delivery is dropped, which releases it to the
//! broker. The same happens when the process dies. An abandoned attempt whose delivery was acknowledged
//! early is published again (`hand_back`).

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use aios_core::{
    agent::{TaskAssigned, TaskContext, TaskControl, TaskError, TaskId, TaskInfo},
    broker::Delivery,
    catalog::codes,
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
    supervisor::{Outcome, TaskSupervisor},
    task_state::StopReason,
};
use crate::{
    agent::{
        host::{
            hosted::{HostedAgent, HostedType},
            slot::Occupied,
        },
        letters::final_reason,
    },
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

/// An assignment without a number is a first attempt.
fn first_attempt() -> u32 {
    1
}

impl HostedType {
    /// Runs one task, or answers a repeated dispatch, and settles the delivery.
    ///
    /// `occupied` is held until the end, so a slot also covers the publishing of the answer.
    pub(crate) async fn take(
        self: Arc<Self>,
        agent: Arc<HostedAgent>,
        delivery: Delivery,
        occupied: Occupied,
    ) {
        let assigned: TaskAssigned = match delivery.event.data() {
            Ok(assigned) => assigned,
            Err(error) => {
                let failure = Failure::from_error(error.code(), &error);
                // Boxed, because it is rare and would enlarge the future of every task.
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
            Lookup::Running(running) => {
                if let Some(older) = running.redeliver(delivery) {
                    log_unsettled(older.ack().await);
                }
            }
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

    /// Runs a new attempt. `guard` keeps it in the cache while it runs.
    async fn attempt(
        &self,
        agent: &HostedAgent,
        assigned: TaskAssigned,
        delivery: Delivery,
        guard: AttemptGuard<'_>,
    ) {
        // Settled: the attempt has ended elsewhere, or no engine answers.
        let Some(delivery) = self.cleared(&assigned, delivery, &guard.state).await else {
            return;
        };
        let event = delivery.event.clone();
        self.shared.waits.report(&self.agent_type, &event, self.shared.clock.now());
        let host: Arc<dyn TaskControl> = Arc::clone(&guard.state) as _;
        let outputs = self.shared.outputs.as_ref();
        let outputs =
            outputs.map(|hub| -> Arc<dyn Outputs> { Arc::new(hub.of_attempt(assigned.attempt)) });
        let context = TaskContext::new(self.task_info(agent, &assigned, &event), host)
            .with_store(self.shared.store.clone())
            .with_outputs(outputs);
        let parameters = assigned.parameters.clone();
        let mut supervisor = TaskSupervisor::new(self, &guard.state, &assigned, delivery);
        let work = run(agent, &context, parameters).instrument(span::of_task(context.info()));
        // The code may also panic when it is dropped, for example at its timeout.
        let supervised = AssertUnwindSafe(supervisor.supervise(work)).catch_unwind().await;
        let outcome = supervised.unwrap_or_else(|panic| Outcome::Done(Err(panicked(&*panic))));
        let delivery = supervisor.into_delivery();
        // Streams are flushed before the answer, so that a reader that sees the result finds all
        // items.
        if let Some(hub) = &self.shared.outputs {
            hub.flushed("a task", context.flush_streams()).await;
        }
        let result = match outcome {
            Outcome::Done(Ok(output)) => Ok(output),
            Outcome::Done(Err(error)) => match guard.state.stopped() {
                // The code failed by itself: that is the answer.
                None => Err(error),
                // Code that returns an error because it was cancelled was cancelled.
                Some(StopReason::Cancelled) => Err(cancelled()),
                Some(StopReason::Abandoned) => {
                    return Box::pin(self.hand_back(&event, delivery)).await;
                }
            },
            Outcome::TimedOut(after) => Err(timed_out(after)),
            Outcome::Cancelled => Err(cancelled()),
            Outcome::Abandoned => return Box::pin(self.hand_back(&event, delivery)).await,
        };
        let answer = self.answer(&assigned, &event, result, &context);
        self.deliver_answer(answer, &assigned, &event, delivery, &guard).await;
    }

    /// The information that the agent's code gets about its attempt. The deadline is one of the clock of this
    /// process.
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
    // The async block is needed: a panic in the call itself, before the first poll, is caught as
    // well.
    let work = async { agent.agent.process_task(context, parameters).await };
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// Turns a panic into a failure of a task.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> TaskError {
    TaskError::retryable(panic_failure(codes::AGENT_PANICKED, panic))
}

/// The failure of an attempt whose future was dropped at its timeout. Retryable.
fn timed_out(after: std::time::Duration) -> TaskError {
    let message = format!("the task took longer than {after:?}");
    TaskError::retryable(Failure::new(codes::TASK_TIMEOUT, message))
}

/// The answer of a cancelled task. Terminal, because the engine must not assign it again.
fn cancelled() -> TaskError {
    TaskError::terminal(Failure::new(codes::TASK_CANCELLED, "the task was cancelled"))
}
