//! Agents in another process, over RabbitMQ.
//!
//!     cargo run --bin rabbitmq -- agent amqp://…                    as often as you like
//!     cargo run --bin rabbitmq -- run amqp://… sqlite://runs.db     advances the run
//!
//! An agent process needs the broker and no store. If it is killed, its tasks go to another one.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::time::Duration;

use aios_agents::{agent::AgentDefinition, prelude::*};

struct Upper;

impl Agent for Upper {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
        Ok(text.to_uppercase())
    }
}

async fn shout(context: WorkflowContext, words: Vec<String>) -> Result<String, WorkflowError> {
    let tasks = words.iter().map(|word| {
        // The timeout applies to each attempt; a task that is lost is assigned again.
        context.task::<String>("upper", word).timeout(Duration::from_secs(30))
    });
    Ok(futures_util::future::try_join_all(tasks).await?.join(" "))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: rabbitmq agent BROKER, or rabbitmq run BROKER STORE";
    let role = std::env::args().nth(1).ok_or(usage)?;
    let broker = aios_broker::connect(&std::env::args().nth(2).ok_or(usage)?).await?;
    match role.as_str() {
        "agent" => {
            let agents = AgentDefinition::instance("upper", Upper).with_concurrency(8);
            let runtime = Runtime::builder().broker(broker).agents(agents).start().await?;
            println!("ready");
            tokio::signal::ctrl_c().await?;
            runtime.shutdown(Duration::from_secs(5)).await?;
        }
        "run" => {
            let store = aios_store::connect(&std::env::args().nth(3).ok_or(usage)?).await?;
            let runtime = Runtime::builder()
                .store(store)
                .broker(broker)
                .workflow("shout", shout)
                .start()
                .await?;
            let run = runtime.start("shout", &["hello", "from", "afar"]).await?;
            println!("{}", run.result::<String>().await?);
            runtime.shutdown(Duration::from_secs(5)).await?;
        }
        _ => return Err(usage.into()),
    }
    Ok(())
}
