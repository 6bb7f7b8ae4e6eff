//! A custom broker: a wrapper that counts the events of any broker.
//!
//! `metered.rs` is the adapter; `conformance.rs` runs the suite that every broker passes.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

#[cfg(test)]
mod conformance;
mod metered;

use std::sync::Arc;

use aios_agents::prelude::*;

use self::metered::MeteredBroker;

struct Upper;

impl Agent for Upper {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
        Ok(text.to_uppercase())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = MeteredBroker::new(aios_broker::connect("memory://").await?);
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await?)
        .broker(Arc::new(broker.clone()))
        .agent("upper", Upper)
        .start()
        .await?;
    for text in ["a", "b", "c"] {
        println!("{}", runtime.task("upper", text).await?.result::<String>().await?);
    }
    let assigned = broker.counts().get("agents.upper.task_assigned").copied();
    println!("{} tasks published", assigned.unwrap_or_default());
    Ok(())
}
