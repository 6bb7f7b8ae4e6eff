//! Publishes events of a host, with retries.
//!
//! Answers must not be lost because of a short outage of the broker. They are retried with back-off
//! for as long as their attempt is held, which is bounded by the engine's patience: it ends the
//! attempt when heartbeats stop, and the host releases it when it shuts down.

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
};

use super::task_state::{StopReason, TaskState};
use crate::agent::{backoff::BackoffTimer, host::hosted::HostedType};

/// Why something was not published.
#[derive(Debug)]
pub(super) enum Unpublished {
    /// The broker refuses it permanently.
    Refused(BrokerError),
    /// The host abandoned the task, or the broker was closed, before the broker accepted it.
    Abandoned(BrokerError),
}

impl HostedType {
    /// Publishes all events in order. Retries transient failures until the task is abandoned.
    ///
    /// A missing mailbox may be declared again after the server has lost its data, and a full queue
    /// may be drained. If that does not happen within `answer_patience`, the events count as
    /// refused. Events without a running attempt are retried for no longer than that, whatever the
    /// failure.
    pub(super) async fn publish(
        &self,
        batch: Vec<Publish>,
        running: Option<&TaskState>,
    ) -> Result<(), Unpublished> {
        match first_failure(self.shared.broker.publish(batch.clone()).await) {
            None => Ok(()),
            Some(failure) => Box::pin(self.publish_again(batch, failure, running)).await,
        }
    }

    /// Retries from the first event that was not published.
    ///
    /// | failure | what follows |
    /// |---|---|
    /// | broker closed | abandoned |
    /// | permanent | refused |
    /// | no mailbox, and the task was cancelled | counts as published: no process waits for the answer |
    /// | no mailbox, or rejected, for `answer_patience` | refused |
    /// | other transient failures | retried; without a running attempt only for `answer_patience` |
    async fn publish_again(
        &self,
        mut batch: Vec<Publish>,
        mut failure: (usize, BrokerError),
        running: Option<&TaskState>,
    ) -> Result<(), Unpublished> {
        let mut backoff = BackoffTimer::new(self.shared.options.backoff);
        let patience = self.shared.options.answer_patience;
        let deadline = self.shared.clock.elapsed().saturating_add(patience);
        loop {
            let (failed, error) = failure;
            let is_late = self.shared.clock.elapsed() >= deadline;
            match error {
                BrokerError::Closed => return Err(Unpublished::Abandoned(error)),
                error if !error.is_retryable() => return Err(Unpublished::Refused(error)),
                // The process that cancelled the task may be gone and no longer wait for an answer.
                BrokerError::Unroutable { .. } if is_cancelled(running) => return Ok(()),
                BrokerError::Unroutable { .. } | BrokerError::Rejected { .. } if is_late => {
                    return Err(Unpublished::Refused(error));
                }
                error if is_late && running.is_none() => return Err(Unpublished::Abandoned(error)),
                ref error => {
                    tracing::warn!(error = %Chain(error), "failed to publish an answer; retrying");
                }
            }
            // Keeps the order. Later events that were published already are sent again.
            batch.drain(..failed);
            tokio::select! {
                biased;
                () = abandoned(running) => return Err(Unpublished::Abandoned(error)),
                () = backoff.wait(&*self.shared.clock) => {}
            }
            match first_failure(self.shared.broker.publish(batch.clone()).await) {
                None => return Ok(()),
                Some(again) => failure = again,
            }
        }
    }
}

/// The first event of a batch that was not published, and why.
fn first_failure(answers: Vec<Result<(), BrokerError>>) -> Option<(usize, BrokerError)> {
    let numbered = answers.into_iter().enumerate();
    numbered.filter_map(|(index, answer)| Some((index, answer.err()?))).next()
}

/// Whether the answer is that of a cancelled task.
fn is_cancelled(running: Option<&TaskState>) -> bool {
    running.is_some_and(|running| running.stopped() == Some(StopReason::Cancelled))
}

/// Completes when the task is abandoned; never for an answer without a running attempt.
async fn abandoned(running: Option<&TaskState>) {
    match running {
        Some(running) => running.abandoned().await,
        None => std::future::pending().await,
    }
}
