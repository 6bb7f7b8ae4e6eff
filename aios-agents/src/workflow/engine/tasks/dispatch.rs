//! The task that publishes tasks for all runs of an engine.
//!
//! Runs put tasks into one bounded queue (`driver/outgoing`). The dispatcher sorts them by agent type,
//! publishes what has queued up for a type as one batch, and the next one when the broker has answered.
//! So an idle engine publishes at once, a busy one many at a time, and a queue that confirms nothing
//! delays the tasks of its agents only. Events about one type keep their order.
//!
//! | the broker answers | a task | a notice or question |
//! |---|---|---|
//! | taken | nothing; the agent will answer | a question: its run counts the time from now |
//! | not now | returned to its run, which repeats it after a pause | parked here and repeated |
//! | nothing, or the connection is lost | the same, but its run seeks it first | the same |
//! | no queue takes it | the attempt fails in its run with `AGENT_NOT_FOUND` | dropped, with a warning |
//! | refused permanently | the attempt fails in its run with the code of the broker | dropped, with a warning |
//!
//! Before each batch, tasks of shards that this engine has lost are dropped, as well as those that no
//! run waits for any more.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use aios_core::{
    BoxFuture, Chain,
    broker::{BrokerError, Publish},
    catalog::codes,
    event::Timestamp,
    failure::Failure,
    store::Fence,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
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
/// Tasks of one agent type that may wait for the broker to answer.
const WAITING: usize = 1024;
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

/// Publishes tasks until the queue is closed and the broker has answered everything.
pub(crate) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Dispatch>) {
    let mut dispatcher = Dispatcher::new(&engine);
    let mut arrived = Vec::new();
    let mut is_open = true;
    while is_open || !dispatcher.publishing.is_empty() {
        let retry_at = dispatcher.retry_at();
        tokio::select! {
            biased;
            Some(published) = dispatcher.publishing.next() => dispatcher.settle(published),
            () = engine.clock.sleep_until(retry_at.unwrap_or(Timestamp::MAX)), if retry_at.is_some() => {
                dispatcher.repeat_parked();
            }
            count = queue.recv_many(&mut arrived, BATCH), if is_open => {
                is_open = count > 0;
                arrived.drain(..).for_each(|dispatch| dispatcher.add(dispatch));
            }
        }
        dispatcher.publish();
    }
}

/// A batch that the broker has answered.
struct Published {
    agent_type: Arc<str>,
    batch: Vec<Dispatch>,
    results: Vec<Result<(), BrokerError>>,
}

/// The tasks and notices of one agent type that wait to be published.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Dispatch>,
    /// Whether a batch is being published.
    is_busy: bool,
    /// Notices that the broker did not take.
    parked: VecDeque<Dispatch>,
    /// When to publish them again, if there are any. New notices don't delay those that wait.
    retry_at: Option<Timestamp>,
    /// The last pause before that.
    pause: Option<Duration>,
}

/// The state of the task that publishes.
struct Dispatcher<'a> {
    engine: &'a Arc<Engine>,
    /// By agent type. A lane is removed when nothing waits in it.
    lanes: BTreeMap<Arc<str>, Lane>,
    /// The batches that the broker has not answered, at most one of each lane.
    publishing: FuturesUnordered<BoxFuture<'a, Published>>,
}

impl<'a> Dispatcher<'a> {
    fn new(engine: &'a Arc<Engine>) -> Self {
        Self { engine, lanes: BTreeMap::new(), publishing: FuturesUnordered::new() }
    }

    /// Adds an event to the lane of its agent type. A task for which the lane has no room returns to its
    /// run.
    fn add(&mut self, dispatch: Dispatch) {
        let agent_type = Arc::from(dispatch.publish.event.event_type.entity());
        let lane = self.lanes.entry(agent_type).or_default();
        match lane.waiting.len() < WAITING {
            true => lane.waiting.push_back(dispatch),
            false => self.defer(dispatch, false),
        }
    }

