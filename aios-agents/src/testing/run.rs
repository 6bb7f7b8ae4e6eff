use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed, TaskResult},
    clock::{Clock, VirtualClock},
    event::{Event, Payload, Timestamp},
    failure::Failure,
};
use serde::de::DeserializeOwned;

use super::{WorkflowTest, script::ExternalEvent};
use crate::workflow::{
    Execution, RunInfo, WorkflowError,
    journal::{AgentEvent, CancelRequested, ChildEnded, Codec, Entry, Seed, Signaled, Started},
    machine::{Effect, Request},
};

/// Id of every run under test.
const RUN_ID: &str = "test";
/// Id of the event that starts every run under test.
const STARTED_ID: &str = "test-started";

/// A run that was tested.
#[derive(Debug)]
pub struct TestedRun {
    outcome: Option<Result<Payload, WorkflowError>>,
    stuck: Option<Failure>,
    journal: Vec<(Entry, Timestamp)>,
    elapsed: Duration,
    workflow: aios_core::agent::Name,
}

impl TestedRun {
    /// What the workflow returned.
    ///
    /// # Errors
    ///
    /// The workflow's error; or, with the code `RUN_STALLED`, that nothing scripted lets it go on.
    pub fn result<T: DeserializeOwned>(&self) -> Result<T, WorkflowError> {
        match &self.outcome {
            Some(Ok(result)) => Ok(result.decode()?),
            Some(Err(error)) => Err(error.clone()),
            None => {
                let waits =
                    || Failure::new("RUN_STALLED", "the run waits for what is not scripted");
                Err(WorkflowError::failed(self.stuck.clone().unwrap_or_else(waits)))
            }
        }
    }

    /// How much virtual time has passed.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The journal, entry by entry.
    pub fn journal(&self) -> impl Iterator<Item = &Entry> {
        self.journal.iter().map(|(entry, _)| entry)
    }

    /// Why the run is blocked, if it is.
    #[cfg(test)]
    pub(super) fn misfit(&self) -> Option<&Failure> {
        self.stuck.as_ref()
    }

    /// The first entries of the journal.
    #[cfg(test)]
    pub(super) fn entries(&self, count: usize) -> Vec<(Entry, Timestamp)> {
        self.journal.iter().take(count).cloned().collect()
    }

    /// The journal as events, to be saved and given to [`replay`](super::replay()) later.
    ///
    /// # Errors
    ///
    /// If an entry can't be an event, which no run causes.
    pub fn events(&self) -> Result<Vec<Event>, aios_core::event::EventError> {
        let codec = Codec::new(&self.workflow, "test".into())?;
        let encode = |(entry, at): &(Entry, Timestamp)| {
            let mut event = codec.encode(entry.clone(), *at)?.event;
            event.metadata.run_id = Some(RUN_ID.into());
            if let Entry::Started(_) = entry {
                event.id = STARTED_ID.parse()?;
            }
            Ok(event)
        };
        self.journal.iter().map(encode).collect()
    }
}

/// Plays store, broker, agents and clock for one run.
pub(super) struct Simulation {
    test: WorkflowTest,
    clock: VirtualClock,
    execution: Execution,
    journal: Vec<(Entry, Timestamp)>,
    timers: BTreeMap<Timestamp, Vec<u64>>,
    outside: BTreeMap<Timestamp, Vec<ExternalEvent>>,
}

impl Simulation {
    pub(super) fn new(test: WorkflowTest, input: Payload) -> Self {
        let started = Started {
            version: test.workflow.version(),
            input: input.clone(),
            ..Started::default()
        };
        Self::resumed(test, input, vec![(Entry::Started(started), Timestamp::UNIX_EPOCH)])
    }

    /// A run that has this journal already.
    pub(super) fn resumed(
        test: WorkflowTest,
        input: Payload,
        journal: Vec<(Entry, Timestamp)>,
    ) -> Self {
        let clock = VirtualClock::default();
        let last = journal.last().map_or(Timestamp::UNIX_EPOCH, |(_, at)| *at);
        clock.advance(last.duration_since(Timestamp::UNIX_EPOCH));
        let outside = outside(&test, &journal);
        let entries = journal.iter().map(|(entry, _)| entry);
        let (seed, clock_of_run) =
            (Seed::Incarnation(STARTED_ID.to_owned()), Arc::new(clock.clone()));
        let mut execution =
            Execution::new(RUN_ID.into(), STARTED_ID.into(), seed, entries, clock_of_run);
        let workflow = test.workflow.name().clone();
        let version = test.workflow.version();
        let (traceparent, fence) = (None, None);
        let info = RunInfo { run_id: RUN_ID.into(), workflow, version, traceparent, fence };
        execution.enter(&*test.workflow, info, input);
        Self { test, clock, execution, journal, timers: BTreeMap::new(), outside }
    }

    pub(super) async fn run(mut self) -> TestedRun {
        let stuck = self.begin().await.err();
        while stuck.is_none() && self.turn().await {}
        let stuck = stuck.or_else(|| self.execution.misfit());
        if let Err(panic) = self.execution.cell.close() {
            std::panic::resume_unwind(panic);
        }
        TestedRun {
            outcome: self.execution.outcome().cloned(),
            stuck,
            journal: self.journal,
            elapsed: self.clock.now().duration_since(Timestamp::UNIX_EPOCH),
            workflow: self.test.workflow.name().clone(),
        }
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        for (entry, at) in self.journal.clone() {
            self.execution.feed(entry, at);
        }
        self.settle().await;
        self.execution.go_live()
    }

