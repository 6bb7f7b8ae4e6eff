use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
    event::Timestamp,
    failure::Failure,
    store::Fence,
};
use metrics::counter;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Engine, Message};
use crate::agent::{most_similar, no_agent};

/// Tasks published at once.
const BATCH: usize = 256;
/// Cancellations of tasks that may wait for another attempt at publishing them.
const PARKED: usize = 1024;

/// A task on its way to the broker.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) publish: Publish,
    /// Who is told if the broker does not take it; `None` if it is a notice that no run waits for.
    pub(super) task: Option<Attempt>,
    /// Proof that this engine owned the run.
    pub(super) fence: Fence,
}

/// An attempt at a task of a run.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) run_id: Arc<str>,
    pub(super) operation: u64,
    pub(super) number: u32,
    /// Gone once the attempt has ended, or its run is no longer here.
    pub(super) awaited: Weak<()>,
}

impl Dispatch {
    /// Whether anybody still waits for the task: after a restart its answer may have been in the
    /// mailbox.
    fn is_of_use(&self) -> bool {
        self.task.as_ref().is_none_or(|attempt| attempt.awaited.strong_count() > 0)
    }
}

/// Publishes tasks, many at once. What the broker does not take now goes back to its run, which
/// tries again later by itself, so that neither the broker nor a full queue holds up anybody else.
pub(super) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Dispatch>) {
    let (mut batch, mut parked) = (Vec::new(), VecDeque::new());
    let (mut backoff, mut retry_at) = (engine.options.backoff.0, Timestamp::MAX);
    loop {
        tokio::select! {
            biased;
            () = engine.clock.sleep_until(retry_at), if !parked.is_empty() => {
                batch.extend(parked.drain(..));
            }
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
            }
        }
        // Whoever has the shards now gives the tasks of their runs.
        batch.retain(|dispatch| dispatch.task.is_none() || engine.ownership.has(dispatch.fence));
        batch.retain(Dispatch::is_of_use);
        if batch.is_empty() {
            continue;
        }
        let was_parked = !parked.is_empty();
        let publishes = batch.iter().map(|dispatch| dispatch.publish.clone()).collect();
        let results = engine.broker.publish(publishes).await;
        let (mut deferred, mut cause) = (0_usize, None);
        for (dispatch, result) in batch.drain(..).zip(results) {
            match result {
                Ok(()) => {}
                Err(error) if is_transient(&error) => {
                    deferred += 1;
                    cause = Some(error);
                    defer(&engine, dispatch, &mut parked);
                }
                Err(error) => undelivered(&engine, dispatch, &error),
            }
        }
        if let Some(error) = cause {
            warn!(error = %Chain(&error), tasks = deferred, "could not publish tasks; trying again");
        } else {
            backoff = engine.options.backoff.0;
        }
        if !was_parked && !parked.is_empty() {
            retry_at = engine.clock.now() + backoff;
            backoff = (backoff * 2).min(engine.options.backoff.1);
        }
    }
}

/// Nobody listening is the run's business: its retry policy says how long to go on. A broker that
/// this process closed is there again after the next start.
fn is_transient(error: &BrokerError) -> bool {
    match error {
        BrokerError::Unroutable { .. } => false,
        BrokerError::Closed => true,
        other => other.is_retryable(),
    }
}

fn defer(engine: &Arc<Engine>, dispatch: Dispatch, parked: &mut VecDeque<Dispatch>) {
    match dispatch.task {
        Some(Attempt { run_id, operation, number: attempt, .. }) => {
            engine.tell(&run_id, Message::Deferred { operation, attempt });
        }
        None => {
            if parked.len() >= PARKED {
                warn!("the broker takes nothing; agents miss that a task was cancelled");
                parked.pop_front();
            }
            parked.push_back(dispatch);
        }
    }
}

fn undelivered(engine: &Arc<Engine>, dispatch: Dispatch, error: &BrokerError) {
    let event_type = &dispatch.publish.event.event_type;
    let Some(Attempt { run_id, operation, number: attempt, .. }) = dispatch.task else {
        // An agent that is gone needs no notice.
        return warn!(error = %Chain(error), %event_type, "could not tell agents that a task was cancelled");
    };
    let (code, message) = match error {
        BrokerError::Unroutable { .. } => {
            let agent = event_type.entity();
            counter!("aios_tasks_without_agent_total", "agent_type" => agent.to_owned())
                .increment(1);
            let (to, hosted) = (dispatch.publish.to.as_ref(), &engine.agent_types);
            let hint = if to.is_none() { hint(agent, hosted) } else { String::new() };
            ("AGENT_NOT_FOUND", no_agent(agent, to) + &hint)
        }
        other => (other.code(), Chain(other).to_string()),
    };
    warn!(%run_id, operation, attempt, code, "a task reached no agent: {message}");
    let failure = Failure::new(code, message);
    let retryable = error.is_retryable();
    engine.tell(&run_id, Message::Undelivered { operation, attempt, failure, retryable });
}

/// What may help somebody whose task no agent takes: the agent types of this process.
fn hint(agent_type: &str, hosted: &[Box<str>]) -> String {
    if hosted.is_empty() {
        return "; is its process running?".to_owned();
    }
    let question = match most_similar(agent_type, hosted) {
        Some(meant) if meant != agent_type => format!(". Did you mean {meant}?"),
        _ => String::new(),
    };
    format!("; this process has agents of the types {}{question}", hosted.join(", "))
}