    /// Publishes a batch of each lane whose last one is answered.
    fn publish(&mut self) {
        let Self { engine, lanes, publishing, .. } = self;
        lanes.retain(|agent_type, lane| {
            if lane.is_busy {
                return true;
            }
            // The new owners of the shards dispatch the tasks of their runs, unless agents have them.
            let is_ours = |it: &Dispatch| it.task.is_none() || engine.ownership.has(it.fence);
            lane.waiting.retain(|dispatch| is_ours(dispatch) && dispatch.is_of_use());
            let batch: Vec<_> = lane.waiting.drain(..lane.waiting.len().min(BATCH)).collect();
            if batch.is_empty() {
                return !lane.parked.is_empty();
            }
            let (engine, agent_type) = (*engine, Arc::clone(agent_type));
            publishing.push(Box::pin(async move {
                let publishes = batch.iter().map(|dispatch| dispatch.publish.clone()).collect();
                let results = engine.broker.publish(publishes).await;
                Published { agent_type, batch, results }
            }));
            lane.is_busy = true;
            true
        });
    }

    /// Handles the answer of the broker to a batch.
    fn settle(&mut self, Published { agent_type, batch, results }: Published) {
        if let Some(lane) = self.lanes.get_mut(&agent_type) {
            lane.is_busy = false;
        }
        let mut deferred = 0_usize;
        let mut cause = None;
        for (dispatch, result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => notify_asked(self.engine, dispatch),
                Err(error) if is_transient(&error) => {
                    deferred += 1;
                    self.defer(dispatch, is_uncertain(&error));
                    cause = Some(error);
                }
                Err(error) => report_undeliverable(self.engine, dispatch, &error),
            }
        }
        match (cause, self.lanes.get_mut(&agent_type)) {
            (Some(error), _) => warn!(
                error = %Chain(&error), %agent_type, tasks = deferred,
                "could not publish tasks; trying again"
            ),
            (None, Some(lane)) if lane.parked.is_empty() => lane.pause = None,
            (None, _) => {}
        }
    }

    /// Handles an event that the broker can't take now. The oldest parked notice is dropped when there
    /// are too many.
    fn defer(&mut self, dispatch: Dispatch, is_uncertain: bool) {
        if let Some(Attempt { run_id, operation, number: attempt, .. }) = dispatch.task {
            let message = Message::Deferred { operation, attempt, is_uncertain };
            return self.engine.send(&run_id, message);
        }
        let agent_type = dispatch.publish.event.event_type.entity();
        let lane = self.lanes.entry(agent_type.into()).or_default();
        if lane.retry_at.is_none() {
            let backoff = self.engine.options.backoff;
            let pause = lane.pause.map_or(backoff.initial_delay, |last| backoff.next(last));
            lane.pause = Some(pause);
            lane.retry_at = Some(self.engine.clock.now() + pause);
        }
        if lane.parked.len() >= PARKED {
            warn!(agent_type, "the broker accepts no events; agents are not informed about a task");
            lane.parked.pop_front();
        }
        lane.parked.push_back(dispatch);
    }

    /// When to publish parked notices again.
    fn retry_at(&self) -> Option<Timestamp> {
        self.lanes.values().filter_map(|lane| lane.retry_at).min()
    }

    /// Adds parked notices whose time has come to what waits in their lanes, as far as there is room.
    fn repeat_parked(&mut self) {
        let now = self.engine.clock.now();
        for lane in self.lanes.values_mut() {
            if lane.retry_at.is_some_and(|at| at <= now) {
                let room = WAITING.saturating_sub(lane.waiting.len()).min(lane.parked.len());
                lane.waiting.extend(lane.parked.drain(..room));
                let pause = lane.pause.filter(|_| !lane.parked.is_empty());
                lane.retry_at = pause.map(|pause| now + pause);
            }
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

/// Whether the broker may have an event although it did not confirm it.
fn is_uncertain(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Uncertain | BrokerError::Timeout { .. })
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
            (codes::AGENT_NOT_FOUND, no_agent(agent, to) + &hint)
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
