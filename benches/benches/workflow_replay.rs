//! The speed of replaying a journal, on one core.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{sync::Arc, time::Instant};

use aios_agents::{
    prelude::*,
    testing::{WorkflowTest, replay},
    workflow::{FnWorkflow, Workflow},
};
use aios_benches::{median, ratio};
use serde_json::Value;

const STEPS: usize = 100_000;
const ROUNDS: usize = 5;

async fn long(context: WorkflowContext, steps: usize) -> Result<usize, WorkflowError> {
    let result = "r".repeat(200);
    for _ in 0..steps {
        let _: String =
            context.step("build", || async { Ok::<_, TaskError>(result.clone()) }).await?;
    }
    Ok(steps)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let workflow: Arc<dyn Workflow> = Arc::new(FnWorkflow::new("long", long).unwrap());
    let run = runtime.block_on(WorkflowTest::of(Arc::clone(&workflow)).run(&STEPS));
    let journal = run.events().unwrap();
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        runtime.block_on(replay(Arc::clone(&workflow), &journal)).unwrap();
        ours.push(journal.len() as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        for event in &journal {
            std::hint::black_box(event.data::<Value>().unwrap());
        }
        ceiling.push(journal.len() as f64 / begin.elapsed().as_secs_f64());
    }
    ratio("workflow_replay", median(&mut ours), median(&mut ceiling), "events/s");
}
