use std::sync::Arc;

use aios_core::{
    broker::{BrokerError, Publish},
    event::Timestamp,
    failure::Failure,
};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Engine, Message};

/// Tasks published at once.
const BATCH: usize = 256;
/// Tasks that may wait for another attempt at publishing them.
const PARKED: usize = 1024;

/// A task on its way to the broker.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) publish: Publish,
    /// Who is told if nobody takes it.
    pub(super) task: Option<(Arc<str>, u64, u32)>,
}

/// Publishes tasks, many at once. What the broker does not take now is parked, so that a full
/// queue holds up nobody else; once too much is parked, nothing more is taken.
pub(super) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Dispatch>) {
    let (mut batch, mut parked) = (Vec::new(), Vec::new());
    let (mut back_off, mut retry_at) = (engine.options.back_off.0, Timestamp::MAX);
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, BATCH), if parked.len() < PARKED => {
                if count == 0 {
                    return;
                }
            }
            () = engine.clock.sleep_until(retry_at), if !parked.is_empty() => {
                batch.append(&mut parked);
            }
        }
        let publishes = batch.iter().map(|dispatch| dispatch.publish.clone()).collect();
        let results = engine.broker.publish(publishes).await;
        let before = parked.len();
        for (dispatch, result) in batch.drain(..).zip(results) {
            match result {
                Ok(()) => {}
                Err(error) if is_transient(&error) => {
                    warn!(%error, "could not publish a task; trying again");
                    parked.push(dispatch);
                }
                Err(error) => undelivered(&engine, dispatch, &error).await,
            }
        }
        if parked.is_empty() {
            back_off = engine.options.back_off.0;
        } else if before == 0 {
            retry_at = engine.clock.now() + back_off;
            back_off = (back_off * 2).min(engine.options.back_off.1);
        }
    }
}

/// Nobody listening is the run's business: its retry policy says how long to go on.
fn is_transient(error: &BrokerError) -> bool {
    error.is_retryable() && !matches!(error, BrokerError::Unroutable { .. })
}

async fn undelivered(engine: &Arc<Engine>, dispatch: Dispatch, error: &BrokerError) {
    let Some((run_id, operation, attempt)) = dispatch.task else { return };
    let (code, message) = match error {
        BrokerError::Unroutable { .. } => {
            let agent = dispatch.publish.event.event_type.entity().to_owned();
            ("AGENT_NOT_FOUND", format!("no agent of type {agent} takes tasks"))
        }
        other => (other.code(), other.to_string()),
    };
    let failure = Failure::new(code, message);
    let retryable = error.is_retryable();
    let message = Message::Undelivered { operation, attempt, failure, retryable };
    // The run may be waiting to hand over another task, so its inbox must not hold this loop up.
    let engine = Arc::clone(engine);
    tokio::spawn(async move { engine.tell(&run_id, message).await });
}
