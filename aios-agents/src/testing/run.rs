//! Runs a workflow in virtual time.
//!
//! `Simulation` does for one run what an engine, a store, a broker and agents do together. In each
//! turn it does the first of these that is possible:
//!
//! 1. records what the code requested, and performs the effects: timers, tasks, children;
//! 2. records the end of the run;
//! 3. delivers external events that are due;
//! 4. waits for steps whose code does real I/O, as long as it takes, or for a moment if something is due
//!    later;
//! 5. advances the clock to the next timer or external event.
//!
//! If none is possible, the run is stalled: it waits for something that the script does not have.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed},
    catalog::codes,
    clock::{Clock, SystemClock, VirtualClock},
    event::{Event, EventId, Metadata, Payload, Timestamp},
    failure::Failure,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{WorkflowTest, scheduled::scheduled, script::ExternalEvent};
use crate::workflow::{
    Execution, RunInfo, Workflow, WorkflowError,
    journal::{AgentEvent, CancelRequested, ChildEnded, Codec, Entry, Seed, Signaled, Started},
    machine::{Effect, Request},
};

/// How long virtual time waits for steps whose code does real I/O.
const GRACE: Duration = Duration::from_secs(1);
/// Id of every run under test.
const RUN_ID: &str = "test";
/// Id of the event that starts every run under test.
const STARTED_ID: &str = "test-started";

impl WorkflowTest {
    /// Runs the workflow until it ends or waits for something that is not scripted. Virtual time advances
    /// only while everything waits. A step that waits for real I/O gets up to one second of real time before
    /// the next virtual timer, such as its own timeout, or scripted event fires.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the run.
    pub async fn run<T: Serialize + ?Sized>(self, input: &T) -> TestedRun {
        if let Some(invalid) = self.invalid {
            return TestedRun::refused(&*self.workflow, invalid);
        }
        let input = match Payload::encode(input) {
            Ok(input) => input,
            Err(error) => {
                let invalid = Failure::from_error(error.code(), &error);
                return TestedRun::refused(&*self.workflow, invalid);
            }
        };
        scheduled(Simulation::new(self, input).run()).await
    }
}

/// A finished test run.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::{prelude::*, testing::WorkflowTest};
///
/// async fn fetch(context: WorkflowContext, url: String) -> Result<usize, WorkflowError> {
///     let text: String = context.task("fetcher", &url).retry(RetryPolicy::never()).await?;
///     Ok(text.len())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let down = |_: String| Err::<String, _>(TaskError::retryable(Failure::new("DOWN", "no route")));
/// let run = WorkflowTest::new("fetch", fetch)?.agent("fetcher", down).run("http://a").await;
/// assert_eq!(run.result::<usize>().unwrap_err().code(), "DOWN");
/// assert_eq!(run.elapsed(), Duration::ZERO); // no second attempt, no delay
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestedRun {
    /// `None` if the run did not end.
    outcome: Option<Result<Payload, WorkflowError>>,
    /// Why the code does not match its journal.
    blocked: Option<Failure>,
    /// The entries with their times.
    journal: Vec<(Entry, Timestamp)>,
    /// Virtual time from the start to the end.
    elapsed: Duration,
    /// Name of the workflow, for the types of events.
    workflow: aios_core::agent::Name,
}

impl TestedRun {
    /// A run that did not begin, because its script is invalid.
    fn refused(workflow: &dyn Workflow, invalid: Failure) -> Self {
        Self {
            outcome: None,
            blocked: Some(invalid),
            journal: Vec::new(),
            elapsed: Duration::ZERO,
            workflow: workflow.name().clone(),
        }
    }

