//! Chooses the task that is polled next, and advances the time when there is none.

mod clock;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aios_core::{
    clock::Clock,
    simulation::{Simulation, Turns},
};
use uuid::Uuid;

pub use self::clock::timestamp;
use self::clock::{NodeClock, micros};
use crate::{plant::Plant, random::Random};

/// A process, from its start to its end. A restarted process is another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(pub u32);

impl Node {
    /// Everything outside the system under test: the faults, and the time of the store and the
    /// broker.
    pub const WORLD: Self = Self(0);
}

/// The largest number of polls between two moments at which no task is ready.
const BUSY: u64 = 100_000;
/// The longest duration of a poll, in microseconds.
const POLL: u64 = 60;

/// A single-threaded executor on top of tokio's: tokio only polls the task whose turn it is.
#[derive(Clone)]
pub struct Executor(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
}

struct State {
    choices: Random,
    ids: Random,
    chances: Random,
    now: u64,
    next: u64,
    tasks: BTreeMap<u64, Task>,
    /// Tasks that were woken. Sorted, because some of tokio's primitives wake in random order.
    ready: BTreeSet<u64>,
    sleepers: BTreeMap<(u64, u64), (Node, Waker)>,
    nodes: BTreeMap<Node, NodeState>,
    current: Node,
    /// Wakes the loop when the task whose turn it was has been polled.
    main: Option<Waker>,
    was_polled: bool,
    polls: u64,
    /// Polls since no task was ready.
    busy: u64,
    digest: u64,
    plant: Option<Plant>,
}

struct Task {
    node: Node,
    /// The waker of the task in tokio.
    tokio: Option<Waker>,
    has_turn: bool,
    is_queued: bool,
}

#[derive(Default)]
struct NodeState {
    /// The offset of its clock, in microseconds.
    offset: i64,
    is_paused: bool,
    is_dead: bool,
    /// Tasks that were woken while it was paused.
    parked: Vec<u64>,
}

/// Why a run of the executor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The awaited condition holds.
    Done,
    /// No task is ready, and no timer is set.
    Stalled,
    /// The time limit passed, by the virtual clock.
    Late,
    /// Tasks are polled without end.
    Busy,
}

impl Executor {
    /// An executor that chooses by a seed, and may lose wake-ups or repeat them.
    pub fn new(seed: u64, plant: Option<Plant>) -> Self {
        let state = State {
            choices: Random::new(seed, "choices"),
            ids: Random::new(seed, "ids"),
            chances: Random::new(seed, "chances"),
            now: 0,
            next: 1,
            tasks: BTreeMap::new(),
            ready: BTreeSet::new(),
            sleepers: BTreeMap::new(),
            nodes: BTreeMap::from([(Node::WORLD, NodeState::default())]),
            current: Node::WORLD,
            main: None,
            was_polled: false,
            polls: 0,
            busy: 0,
            digest: 0,
            plant,
        };
        Self(Arc::new(Shared { state: Mutex::new(state) }))
    }

    /// The hooks that the crates under test find on this thread.
    pub fn simulation(&self, plants: BTreeSet<&'static str>) -> Arc<dyn Simulation> {
        Arc::new(Seam { executor: self.clone(), plants })
    }

    /// Begins a node.
    pub fn begin(&self) -> Node {
        let mut state = self.0.state();
        let node = Node(u32::try_from(state.nodes.len()).unwrap_or(u32::MAX));
        state.nodes.insert(node, NodeState::default());
        node
    }

    /// Spawns a task of a node.
    pub fn spawn(&self, node: Node, task: impl Future<Output = ()> + Send + 'static) {
        let (mut task, mut turns) = (Box::pin(task), self.admit(node));
        tokio::spawn(poll_fn(move |context| {
            turns.poll(context, &mut |context| task.as_mut().poll(context))
        }));
    }

    fn admit(&self, node: Node) -> Turn {
        let mut state = self.0.state();
        let task = state.number();
        let new = Task { node, tokio: None, has_turn: false, is_queued: false };
        state.tasks.insert(task, new);
        Turn { task, shared: Arc::clone(&self.0) }
    }

