//! One agent, one workflow, one file as the store, and no server.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use aios_agents::prelude::*;

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("Hello, {name}!"))
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let greeting: String = context.task("greeter", &name).await?; // survives any crash from here on
    context.run("shout", || async { greeting.to_uppercase() }).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder()
        .store(aios_store::connect("sqlite://hello.db").await?)
        .broker(aios_broker::connect("memory://").await?)
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
        .start()
        .await?;
    let run = runtime.start("welcome", "Ada").id("welcome-ada").await?;
    println!("{}", run.result::<String>().await?);
    Ok(())
}