    /// The result of the workflow.
    ///
    /// # Errors
    ///
    /// The workflow's error, or a failure with the code `RUN_STALLED` if the run waits for something that
    /// is not scripted.
    pub fn result<T: DeserializeOwned>(&self) -> Result<T, WorkflowError> {
        match &self.outcome {
            Some(Ok(result)) => Ok(result.decode()?),
            Some(Err(error)) => Err(error.clone()),
            None => {
                let waits = || {
                    Failure::new(
                        codes::RUN_STALLED,
                        "the run waits for something that is not scripted",
                    )
                };
                Err(WorkflowError::failed(self.blocked.clone().unwrap_or_else(waits)))
            }
        }
    }

    /// The elapsed virtual time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The entries of the journal.
    pub fn journal(&self) -> impl Iterator<Item = &Entry> {
        self.journal.iter().map(|(entry, _)| entry)
    }

    /// Why the run is blocked, if it is.
    #[cfg(test)]
    pub(super) fn block_reason(&self) -> Option<&Failure> {
        self.blocked.as_ref()
    }

    /// The first entries of the journal.
    #[cfg(test)]
    pub(super) fn entries(&self, count: usize) -> Vec<(Entry, Timestamp)> {
        self.journal.iter().take(count).cloned().collect()
    }

    /// The journal as events, for saving and a later [`replay`](super::replay()).
    ///
    /// # Errors
    ///
    /// If an entry cannot be encoded as an event, which does not happen for the entries of a run.
    pub fn events(&self) -> Result<Vec<Event>, aios_core::event::EventError> {
        let codec = Codec::new(&self.workflow, "test".into())?;
        let encode = |(entry, at): &(Entry, Timestamp)| {
            let mut event = codec.encode(entry.clone(), *at, Metadata::empty())?.event;
            event.metadata_mut().run_id = Some(RUN_ID.into());
            if let Entry::Started(_) = entry {
                event.id = STARTED_ID.parse()?;
            }
            Ok(event)
        };
        self.journal.iter().map(encode).collect()
    }
}

/// Simulates the store, the broker, the agents and the clock for one run.
pub(super) struct Simulation {
    /// The scripted surroundings.
    test: WorkflowTest,
    /// Begins at the epoch.
    clock: VirtualClock,
    /// The code and its machine.
    execution: Execution,
    /// Everything recorded so far.
    journal: Vec<(Entry, Timestamp)>,
    /// Operations whose timers are due, by time.
    timers: BTreeMap<Timestamp, Vec<u64>>,
    /// Scripted events that were not delivered yet, by time.
    external: BTreeMap<Timestamp, Vec<ExternalEvent>>,
}

impl Simulation {
    /// A run that starts at the epoch.
    pub(super) fn new(test: WorkflowTest, input: Payload) -> Self {
        let started = Started::new(test.workflow.version(), input.clone());
        Self::resumed(test, input, vec![(Entry::Started(Box::new(started)), Timestamp::UNIX_EPOCH)])
    }

    /// A run that resumes after this journal.
    pub(super) fn resumed(
        test: WorkflowTest,
        input: Payload,
        journal: Vec<(Entry, Timestamp)>,
    ) -> Self {
        let clock = VirtualClock::default();
        let last = journal.last().map_or(Timestamp::UNIX_EPOCH, |(_, at)| *at);
        clock.advance(last.duration_since(Timestamp::UNIX_EPOCH));
        let external = pending_external(&test, &journal);
        let entries = journal.iter().map(|(entry, _)| entry);
        let seed = Seed::Incarnation(STARTED_ID.to_owned());
        let clock_of_run = Arc::new(clock.clone());
        let incarnation = STARTED_ID.parse().unwrap_or_else(|_| EventId::derive(STARTED_ID));
        let mut execution = Execution::new(RUN_ID.into(), incarnation, seed, entries, clock_of_run);
        let workflow = test.workflow.name().clone();
        let version = test.workflow.version();
        let info = RunInfo {
            run_id: RUN_ID.into(),
            workflow,
            version,
            correlation_id: Some(RUN_ID.into()),
            traceparent: None,
            fence: None,
        };
        execution.attach_code(&*test.workflow, info, input);
        Self { test, clock, execution, journal, timers: BTreeMap::new(), external }
    }