    /// The clock of a node.
    pub fn clock(&self, node: Node) -> Arc<dyn Clock> {
        Arc::new(NodeClock { node, shared: Arc::clone(&self.0) })
    }

    /// Stops polling the tasks of a node. They are not dropped either, because their destructors
    /// would run.
    pub fn kill(&self, node: Node) {
        let mut state = self.0.state();
        if let Some(it) = state.nodes.get_mut(&node) {
            it.is_dead = true;
        }
        state.sleepers.retain(|_, (sleeper, _)| *sleeper != node);
    }

    /// Stops polling the tasks of a node until it is resumed.
    pub fn pause(&self, node: Node) {
        if let Some(it) = self.0.state().nodes.get_mut(&node) {
            it.is_paused = true;
        }
    }

    /// Polls the tasks again that were woken during the pause.
    pub fn resume(&self, node: Node) {
        let mut state = self.0.state();
        let Some(it) = state.nodes.get_mut(&node) else { return };
        it.is_paused = false;
        let parked = std::mem::take(&mut it.parked);
        state.ready.extend(parked);
    }

    /// The clock of a node jumps.
    pub fn shift(&self, node: Node, offset: i64) {
        let mut state = self.0.state();
        if let Some(it) = state.nodes.get_mut(&node) {
            it.offset = offset;
        }
        // Its sleeping tasks compute their remaining time again.
        let (jumped, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut state.sleepers).into_iter().partition(|(_, it)| it.0 == node);
        state.sleepers = others;
        drop(state);
        jumped.into_values().for_each(|(_, waker)| waker.wake());
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.0.state().now
    }

    /// The node whose task is being polled.
    pub fn current(&self) -> Node {
        self.0.state().current
    }

    /// The number of polls so far.
    pub fn polls(&self) -> u64 {
        self.0.state().polls
    }

    /// A number that depends on every choice that was made.
    pub fn digest(&self) -> u64 {
        self.0.state().digest
    }

