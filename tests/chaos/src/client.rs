//! The clients, and a reader of the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::{
    Chain,
    agent::{TaskAssigned, TaskCompleted},
    catalog,
    store::RecordedEvent,
};
use tokio::time::sleep;

use crate::{
    effect::now,
    history::{History, Recorded},
    plan::{CHAIN, CHILD, Plan, SIGNAL, WORKFLOW, Work},
    random::Random,
};

/// How long to wait after a server did not answer.
const PAUSE: Duration = Duration::from_millis(250);

/// The state that the clients share.
#[derive(Debug)]
pub(crate) struct Clients {
    /// A runtime without an engine.
    pub(crate) runtime: Runtime,
    /// The observations of the clients.
    pub(crate) history: Arc<History>,
    /// Decides what the runs do.
    pub(crate) seed: u64,
    /// Number of the next run.
    pub(crate) next: AtomicU64,
    /// No further run is started.
    pub(crate) is_closing: AtomicBool,
}

/// A runtime for clients.
pub(crate) async fn runtime(store: Arc<dyn Store>) -> Result<Runtime, RuntimeError> {
    let never = |_: WorkflowContext, _: Plan| async { Ok(0_u64) };
    let never_child = |_: WorkflowContext, _: Work| async { Ok(0_u64) };
    let broker = aios_broker::connect("memory://").await.map_err(RuntimeError::from)?;
    let builder = Runtime::builder().store(store).broker(broker).source("clients");
    let never_chain = |_: WorkflowContext, _: u64| async { Ok(0_u64) };
    let builder = builder.workflow(WORKFLOW, never).workflow(CHILD, never_child);
    builder.workflow(CHAIN, never_chain).client_only().start().await
}

impl Clients {
    /// Starts runs one after the other, until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>) {
        while !self.is_closing.load(Ordering::Acquire) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (id, plan) = (format!("run-{number}"), Plan::new(self.seed, number));
            if let Err(text) = self.follow(&id, number, &plan).await {
                self.history.client(&id, &text);
                self.history.violation(Some(&id), format!("{id}: {text}"));
            }
        }
    }

    async fn follow(&self, id: &str, number: u64, plan: &Plan) -> Result<(), String> {
        self.history.started(id);
        let run = loop {
            match self.runtime.start(WORKFLOW, plan).id(id).await {
                Ok(run) => break run,
                Err(error) => self.pause(id, &error).await?,
            }
        };
        self.history.client(id, "has started it");
        let (signals, result) = tokio::join!(self.signal(&run, number, plan), run.result::<u64>());
        signals?;
        let result = result.map_err(|error| format!("it has no result: {}", Chain(&error)))?;
        if result != plan.result() {
            return Err(format!("its result is {result}, not {}", plan.result()));
        }
        self.history.completed(id);
        Ok(())
    }

    /// Sends a signal for each round.
    async fn signal(&self, run: &RunHandle, number: u64, plan: &Plan) -> Result<(), String> {
        let mut random = Random::new(self.seed ^ 1, number);
        for _ in 0..=plan.rounds {
            sleep(Duration::from_millis(random.between(0, 4_000))).await;
            loop {
                match run.signal(SIGNAL, &()).await {
                    Ok(()) => break,
                    // A signal that seemed to be lost was stored.
                    Err(RuntimeError::RunEnded { .. }) => return Ok(()),
                    Err(error) => self.pause(run.id(), &error).await?,
                }
            }
            self.history.client(run.id(), "has sent the signal");
        }
        Ok(())
    }

    /// Waits if the error is retryable.
    async fn pause(&self, id: &str, error: &RuntimeError) -> Result<(), String> {
        let text = format!("{}: {}", error.code(), Chain(error));
        if !matches!(error, RuntimeError::Store(error) if error.is_retryable()) {
            return Err(text);
        }
        self.history.client(id, text);
        sleep(PAUSE).await;
        Ok(())
    }
}

/// Reads the log, and records which results are in it.
pub(crate) async fn read_log(store: Arc<dyn Store>, history: Arc<History>) {
    let mut position = 0;
    loop {
        let page = match store.wait_for(position).await {
            Ok(_) => store.read_log(position, 1000).await,
            Err(error) => Err(error),
        };
        let Ok(page) = page else {
            sleep(PAUSE).await;
            continue;
        };
        position = page.last().map_or(position, |last| last.position);
        for recorded in &page {
            // Events that do not have the form of a run's event are skipped.
            let _ = note(recorded, &history);
        }
    }
}

/// Records that a task is assigned, or that a step or a task has a result.
fn note(recorded: &RecordedEvent, history: &History) -> Option<()> {
    let run_id = recorded.stream.run_id()?;
    let event = &recorded.event;
    if catalog::kind_of(&event.event_type).is_some_and(|kind| kind.relayed) {
        history.logged(run_id, &event.id.to_string());
    }
    let result = |cause: Option<&Arc<str>>| Recorded {
        at: now(),
        event: event.id.to_string(),
        cause: cause.map(ToString::to_string),
    };
    match event.event_type.as_str().rsplit('.').next()? {
        "step_completed" => {
            let data: serde_json::Value = event.data().ok()?;
            history.recorded(&format!("{run_id}/{}", data.get("name")?.as_str()?), result(None));
        }
        "task_assigned" => {
            history.assigned(event.data::<TaskAssigned>().ok()?.task_id.as_str());
        }
        "task_completed" => {
            let cause = event.metadata.causation_id.as_ref();
            let task = event.data::<TaskCompleted>().ok()?;
            history.recorded(task.task_id.as_str(), result(cause));
        }
        _ => {}
    }
    Some(())
}