    /// Runs until the run ends, is blocked or is stalled.
    pub(super) async fn run(mut self) -> TestedRun {
        let blocked = self.begin().await.err();
        while blocked.is_none() && self.turn().await {}
        let blocked = blocked.or_else(|| self.execution.block_reason());
        if let Err(panic) = self.execution.shared.close() {
            std::panic::resume_unwind(panic);
        }
        TestedRun {
            outcome: self.execution.outcome().cloned(),
            blocked,
            journal: self.journal,
            elapsed: self.clock.now().duration_since(Timestamp::UNIX_EPOCH),
            workflow: self.test.workflow.name().clone(),
        }
    }

    /// Replays the journal, and then goes live.
    async fn begin(&mut self) -> Result<(), Failure> {
        for (entry, at) in self.journal.clone() {
            self.execution.feed(entry, at);
        }
        self.run_until_idle().await;
        self.execution.go_live()
    }

    /// Polls the code until it is idle.
    async fn run_until_idle(&mut self) {
        poll_fn(|context| self.execution.poll(context)).await;
    }

    /// Makes progress by one turn. Returns `false` if the run has ended or cannot make progress.
    async fn turn(&mut self) -> bool {
        self.run_until_idle().await;
        if self.execution.block_reason().is_some() {
            return false;
        }
        let recorded = self.execution.machine().take_recording();
        let effects = self.execution.machine().take_effects();
        let moved = !recorded.is_empty() || !effects.is_empty();
        for entry in recorded {
            self.record(entry).await;
        }
        for effect in effects {
            self.perform(effect).await;
        }
        // Requests that the code made before it ended are recorded before the end of the run.
        if moved {
            return true;
        }
        if self.execution.outcome().is_some() {
            self.record_end().await;
            return false;
        }
        if self.deliver_external().await {
            return true;
        }
        if self.steps_run() && self.await_steps().await {
            return true;
        }
        self.pass_time()
    }

    /// Appends an entry to the journal, feeds it to the code, and lets the code react.
    async fn record(&mut self, entry: Entry) {
        let now = self.clock.now();
        self.journal.push((entry.clone(), now));
        self.execution.feed(entry, now);
        self.run_until_idle().await;
    }

    /// Records how the run ended.
    async fn record_end(&mut self) {
        let Some(entry) = self.execution.ending(|| format!("{RUN_ID}~r2")) else { return };
        self.record(entry).await;
    }