    /// Polls tasks until a condition holds, a time has passed, or the number of polls is reached.
    pub async fn run(
        &self,
        mut is_done: impl FnMut() -> bool,
        until: Duration,
        polls: u64,
    ) -> Stop {
        let until = micros(until);
        loop {
            if is_done() {
                return Stop::Done;
            }
            let mut next = self.0.state().choose();
            if next.is_none() {
                // Tokio polls new tasks, and wakes those that have yielded.
                tokio::task::yield_now().await;
                next = self.0.state().choose();
            }
            match next {
                Some(tokio) => {
                    tokio.wake();
                    poll_fn(|context| self.0.poll_main(context)).await;
                }
                None => {
                    let mut state = self.0.state();
                    match state.next_time() {
                        None => return Stop::Stalled,
                        Some(at) if at > until => return Stop::Late,
                        Some(at) => state.now = at,
                    }
                    state.busy = 0;
                }
            }
            let due = self.0.state().due();
            due.into_iter().for_each(Waker::wake);
            let state = self.0.state();
            if state.now > until {
                return Stop::Late;
            }
            if state.polls > polls || state.busy > BUSY {
                return Stop::Busy;
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the chosen task has been polled.
    fn poll_main(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.was_polled) {
            return Poll::Ready(());
        }
        state.main = Some(context.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Gives a turn to one of the tasks that were woken.
    fn choose(&mut self) -> Option<Waker> {
        while !self.ready.is_empty() {
            let place = self.choices.index(self.ready.len());
            let Some(number) = self.ready.iter().nth(place).copied() else { break };
            self.ready.remove(&number);
            let Some(task) = self.tasks.get_mut(&number) else { continue };
            let Some(node) = self.nodes.get_mut(&task.node) else { continue };
            if node.is_dead {
                continue;
            }
            if node.is_paused {
                node.parked.push(number);
                continue;
            }
            let Some(tokio) = task.tokio.clone() else { continue };
            (task.has_turn, task.is_queued) = (true, false);
            self.now += self.choices.below(POLL);
            self.polls += 1;
            self.busy += 1;
            self.digest = (self.digest ^ number ^ self.now).wrapping_mul(0x0000_0100_0000_01b3);
            return Some(tokio);
        }
        None
    }

    fn next_time(&self) -> Option<u64> {
        self.sleepers.keys().next().map(|(at, _)| (*at).max(self.now))
    }

    fn due(&mut self) -> Vec<Waker> {
        let later = self.sleepers.split_off(&(self.now, u64::MAX));
        let due = std::mem::replace(&mut self.sleepers, later);
        due.into_values().map(|(_, waker)| waker).collect()
    }

    /// Whether a wake-up of a process is lost: a planted fault.
    fn loses_wake(&mut self, number: u64) -> bool {
        let is_of_process = self.tasks.get(&number).is_some_and(|task| task.node != Node::WORLD);
        self.plant == Some(Plant::LostWakeUp) && is_of_process && self.choices.per_mille(5)
    }

    /// Whether a task wakes itself whenever it is polled: a planted fault.
    fn spins(&self, number: u64) -> bool {
        let is_of_process = self.tasks.get(&number).is_some_and(|task| task.node != Node::WORLD);
        self.plant == Some(Plant::SpinningTask) && is_of_process && number.is_multiple_of(16)
    }

    fn enqueue(&mut self, number: u64) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        if !std::mem::replace(&mut task.is_queued, true) {
            self.ready.insert(number);
        }
    }
}

struct TaskWaker {
    task: u64,
    shared: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.state();
        if !state.loses_wake(self.task) {
            state.enqueue(self.task);
        }
    }
}

struct Turn {
    task: u64,
    shared: Arc<Shared>,
}

impl Turns for Turn {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<()> {
        let mut state = self.shared.state();
        let Some(task) = state.tasks.get_mut(&self.task) else { return Poll::Pending };
        let is_new = task.tokio.is_none();
        task.tokio = Some(context.waker().clone());
        if !std::mem::take(&mut task.has_turn) {
            if is_new {
                state.enqueue(self.task);
            }
            return Poll::Pending;
        }
        let node = task.node;
        let _polling =
            Polling { shared: &self.shared, before: std::mem::replace(&mut state.current, node) };
        drop(state);
        let waker = TaskWaker { task: self.task, shared: Arc::downgrade(&self.shared) };
        let polled = poll(&mut Context::from_waker(&Waker::from(Arc::new(waker))));
        let mut state = self.shared.state();
        if state.spins(self.task) {
            state.enqueue(self.task);
        }
        polled
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let task = self.shared.state().tasks.remove(&self.task);
        if task.is_some_and(|task| task.has_turn) {
            self.shared.was_polled();
        }
    }
}

/// The turn of a task, which ends with the poll, even if the poll panics.
struct Polling<'a> {
    shared: &'a Arc<Shared>,
    before: Node,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.shared.state().current = self.before;
        self.shared.was_polled();
    }
}

impl Shared {
    fn was_polled(&self) {
        let mut state = self.state();
        state.was_polled = true;
        let main = state.main.take();
        drop(state);
        if let Some(main) = main {
            main.wake();
        }
    }
}

struct Seam {
    executor: Executor,
    plants: BTreeSet<&'static str>,
}

impl Simulation for Seam {
    /// A `UUIDv7` of the virtual time.
    fn id(&self) -> Uuid {
        let mut state = self.executor.0.state();
        let millis = u128::from(timestamp(state.now).as_micros().unsigned_abs() / 1000);
        let (high, low) = (u128::from(state.ids.bits()) & 0xfff, u128::from(state.ids.bits()) >> 2);
        Uuid::from_u128((millis << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)
    }

    fn chance(&self) -> f64 {
        self.executor.0.state().chances.fraction()
    }

    fn admit(&self) -> Box<dyn Turns> {
        Box::new(self.executor.admit(self.executor.current()))
    }

    fn plants(&self, fault: &str) -> bool {
        self.plants.contains(fault)
    }
}
