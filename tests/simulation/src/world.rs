//! The true state: the log, the leases and the running processes, which no part of the system sees
//! as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed, TaskId},
    event::{Event, EventId},
    store::{Append, Epoch, Lease, Shard},
};
use aios_store::memory::MemoryStore;

use crate::{
    executor::{Executor, Node},
    fleet::Fleet,
    invariant::{Invariant, Violation},
    plant::Plant,
    random::Random,
    run::RunFacts,
};

/// The rates of the random faults, per mille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// A request is slow.
    pub slow: u64,
    /// A request is refused without effect.
    pub refused: u64,
    /// The response to a completed request is lost.
    pub lost: u64,
    /// An append of an engine arrives after the engine has given the request up.
    pub late: u64,
    /// An event is published twice.
    pub doubled: u64,
    /// A task or an answer that the broker has accepted is lost.
    pub vanished: u64,
}

/// How long an engine may take to learn of a recorded event, in microseconds.
const MOMENT: u64 = 3_000_000;

/// The maximum age of an answer that lets an attempt begin, and of the knowledge of the engine that
/// gave it, in microseconds.
const ANSWER_AGE: u64 = 10_000_000;

/// A subscription: the node, and its number there.
pub type Reader = (Node, u64);

/// The state that the parts of a simulation share.
pub struct World {
    pub executor: Executor,
    pub store: MemoryStore,
    broker: Mutex<MemoryBroker>,
    pub plant: Option<Plant>,
    state: Mutex<State>,
}

/// The mutable state of the world.
pub struct State {
    pub random: Random,
    pub rates: Rates,
    /// Nodes that cannot reach the store, or the broker.
    pub without_store: BTreeSet<Node>,
    pub without_broker: BTreeSet<Node>,
    /// Counts the restarts of the broker, and the connections that it closed.
    pub broken: BTreeMap<Node, u64>,
    pub runs: BTreeMap<String, RunFacts>,
    epochs: BTreeMap<Shard, (Epoch, Node)>,
    /// Ids of the events in the log.
    recorded: BTreeSet<EventId>,
    /// Ids under which attempts were assigned.
    given: BTreeMap<(String, u32), EventId>,
    /// The subscription that received the last event of each mailbox, while it lasts.
    readers: BTreeMap<String, Reader>,
    /// Attempts that were redelivered to a node, according to the latest delivery.
    redelivered: BTreeSet<(Node, String, u32)>,
    /// Attempts whose code has begun.
    begun: BTreeSet<(String, u32)>,
    /// Attempts at steps whose code has begun.
    steps: BTreeSet<(String, u32)>,
    /// The engines and their shards, if nothing fails.
    fleet: Fleet,
    /// Whether nothing fails: engines only stop and start.
    pub is_calm: bool,
    /// Answers that were delivered and are not settled: the task and the delivery.
    held: BTreeSet<(String, Reader)>,
    pub violations: Vec<Violation>,
    trace: Vec<String>,
    digest: u64,
}

