//! A custom layer around agents, and the built-in ones.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::AgentDefinition,
    middleware::{ConcurrencyLimit, Middleware, Timeout},
    prelude::*,
};
use aios_core::clock::{Clock, SystemClock};

/// Refuses tasks once a budget is spent. Clones share it, and so do all agents of the definition.
#[derive(Clone)]
struct Budget {
    left: Arc<AtomicU64>,
}

impl Middleware for Budget {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let cost = parameters.as_str().len() as u64;
        let spent = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost));
        if spent.is_err() {
            // Another attempt would not help, so the failure is terminal.
            return Err(Failure::new("BUDGET_SPENT", "the budget is spent")).terminal();
        }
        agent.process_task(context, parameters).await
    }
}

struct Echo;

impl Agent for Echo {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
        Ok(text)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // The first layer is the outermost: a task that is over budget does not occupy a slot of the
    // limit.
    let agents = AgentDefinition::instance("echo", Echo)
        .with_layer(Budget { left: Arc::new(AtomicU64::new(16)) })
        .with_layer(ConcurrencyLimit::new(4))
        .with_layer(Timeout::new(clock, Duration::from_secs(10)));
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await?)
        .broker(aios_broker::connect("memory://").await?)
        .agents(agents)
        .start()
        .await?;
    for text in ["ten bytes", "too much"] {
        match runtime.task("echo", text).await?.result::<String>().await {
            Ok(text) => println!("{text}"),
            Err(error) => match error.failure() {
                Some(failure) => println!("{}", failure.code),
                None => return Err(error.into()),
            },
        }
    }
    Ok(())
}
