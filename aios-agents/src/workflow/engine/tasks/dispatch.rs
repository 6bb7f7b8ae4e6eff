//! The task that publishes tasks for all runs of an engine.
//!
//! Runs put tasks into one bounded queue (`driver/outgoing`). The dispatcher takes what has queued up,
//! publishes it as one batch, and takes the next when the broker has answered. So an idle engine
//! publishes at once, and a busy one many at a time.
//!
//! | the broker answers | a task | a notice or question |
//! |---|---|---|
//! | taken | nothing; the agent will answer | a question: its run counts the time from now |
//! | not now | returned to its run, which repeats it after a pause | parked here and repeated |
//! | no queue takes it | the attempt fails in its run with `AGENT_NOT_FOUND` | dropped, with a warning |
//! | refused permanently | the attempt fails in its run with the code of the broker | dropped, with a warning |
//!
//! Before each batch, tasks of shards that this engine has lost are dropped, as well as those that no
//! run waits for any more.

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

use crate::{
    agent::no_agent,
    suggest::closest,
    workflow::engine::{Engine, Message},
};

/// Tasks published at once.
const BATCH: usize = 256;
/// Notices about tasks that may wait to be published again.
const PARKED: usize = 1024;

/// A task on its way to the broker.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// The event and its address.
    pub(crate) publish: Publish,
    /// The attempt to notify if the broker refuses the task; `None` for a notice that no run waits
    /// for.
    pub(crate) task: Option<Attempt>,
    /// The attempt that the notice asks for, which is notified when the broker has the question.
    pub(crate) sought: Option<Attempt>,
    /// The fence under which this engine owned the run.
    pub(crate) fence: Fence,
    /// Held until the broker has answered, or the task is dropped.
    pub(crate) _pending: Arc<()>,
}

/// An attempt at a task of a run.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The run that waits.
    pub(crate) run_id: Arc<str>,
    /// The operation of the task.
    pub(crate) operation: u64,
    /// Number of the attempt, from 1.
    pub(crate) number: u32,
    /// Can't be upgraded once the attempt has ended or its run has left memory.
    pub(crate) awaited: Weak<()>,
}

impl Dispatch {
    /// Whether the run still waits for the task. After a restart, its answer may have been in the
    /// mailbox.
    fn is_of_use(&self) -> bool {
        self.task.as_ref().is_none_or(|attempt| attempt.awaited.strong_count() > 0)
    }
}

/// Publishes tasks in batches. A task that the broker can't take now is returned to its run, which
/// retries it later, so neither the broker nor a full queue delays other runs.
///
/// The time of the next attempt with parked notices is set once for a series of failures, so that new
/// notices don't delay those that wait.
pub(crate) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Dispatch>) {
    let mut batch = Vec::new();
    let mut parked = VecDeque::new();
    let mut backoff = engine.options.backoff.initial_delay;
    let mut retry_at = Timestamp::MAX;
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
        // The new owners of the shards dispatch the tasks of their runs, unless agents have them.
        batch.retain(|dispatch| dispatch.task.is_none() || engine.ownership.has(dispatch.fence));
        batch.retain(Dispatch::is_of_use);
        if batch.is_empty() {
            continue;
        }
        let was_parked = !parked.is_empty();
        let publishes = batch.iter().map(|dispatch| dispatch.publish.clone()).collect();
        let results = engine.broker.publish(publishes).await;
        let mut deferred = 0_usize;
        let mut cause = None;
        for (dispatch, result) in batch.drain(..).zip(results) {
            match result {
                Ok(()) => notify_asked(&engine, dispatch),
                Err(error) if is_transient(&error) => {
                    deferred += 1;
                    cause = Some(error);
                    defer(&engine, dispatch, &mut parked);
                }
                Err(error) => report_undeliverable(&engine, dispatch, &error),
            }
        }
        if let Some(error) = cause {
            warn!(error = %Chain(&error), tasks = deferred, "could not publish tasks; trying again");
        } else {
            backoff = engine.options.backoff.initial_delay;
        }
        if !was_parked && !parked.is_empty() {
            retry_at = engine.clock.now() + backoff;
            backoff = engine.options.backoff.next(backoff);
        }
    }
}

/// Tells a run that the broker has its question.
fn notify_asked(engine: &Arc<Engine>, dispatch: Dispatch) {
    if let Some(Attempt { run_id, operation, number: attempt, .. }) = dispatch.sought {
        engine.send(&run_id, Message::Sought { operation, attempt });
    }
}

/// A task without a listener is retried by the retry policy of its run. A broker that this process
/// closed is available again after the next start.
fn is_transient(error: &BrokerError) -> bool {
    match error {
        BrokerError::Unroutable { .. } => false,
        BrokerError::Closed => true,
        other => other.is_retryable(),
    }
}

/// Handles an event that the broker can't take now. The oldest parked notice is dropped when there are
/// too many.
fn defer(engine: &Arc<Engine>, dispatch: Dispatch, parked: &mut VecDeque<Dispatch>) {
    match dispatch.task {
        Some(Attempt { run_id, operation, number: attempt, .. }) => {
            engine.send(&run_id, Message::Deferred { operation, attempt });
        }
        None => {
            if parked.len() >= PARKED {
                warn!("the broker accepts no events; agents are not informed about a task");
                parked.pop_front();
            }
            parked.push_back(dispatch);
        }
    }
}

/// Fails the attempt of a task that the broker refuses.
fn report_undeliverable(engine: &Arc<Engine>, dispatch: Dispatch, error: &BrokerError) {
    let event_type = &dispatch.publish.event.event_type;
    let Some(Attempt { run_id, operation, number: attempt, .. }) = dispatch.task else {
        // An agent that is gone does not need the notice.
        return warn!(error = %Chain(error), %event_type, "could not inform agents about a task");
    };
    let (code, message) = match error {
        BrokerError::Unroutable { .. } => {
            let agent = event_type.entity();
            counter!("aios_tasks_without_agent_total", "agent_type" => agent.to_owned())
                .increment(1);
            let to = dispatch.publish.to.as_ref();
            let hosted = &engine.agent_types;
            let hint = if to.is_none() { hint(agent, hosted) } else { String::new() };
            ("AGENT_NOT_FOUND", no_agent(agent, to) + &hint)
        }
        other => (other.code(), Chain(other).to_string()),
    };
    warn!(%run_id, operation, attempt, code, "a task reached no agent: {message}");
    let failure = Failure::new(code, message);
    let retryable = error.is_retryable();
    engine.send(&run_id, Message::Undeliverable { operation, attempt, failure, retryable });
}

/// A hint for a task that no agent takes: the agent types of this process.
fn hint(agent_type: &str, hosted: &[Box<str>]) -> String {
    if hosted.is_empty() {
        return "; is its process running?".to_owned();
    }
    let question = match closest(agent_type, hosted) {
        Some(meant) if meant != agent_type => format!(". Did you mean {meant}?"),
        _ => String::new(),
    };
    format!("; this process has agents of the types {}{question}", hosted.join(", "))
}