impl World {
    pub fn new(seed: u64, plant: Option<Plant>) -> Arc<Self> {
        let executor = Executor::new(seed, plant);
        let clock = executor.clock(Node::WORLD);
        let state = State {
            random: Random::new(seed, "world"),
            rates: Rates::default(),
            without_store: BTreeSet::new(),
            without_broker: BTreeSet::new(),
            broken: BTreeMap::new(),
            runs: BTreeMap::new(),
            epochs: BTreeMap::new(),
            recorded: BTreeSet::new(),
            given: BTreeMap::new(),
            readers: BTreeMap::new(),
            redelivered: BTreeSet::new(),
            begun: BTreeSet::new(),
            steps: BTreeSet::new(),
            fleet: Fleet::default(),
            is_calm: false,
            held: BTreeSet::new(),
            violations: Vec::new(),
            trace: Vec::new(),
            digest: 0,
        };
        Arc::new(Self {
            broker: Mutex::new(broker(&executor, seed)),
            executor,
            store: MemoryStore::with_clock(clock),
            plant,
            state: Mutex::new(state),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plants(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// A new connection to the broker.
    pub fn connect(&self) -> MemoryBroker {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner).new_connection()
    }

    /// Replaces the broker by one without its data.
    pub fn replace_broker(&self) {
        let seed = self.state().random.bits();
        let next = broker(&self.executor, seed);
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: impl fmt::Display) {
        let (now, node) = (self.executor.now(), self.executor.current());
        let line = format!("{:>10.6} n{:<2} {line}", seconds(now), node.0);
        let mut state = self.state();
        state.digest = line.bytes().fold(state.digest, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        state.trace.push(line);
    }

    /// Records a violation.
    pub fn violated(&self, invariant: Invariant, how: impl Into<String>) {
        let violation = Violation { invariant, how: how.into() };
        self.note(format_args!("VIOLATED {violation}"));
        self.state().violations.push(violation);
    }

    /// The trace so far, and a digest of the trace and of every choice.
    pub fn trace(&self) -> (Vec<String>, u64) {
        let state = self.state();
        (state.trace.clone(), state.digest ^ self.executor.digest().rotate_left(1))
    }

    /// The code of a step begins.
    pub fn step_began(&self, key: &str, attempt: u32) {
        self.note(format_args!("step {key} begins, attempt {attempt}"));
        let is_settled = self.with_operation(key, |operation| operation.is_settled);
        if is_settled == Some(true) {
            let how = format!("step {key} begins after its outcome was recorded");
            self.violated(Invariant::RecordedStepsRunOnce, how);
        }
        let mut state = self.state();
        let is_repeated = !state.steps.insert((key.to_owned(), attempt)) && state.is_calm;
        drop(state);
        if is_repeated {
            let how = format!("attempt {attempt} at step {key} begins a second time");
            self.violated(Invariant::MovesRepeatNoStep, how);
        }
    }

    /// The code of a task begins. An agent cannot know what is recorded, but it can ask.
    pub fn task_began(&self, task: &str, attempt: u32) {
        self.note(format_args!("task {task} begins, attempt {attempt}"));
        let Some((run_id, operation)) = split(task) else { return };
        let (node, known_by) =
            (self.executor.current(), self.executor.now().saturating_sub(ANSWER_AGE));
        let mut state = self.state();
        let is_repeated = !state.begun.insert((task.to_owned(), attempt)) && state.is_calm;
        let is_again = state.redelivered.contains(&(node, task.to_owned(), attempt));
        let ended_at = state.runs.get(run_id).and_then(|run| run.ended_at(operation, attempt));
        drop(state);
        if is_repeated {
            let how = format!("attempt {attempt} of {task} begins a second time");
            self.violated(Invariant::MovesRepeatNoTask, how);
        }
        if is_again && ended_at.is_some_and(|at| at < known_by) {
            let how = format!("attempt {attempt} of {task} begins again after it has ended");
            self.violated(Invariant::EndedAttemptsStayEnded, how);
        }
    }

    /// A task is delivered to a node.
    pub fn task_delivered(&self, node: Node, event: &Event, redelivered: bool) {
        let Ok(task) = event.data::<TaskAssigned>() else { return };
        let key = (node, task.task_id.as_str().to_owned(), task.attempt);
        let mut state = self.state();
        if redelivered {
            state.redelivered.insert(key);
        } else {
            state.redelivered.remove(&key);
        }
    }

    /// The code of a run sees an outcome.
    pub fn outcome_seen(&self, run_id: &str, operation: u64) {
        let key = format!("{run_id}/{operation}");
        if self.with_operation(&key, |operation| operation.is_settled) != Some(true) {
            let how = format!("the code sees the outcome of {key} before it is recorded");
            self.violated(Invariant::VisibleAfterCommit, how);
        }
    }

    fn with_operation<T>(
        &self,
        key: &str,
        look: impl FnOnce(&crate::run::OperationFacts) -> T,
    ) -> Option<T> {
        let (run_id, operation) = split(key)?;
        let state = self.state();
        Some(look(state.runs.get(run_id)?.operations.get(&operation)?))
    }

    /// An append is committed.
    pub fn committed(&self, append: &Append) {
        let types: Vec<&str> =
            append.events.iter().map(|event| event.event_type.action()).collect();
        self.note(format_args!("commit {}: {}", append.stream, types.join(" ")));
        let mut state = self.state();
        state.recorded.extend(append.events.iter().map(|event| event.id.clone()));
        let mut violations = Vec::new();
        if let Some(fence) = append.fence {
            let current = state.epochs.get(&fence.shard).map(|(epoch, _)| *epoch);
            if current != Some(fence.epoch) {
                let how = format!(
                    "{} was appended to under epoch {}, the shard is at {current:?}",
                    append.stream, fence.epoch
                );
                violations.push((Invariant::OneWriter, how));
            }
        }
        if let Some(run_id) = append.stream.run_id() {
            let now = self.executor.now();
            let facts = state.runs.entry(run_id.to_owned()).or_default();
            for event in &append.events {
                violations.extend(facts.apply(run_id, event, now));
            }
        }
        drop(state);
        violations.into_iter().for_each(|(invariant, how)| self.violated(invariant, how));
    }

    /// The simulation begins, in which nothing fails or something may.
    pub fn begins(&self, is_calm: bool, lease_time: Duration) {
        let mut state = self.state();
        state.is_calm = is_calm;
        state.fleet = Fleet::new(lease_time);
    }

    /// An engine begins to stop.
    pub fn leaves(&self, node: Node) {
        let now = self.executor.now();
        self.state().fleet.leaves(node, now);
    }

    /// A node released leases.
    pub fn released(&self, node: Node, leases: &[Lease]) {
        self.note(format_args!("releases {} leases", leases.len()));
        let now = self.executor.now();
        let found = self.state().fleet.released(node, leases, now);
        self.found_in_fleet(found);
    }

    fn found_in_fleet(&self, found: Option<(Invariant, String)>) {
        let is_calm = self.state().is_calm;
        if let Some((invariant, how)) = found.filter(|_| is_calm) {
            self.violated(invariant, how);
        }
    }

    /// Notes what an engine owns, and checks its share some time after it has joined.
    fn acquired(self: &Arc<Self>, node: Node, leases: &[Lease]) {
        let now = self.executor.now();
        let has_joined = self.state().fleet.acquired(node, leases, now);
        if has_joined && self.state().is_calm {
            let this = Arc::clone(self);
            let wait = self.state().fleet.two_renewals();
            self.executor.spawn(Node::WORLD, async move {
                this.executor.clock(Node::WORLD).sleep(wait).await;
                let found = this.state().fleet.check_share(node, now);
                this.found_in_fleet(found);
            });
        }
    }

    /// A node received leases.
    pub fn leased(self: &Arc<Self>, node: Node, leases: &[Lease], is_new: bool) {
        if is_new {
            self.acquired(node, leases);
        }
        let mut wrong = Vec::new();
        let mut state = self.state();
        for lease in leases {
            let known = state.epochs.get(&lease.shard).copied();
            if is_new || known.is_none() {
                state.epochs.insert(lease.shard, (lease.epoch, node));
            } else if known.is_some_and(|(epoch, owner)| epoch != lease.epoch || owner != node) {
                wrong.push(format!("node {} has shard {} of {known:?}", node.0, lease.shard));
            }
        }
        drop(state);
        wrong.into_iter().for_each(|how| self.violated(Invariant::OneOwner, how));
    }

    /// Whether the epoch of a shard is still this one.
    pub fn is_current(&self, shard: Shard, epoch: Epoch) -> bool {
        self.state().epochs.get(&shard).is_some_and(|(current, _)| *current == epoch)
    }

    /// An engine is about to assign a task.
    pub fn gives(&self, node: Node, event: &Event) {
        let Ok(task) = event.data::<TaskAssigned>() else { return };
        let Some((run_id, operation)) = task.task_id.run() else { return };
        let state = self.state();
        let owner = state.epochs.get(&Shard::of(run_id)).map(|(_, owner)| *owner);
        let facts = state.runs.get(run_id).and_then(|run| run.operations.get(&operation));
        let known_by = self.executor.now().saturating_sub(MOMENT);
        let has_ended = facts.is_some_and(|facts| {
            let has_ended = facts.is_settled || facts.ended.contains(&task.attempt);
            has_ended && facts.changed_at < known_by
        });
        drop(state);
        if has_ended && owner == Some(node) {
            let how = format!(
                "attempt {} of {} is assigned after it has ended",
                task.attempt, task.task_id
            );
            self.violated(Invariant::RecordedTasksGivenOnce, how);
        }
    }

    /// A task was assigned.
    pub fn given(&self, event: &Event) {
        let Ok(task) = event.data::<TaskAssigned>() else { return };
        let key = (task.task_id.as_str().to_owned(), task.attempt);
        let mut state = self.state();
        let known = state.given.entry(key).or_insert_with(|| event.id.clone());
        let is_other = *known != event.id;
        drop(state);
        if is_other {
            let how =
                format!("attempt {} of {} is assigned under two ids", task.attempt, task.task_id);
            self.violated(Invariant::OneDispatch, how);
        }
    }

    /// An answer was delivered.
    pub fn holds(&self, event: &Event, delivery: Reader) {
        if let Some((task, _)) = answered(event) {
            self.state().held.insert((task.as_str().to_owned(), delivery));
        }
    }

    /// The delivery of an answer is settled, or lost with its connection.
    pub fn settled(&self, event: &Event, delivery: Reader) {
        if let Some((task, _)) = answered(event) {
            self.state().held.remove(&(task.as_str().to_owned(), delivery));
        }
    }

    /// An engine acknowledges an answer, or is about to.
    pub fn acknowledged(&self, event: &Event) {
        let Some((key, attempt)) = answered(event) else { return };
        let state = self.state();
        // Another answer to it is unsettled, and is redelivered if it is not recorded.
        if state.held.iter().any(|(task, _)| task == key.as_str()) {
            return;
        }
        let Some((run_id, operation)) = key.run() else { return };
        let run = state.runs.get(run_id);
        let has_ended = run.is_none_or(|run| run.end.is_some() || run.is_to_be_cancelled);
        let facts = run.and_then(|run| run.operations.get(&operation));
        let cause = event.metadata.causation_id.as_deref();
        // The answer of an attempt that has ended otherwise; the next one may have been assigned.
        let of_other = facts.is_none_or(|facts| {
            facts.is_settled
                || attempt.is_some_and(|attempt| facts.ended.contains(&attempt))
                || facts.assigned.as_ref().is_some_and(|id| Some(id.to_string().as_str()) != cause)
        });
        let is_recorded = state.recorded.contains(&event.id);
        drop(state);
        if !is_recorded && !has_ended && !of_other {
            let how = format!("the answer to {key} is acknowledged before it is recorded");
            self.violated(Invariant::AcknowledgedAfterCommit, how);
        }
    }

    /// A subscription gets an event of a mailbox.
    pub fn reads(&self, mailbox: &str, reader: Reader) {
        let before = self.state().readers.insert(mailbox.to_owned(), reader);
        if let Some(other) = before.filter(|other| *other != reader) {
            let how = format!("nodes {} and {} both read {mailbox}", other.0.0, reader.0.0);
            self.violated(Invariant::OneReader, how);
        }
    }

    /// A subscription has ended.
    pub fn reads_no_more(&self, reader: Reader) {
        self.state().readers.retain(|_, other| *other != reader);
    }

    /// The broker has closed the connection of a node.
    pub fn disconnected(&self, node: Node) {
        let mut state = self.state();
        *state.broken.entry(node).or_default() += 1;
        state.readers.retain(|_, (other, _)| *other != node);
        state.held.retain(|(_, (other, _))| *other != node);
    }
}

/// A broker in memory.
fn broker(executor: &Executor, seed: u64) -> MemoryBroker {
    let options = aios_broker::memory::MemoryOptions::new();
    let options = options.with_clock(executor.clock(Node::WORLD)).with_seed(seed);
    MemoryBroker::connect_with(options).expect("the options are valid")
}

impl State {
    /// The duration of a request.
    pub fn latency(&mut self) -> Duration {
        match self.random.below(1000) {
            chance if chance < self.rates.slow => {
                Duration::from_millis(self.random.between(1, 1500))
            }
            chance if chance < 600 => Duration::from_micros(self.random.between(10, 3000)),
            _ => Duration::ZERO,
        }
    }
}

/// The task that an event answers, and the attempt if it has failed.
fn answered(event: &Event) -> Option<(TaskId, Option<u32>)> {
    match event.event_type.action() {
        "task_completed" => Some((event.data::<TaskCompleted>().ok()?.task_id, None)),
        "task_failed" => {
            let answer: TaskFailed = event.data().ok()?;
            Some((answer.task_id, Some(answer.attempt)))
        }
        _ => None,
    }
}

fn split(key: &str) -> Option<(&str, u64)> {
    let key = key.split_once('@').map_or(key, |(key, _)| key);
    let (run_id, operation) = key.rsplit_once('/')?;
    Some((run_id, operation.parse().ok()?))
}

#[allow(clippy::cast_precision_loss, reason = "a trace shows a magnitude")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}
