//! How the time of a run grows with the number of operations that it awaits together: 4,000 parts
//! beside four times 1,000.
//!
//! `cargo bench --bench workflow_gather -- tasks 4000` runs one kind once, for a profiler.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{sync::Arc, time::Instant};

use aios_agents::prelude::*;
use aios_benches::{median, ratio};
use aios_broker::memory::MemoryBroker;
use aios_store::memory::MemoryStore;
use futures_util::future::try_join_all;

const PARTS: usize = 1_000;
/// How many times the parts of the larger run are those of the smaller one.
const FACTOR: usize = 4;
const ROUNDS: usize = 5;
const KINDS: [&str; 3] = ["steps", "tasks", "children"];

struct Square;

impl Agent for Square {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, number: u64) -> Result<u64, TaskError> {
        Ok(number * number)
    }
}

async fn child(_: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    Ok(number * number)
}

async fn steps(context: WorkflowContext, parts: u64) -> Result<u64, WorkflowError> {
    let square = |number: u64| {
        context.step("square", move || async move { Ok::<u64, TaskError>(number * number) })
    };
    Ok(try_join_all((0..parts).map(square)).await?.into_iter().sum())
}

async fn tasks(context: WorkflowContext, parts: u64) -> Result<u64, WorkflowError> {
    let square = |number: u64| context.task::<u64>("square", &number);
    Ok(try_join_all((0..parts).map(square)).await?.into_iter().sum())
}

async fn children(context: WorkflowContext, parts: u64) -> Result<u64, WorkflowError> {
    let square = |number: u64| context.child::<u64>("child", &number);
    Ok(try_join_all((0..parts).map(square)).await?.into_iter().sum())
}

/// Milliseconds of one run.
async fn run(kind: &str, parts: usize) -> f64 {
    let runtime = Runtime::builder()
        .store(Arc::new(MemoryStore::new()))
        .broker(Arc::new(MemoryBroker::new()))
        .agent("square", Square)
        .workflow("child", child)
        .workflow("steps", steps)
        .workflow("tasks", tasks)
        .workflow("children", children)
        .start()
        .await
        .unwrap();
    let begin = Instant::now();
    let run = runtime.start(kind, &parts).await.unwrap();
    run.result::<u64>().await.unwrap();
    let elapsed = begin.elapsed();
    runtime.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
    elapsed.as_secs_f64() * 1e3
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    if let [kind, parts] = &*arguments {
        let elapsed = runtime.block_on(run(kind, parts.parse().unwrap()));
        return println!("{kind} {parts}: {elapsed:.1} ms");
    }
    for kind in KINDS {
        let (mut many, mut few) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            few.push(runtime.block_on(run(kind, PARTS)));
            many.push(runtime.block_on(run(kind, PARTS * FACTOR)));
        }
        ratio(&format!("workflow_gather/{kind}"), median(&mut many), median(&mut few), "ms");
    }
}
