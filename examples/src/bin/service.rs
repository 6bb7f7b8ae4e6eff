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
//! `--health` asks the service that runs at the same address whether it is ready, and `--migrate` only
//! applies the migrations of the store. `AIOS_PROCESS_ROLES` selects parts of the service. `deploy/`
//! has containers of this program.
//!
//! `docs/guide/pages/configuration.md` lists the variables; files in the folder `config` do the same.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{sync::Arc, time::Duration};

use aios_agents::{prelude::*, workflow::FnWorkflow};
use aios_service::{
    Service,
    auth::{ApiKey, ApiKeys, Permissions},
    check_health,
    config::{Secret, Settings},
};
use axum::{Router, routing::get};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The section `access`: a section of the program itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
struct Access {
    /// The SHA-256 of a key of the API: `AIOS_ACCESS_KEY_HASH`. Without one, only callers on this
    /// machine are admitted.
    key_hash: Option<Secret>,
}

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

/// Applies the migrations of the schema, as every process with a store does when it starts.
async fn migrate(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    let url = settings.database().url.as_ref().ok_or("set AIOS_DATABASE_URL")?;
    aios_store::connect(url.expose()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::builder().section::<Access>("access").load()?;
    match std::env::args().nth(1).as_deref() {
        Some("--health") => return Ok(check_health(&settings).await?),
        Some("--migrate") => return migrate(&settings).await,
        _ => {}
    }
    // With the schemas of its input and result, which the OpenAPI document shows.
    let workflow = Arc::new(FnWorkflow::new("welcome", welcome)?.with_schemas());
    let mut service = Service::from_settings(&settings)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .agent("greeter", Greeter)
        .workflow_dyn(workflow)
        .routes(|_| Router::new().route("/hello", get(async || "my own route")));
    if let Some(hash) = settings.section::<Access>("access").and_then(|it| it.key_hash.as_ref()) {
        let key = ApiKey::new(hash.expose().parse()?, "operator");
        service = service.authenticator(ApiKeys::new([key.with_permissions(Permissions::all())]));
    }
    let service = service.start().await?;
    println!("http://{}", service.address());
    service.stopped().await?; // until SIGTERM or Ctrl-C, and the end of requests and tasks
    println!("stopped");
    Ok(())
}
