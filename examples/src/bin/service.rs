//! A service from settings: store, broker, runtime, HTTP API, health and an orderly shutdown.
//!
//! ```sh
//! export AIOS_DATABASE_URL=sqlite://service.db AIOS_BROKER_URL=memory://
//! AIOS_SHUTDOWN_ACCEPT_DELAY=5s cargo run --bin service
//!
//! curl -d '{"input": "Ada"}' -H 'content-type: application/json' \
//!     http://127.0.0.1:8080/api/v1/workflows/welcome/actions/execute
//! curl http://127.0.0.1:8080/health/ready
//! ```
//!
//! `docs/guide/pages/configuration.md` lists the variables; files in the folder `config` do the same.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::time::Duration;

use aios_agents::prelude::*;
use aios_service::{Service, config::Settings};
use axum::{Router, routing::get};

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("Hello, {name}!"))
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let greeting: String = context.task("greeter", &name).await?;
    context.sleep(Duration::from_secs(1)).await?;
    Ok(greeting)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = Service::from_settings(&Settings::load()?)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
        .routes(|_| Router::new().route("/hello", get(async || "my own route")))
        .start()
        .await?;
    println!("http://{}", service.address());
    service.stopped().await?; // until SIGTERM or Ctrl-C, and the end of requests and tasks
    println!("stopped");
    Ok(())
}