    /// Performs an effect that the machine asks for.
    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Timer { operation, at } => self.timers.entry(at).or_default().push(operation),
            Effect::Dispatch(task) => self.answer(task).await,
            // Tasks are answered at once, so none is left to cancel.
            Effect::CancelTask { .. } => {}
            Effect::Settled { operation } => {
                self.timers.retain(|_, due| {
                    due.retain(|it| *it != operation);
                    !due.is_empty()
                });
            }
            Effect::StartChild(child) => {
                let outcome = self.test.child_outcome(child.workflow.as_str(), &child.input);
                let (result, failure) = match outcome {
                    Ok(result) => (Some(result), None),
                    Err(failure) => (None, Some(failure)),
                };
                let operation = child.operation;
                self.record(Entry::ChildEnded(ChildEnded::new(operation, result, failure))).await;
            }
        }
    }

    /// Lets a scripted agent process a task.
    async fn answer(&mut self, task: AgentEvent<TaskAssigned>) {
        let AgentEvent { agent_type, data: TaskAssigned { task_id, parameters, attempt, .. } } =
            task;
        match self.test.answer(agent_type.as_str(), &parameters) {
            Ok(output) => {
                let data = TaskCompleted::new(task_id, output);
                self.record(Entry::TaskCompleted(AgentEvent { agent_type, data })).await;
            }
            Err(error) => {
                let operation = task_id.run().map_or(0, |(_, operation)| operation);
                let failure = error.failure.clone();
                let retryable = error.retryable;
                let data = TaskFailed::new(task_id, attempt, failure, retryable);
                self.record(Entry::TaskFailed(AgentEvent { agent_type, data })).await;
                let now = self.clock.now();
                let next = self.execution.machine().after_failure(operation, attempt, error, now);
                self.record(next).await;
            }
        }
    }

    /// Records external events that are due. Returns `false` if none are.
    async fn deliver_external(&mut self) -> bool {
        let now = self.clock.now();
        let due = self.external.first_entry().filter(|entry| *entry.key() <= now);
        let Some(due) = due.map(std::collections::btree_map::OccupiedEntry::remove) else {
            return false;
        };
        for what in due {
            let entry = match what {
                ExternalEvent::Signal(name, payload) => {
                    Entry::Signaled(Signaled::new(name, payload))
                }
                ExternalEvent::Cancel(reason) => {
                    Entry::CancelRequested(CancelRequested::new(reason))
                }
                ExternalEvent::Pause => Entry::Paused,
                ExternalEvent::Resume => Entry::Resumed,
            };
            self.record(entry).await;
        }
        true
    }

    /// Waits until there is something to record, or the run is blocked. Returns `false` if something is
    /// due in virtual time before that, and as much real time has passed, or the grace.
    async fn await_steps(&mut self) -> bool {
        let due = self.next_due().map(|next| next.duration_since(self.clock.now()).min(GRACE));
        let mut grace = due.map(|pause| SystemClock.sleep(pause));
        poll_fn(|context| {
            ready!(self.execution.poll(context));
            let machine = self.execution.machine();
            let moved = machine.has_recording() || machine.has_effects();
            drop(machine);
            match moved || self.execution.block_reason().is_some() {
                true => Poll::Ready(true),
                false => match &mut grace {
                    Some(grace) => grace.as_mut().poll(context).map(|()| false),
                    None => Poll::Pending,
                },
            }
        })
        .await
    }

    /// Whether the code of a step is waiting for real I/O.
    fn steps_run(&self) -> bool {
        let machine = self.execution.machine();
        machine.active().any(|(operation, request)| {
            matches!(request, Request::Step { .. }) && machine.step_attempt(operation).is_some()
        })
    }

    /// The time of the next timer or external event.
    fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.keys().next().copied();
        timer.into_iter().chain(self.external.keys().next().copied()).min()
    }

    /// Advances the clock to the next timer or external event. Returns `false` if there is none.
    fn pass_time(&mut self) -> bool {
        let Some(next) = self.next_due() else { return false };
        self.clock.advance(next.duration_since(self.clock.now()));
        for operation in self.timers.remove(&next).unwrap_or_default() {
            // The timer of a retry wakes the step that waits for it.
            let again = self.execution.machine().timer_due(operation, next);
            if let Some(operation) = again {
                self.execution.shared.wake_step(operation);
            }
        }
        true
    }
}

/// The scripted external events that are not in the journal yet, by time.
fn pending_external(
    test: &WorkflowTest,
    journal: &[(Entry, Timestamp)],
) -> BTreeMap<Timestamp, Vec<ExternalEvent>> {
    let came = |entry: &Entry| {
        matches!(
            entry,
            Entry::Signaled(_) | Entry::CancelRequested(_) | Entry::Paused | Entry::Resumed
        )
    };
    // Those that are recorded were the first ones, because they are delivered in order.
    let came = journal.iter().filter(|(entry, _)| came(entry)).count();
    let mut sorted = test.external.clone();
    sorted.sort_by_key(|(after, _)| *after);
    let mut external: BTreeMap<Timestamp, Vec<ExternalEvent>> = BTreeMap::new();
    for (after, what) in sorted.into_iter().skip(came) {
        external.entry(Timestamp::UNIX_EPOCH + after).or_default().push(what);
    }
    external
}
