//! Publishes what a host has to say, as long as the broker may still take it.

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
};

use super::{
    hosted::HostedType,
    running::{Running, Stop},
};
use crate::agent::backoff::Backoff;

/// Why something was not published.
#[derive(Debug)]
pub(super) enum Unpublished {
    /// The broker refuses it, and would refuse it again.
    Refused(BrokerError),
    /// The host gave the task up, or the broker was closed, before the broker took it.
    Abandoned(BrokerError),
}

impl HostedType {
    /// Publishes all events in order, again and again while the failure may pass and the task is
    /// not abandoned. A mailbox that is missing may be declared in a moment, after the server has
    /// lost its data, and a queue that is full may be read. If they stay so, that counts as refused;
    /// what no attempt waits for is not tried for longer whatever the failure.
    pub(super) async fn publish(
        &self,
        batch: Vec<Publish>,
        running: Option<&Running>,
    ) -> Result<(), Unpublished> {
        match first_failure(self.shared.broker.publish(batch.clone()).await) {
            None => Ok(()),
            Some(failure) => Box::pin(self.publish_again(batch, failure, running)).await,
        }
    }

    async fn publish_again(
        &self,
        mut batch: Vec<Publish>,
        mut failure: (usize, BrokerError),
        running: Option<&Running>,
    ) -> Result<(), Unpublished> {
        let mut backoff = Backoff::new(&self.shared.options.backoff);
        let given_up_at = self.shared.clock.now() + self.shared.options.answer_patience;
        loop {
            let (failed, error) = failure;
            let is_late = self.shared.clock.now() >= given_up_at;
            match error {
                BrokerError::Closed => return Err(Unpublished::Abandoned(error)),
                error if !error.is_retryable() => return Err(Unpublished::Refused(error)),
                // Whoever cancelled the task may be gone, and waits for no answer.
                BrokerError::Unroutable { .. } if is_cancelled(running) => return Ok(()),
                BrokerError::Unroutable { .. } | BrokerError::Rejected { .. } if is_late => {
                    return Err(Unpublished::Refused(error));
                }
                error if is_late && running.is_none() => return Err(Unpublished::Abandoned(error)),
                ref error => {
                    tracing::warn!(error = %Chain(error), "an answer was not published; trying again");
                }
            }
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

fn is_cancelled(running: Option<&Running>) -> bool {
    running.is_some_and(|running| running.stopped() == Some(Stop::Cancelled))
}

async fn abandoned(running: Option<&Running>) {
    match running {
        Some(running) => running.abandoned().await,
        None => std::future::pending().await,
    }
}