    /// Lets the code run until it is quiet.
    async fn settle(&mut self) {
        poll_fn(|context| self.execution.poll(context)).await;
    }

    /// Lets everything go on that can; `false` when the run has ended or nothing can.
    async fn turn(&mut self) -> bool {
        self.settle().await;
        if self.execution.misfit().is_some() {
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
        // What the code asked for before it ended comes before its end.
        if moved {
            return true;
        }
        if self.execution.outcome().is_some() {
            self.record_end().await;
            return false;
        }
        if self.outside_came().await {
            return true;
        }
        if self.steps_run() {
            self.await_steps().await;
            return true;
        }
        self.pass_time()
    }

    async fn record(&mut self, entry: Entry) {
        let now = self.clock.now();
        self.journal.push((entry.clone(), now));
        self.execution.feed(entry, now);
        self.settle().await;
    }

    async fn record_end(&mut self) {
        let Some(entry) = self.execution.ending(|| format!("{RUN_ID}~r2")) else { return };
        self.record(entry).await;
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Timer { operation, at } => self.timers.entry(at).or_default().push(operation),
            Effect::Dispatch(task) => self.answer(task).await,
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
                self.record(Entry::ChildEnded(ChildEnded { operation, result, failure })).await;
            }
        }
    }

    /// Has a scripted agent do a task.
    async fn answer(&mut self, task: AgentEvent<TaskAssigned>) {
        let AgentEvent { agent_type, data: TaskAssigned { task_id, parameters, attempt, .. } } =
            task;
        match self.test.answer(agent_type.as_str(), &parameters) {
            Ok(output) => {
                let data = TaskCompleted { task_id, result: TaskResult::Success, output };
                self.record(Entry::TaskCompleted(AgentEvent { agent_type, data })).await;
            }
            Err(error) => {
                let operation = task_id.run().map_or(0, |(_, operation)| operation);
                let (failure, retryable) = (error.failure.clone(), error.retryable);
                let data = TaskFailed { task_id, attempt, failure, retryable };
                self.record(Entry::TaskFailed(AgentEvent { agent_type, data })).await;
                let now = self.clock.now();
                let next = self.execution.machine().after_failure(operation, attempt, error, now);
                self.record(next).await;
            }
        }
    }

    /// Brings what is due from outside.
    async fn outside_came(&mut self) -> bool {
        let now = self.clock.now();
        let due = self.outside.first_entry().filter(|entry| *entry.key() <= now);
        let Some(due) = due.map(std::collections::btree_map::OccupiedEntry::remove) else {
            return false;
        };
        for what in due {
            let entry = match what {
                ExternalEvent::Signal(name, payload) => {
                    Entry::Signaled(Signaled { name, payload, inherited: false })
                }
                ExternalEvent::Cancel(reason) => Entry::CancelRequested(CancelRequested { reason }),
                ExternalEvent::Pause => Entry::Paused,
                ExternalEvent::Resume => Entry::Resumed,
            };
            self.record(entry).await;
        }
        true
    }

    /// Waits until the code of a step has something to be recorded, or the run can't go on.
    async fn await_steps(&mut self) {
        poll_fn(|context| {
            ready!(self.execution.poll(context));
            let machine = self.execution.machine();
            let moved = machine.has_recording() || machine.has_effects();
            drop(machine);
            match moved || self.execution.misfit().is_some() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Whether the code of a step waits for something real.
    fn steps_run(&self) -> bool {
        let machine = self.execution.machine();
        machine.active().any(|(operation, request)| {
            matches!(request, Request::Step { .. }) && machine.step_attempt(operation).is_some()
        })
    }

    /// Moves the clock to whatever comes next; `false` if nothing does.
    fn pass_time(&mut self) -> bool {
        let timer = self.timers.keys().next().copied();
        let outside = self.outside.keys().next().copied();
        let Some(next) = timer.into_iter().chain(outside).min() else { return false };
        self.clock.advance(next.duration_since(self.clock.now()));
        for operation in self.timers.remove(&next).unwrap_or_default() {
            let again = self.execution.machine().timer_due(operation, next);
            if let Some(operation) = again {
                self.execution.cell.wake_step(operation);
            }
        }
        true
    }
}

/// What is to come from outside after what a journal has of it.
fn outside(
    test: &WorkflowTest,
    journal: &[(Entry, Timestamp)],
) -> BTreeMap<Timestamp, Vec<ExternalEvent>> {
    let came = |entry: &Entry| {
        matches!(
            entry,
            Entry::Signaled(_) | Entry::CancelRequested(_) | Entry::Paused | Entry::Resumed
        )
    };
    let came = journal.iter().filter(|(entry, _)| came(entry)).count();
    let mut sorted = test.outside.clone();
    sorted.sort_by_key(|(after, _)| *after);
    let mut outside: BTreeMap<Timestamp, Vec<ExternalEvent>> = BTreeMap::new();
    for (after, what) in sorted.into_iter().skip(came) {
        outside.entry(Timestamp::UNIX_EPOCH + after).or_default().push(what);
    }
    outside
}
