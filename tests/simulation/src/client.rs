//! Clients: start runs, send signals, cancel, and wait for results.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_agents::{RunError, RunHandle, Runtime, RuntimeError};
use aios_core::clock::Clock;

use crate::{
    broker::NodeBroker,
    executor::Node,
    perform::{Performer, WORKFLOW},
    program::{Program, value_of_signal},
    scenario::Scenario,
    store::NodeStore,
    world::World,
};

/// How long a client waits before it retries.
const PAUSE: Duration = Duration::from_millis(500);

/// How a run ended from the perspective of its client.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Result(Vec<i64>),
    Failed(String),
    Cancelled,
}

/// The clients of a simulation.
pub struct Clients {
    ends: Arc<Mutex<BTreeMap<usize, End>>>,
    count: usize,
}

impl Clients {
    pub fn start(scenario: &Scenario, world: &Arc<World>) -> Self {
        let ends = Arc::default();
        let count = scenario.programs.len();
        let node = world.executor.begin();
        let clients = Self { ends: Arc::clone(&ends), count };
        let (scenario, world) = (scenario.clone(), Arc::clone(world));
        let executor = world.executor.clone();
        executor.spawn(node, async move {
            let clock = world.executor.clock(node);
            let runtime = Arc::new(connect(&world, node, &clock).await);
            for (number, program) in scenario.programs.into_iter().enumerate() {
                let cancelled = scenario.cancelled.iter().find(|(run, _)| *run == number);
                let client = Client {
                    world: Arc::clone(&world),
                    runtime: Arc::clone(&runtime),
                    clock: Arc::clone(&clock),
                    ends: Arc::clone(&ends),
                    number,
                };
                let cancel_after = cancelled.map(|(_, after)| *after);
                world.executor.spawn(node, client.run(program, cancel_after));
            }
        });
        clients
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<usize, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn are_done(&self) -> bool {
        self.ends().len() == self.count
    }

    pub fn end(&self, number: usize) -> Option<End> {
        self.ends().get(&number).cloned()
    }

    /// The runs that have not ended, and their current state.
    pub fn waiting(&self, world: &World) -> String {
        let ends = self.ends();
        let state = world.state();
        let waiting = (0..self.count).filter(|number| !ends.contains_key(number));
        let waiting = waiting.map(|number| {
            let facts = state.runs.get(&run_id(number)).map(|facts| {
                let open = facts.operations.iter().filter(|(_, it)| !it.is_settled);
                let open: Vec<_> = open.map(|(operation, _)| operation).collect();
                format!(
                    "end {:?}, blocked {}, open {open:?}",
                    facts.end.as_ref().map(|end| end.event_type.to_string()),
                    facts.is_blocked
                )
            });
            format!("{} ({})", run_id(number), facts.unwrap_or_else(|| "unknown".to_owned()))
        });
        format!("these runs have not ended: {}", waiting.collect::<Vec<_>>().join(", "))
    }
}

/// The id of a run.
pub fn run_id(number: usize) -> String {
    format!("r{number}")
}

async fn connect(world: &Arc<World>, node: Node, clock: &Arc<dyn Clock>) -> Runtime {
    loop {
        let performer = Performer { world: None, clock: Arc::clone(clock) };
        let runtime = Runtime::builder()
            .store(Arc::new(NodeStore::new(world, node)))
            .broker(Arc::new(NodeBroker::new(world, node)))
            .clock(Arc::clone(clock))
            .source("client")
            .workflow(WORKFLOW, move |context, program| performer.clone().run(context, program))
            .client_only()
            .start()
            .await;
        match runtime {
            Ok(runtime) => return runtime,
            Err(error) => world.note(format_args!("a client could not start: {error}")),
        }
        clock.sleep(PAUSE).await;
    }
}

struct Client {
    world: Arc<World>,
    runtime: Arc<Runtime>,
    clock: Arc<dyn Clock>,
    ends: Arc<Mutex<BTreeMap<usize, End>>>,
    number: usize,
}

impl Client {
    async fn run(self, program: Program, cancel_after: Option<u64>) {
        let run = self.start(&program).await;
        for name in program.signals() {
            let value = value_of_signal(&name);
            self.repeat(|| run.signal(&name, &value)).await;
        }
        if let Some(after) = cancel_after {
            self.clock.sleep(Duration::from_millis(after)).await;
            self.repeat(|| run.cancel("enough")).await;
        }
        let end = self.end(&run).await;
        self.world.note(format_args!("{} has ended: {end:?}", run.id()));
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, end);
    }

    async fn start(&self, program: &Program) -> RunHandle {
        loop {
            let start = self.runtime.start(WORKFLOW, program).id(run_id(self.number));
            match start.await {
                Ok(run) => return run,
                Err(error) => self.failed("start", &error),
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    /// Retries until it succeeds, or the run has ended.
    async fn repeat<F: Future<Output = Result<(), RuntimeError>>>(&self, call: impl Fn() -> F) {
        loop {
            match call().await {
                Ok(()) | Err(RuntimeError::RunEnded { .. }) => return,
                Err(error) => self.failed("call", &error),
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn end(&self, run: &RunHandle) -> End {
        loop {
            match run.result::<Vec<i64>>().await {
                Ok(values) => return End::Result(values),
                Err(RunError::Failed { failure, .. }) => return End::Failed(failure.code),
                Err(RunError::Cancelled { .. }) => return End::Cancelled,
                Err(error) => self.failed("result", &error),
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    fn failed(&self, call: &str, error: &(dyn std::error::Error + 'static)) {
        let chain = aios_core::Chain(error);
        self.world.note(format_args!("{call} of {}: {chain}", run_id(self.number)));
    }
}
