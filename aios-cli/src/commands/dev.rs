//! A service for development.

use aios_agents::{prelude::*, workflow::WorkflowContext};
use aios_service::{
    RunningService, Service,
    config::{Settings, SettingsError},
};
use serde_json::json;

use crate::{
    arguments::{Connection, Dev},
    error::CliError,
    output::Output,
    program::interrupted,
};

/// The store unless the settings name one.
const STORE: &str = "sqlite://aios.db";
/// The address at which the other commands expect a service.
const LISTEN: &str = "127.0.0.1:8080";
/// The workflows of the service.
const WORKFLOWS: [&str; 2] = ["welcome", "approval"];

/// Serves until a signal ends it. A second one ends it without waiting for tasks.
pub(super) async fn serve(
    connection: &Connection,
    arguments: &Dev,
    output: &mut Output,
) -> Result<(), CliError> {
    if connection.url.is_some() {
        let reason = "`dev` is a service itself; set its address with --listen";
        return Err(CliError::argument("--url", reason));
    }
    let settings = settings(connection, arguments)?;
    let service = Service::from_settings(&settings)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
        .workflow("approval", approval)
        .start()
        .await?;
    introduce(&service, &settings, output)?;
    output.flush()?;
    let shutdown = service.shutdown().clone();
    let stopped = service.stopped();
    tokio::pin!(stopped);
    tokio::select! {
        biased;
        ended = &mut stopped => return Ok(ended?),
        () = shutdown.begun() => output.note("stopping; Ctrl-C again ends it at once"),
    }
    tokio::select! {
        biased;
        ended = &mut stopped => Ok(ended?),
        // Signals that cannot be awaited leave the first shutdown in effect.
        Ok(signal) = async { Ok::<_, std::io::Error>(interrupted()?.await) } => Err(signal),
    }
}

fn settings(connection: &Connection, arguments: &Dev) -> Result<Settings, SettingsError> {
    let mut builder = Settings::builder()
        .other_sections()
        .default_value("database.url", STORE)
        .default_value("broker.url", "memory://")
        .default_value("http.listen", LISTEN)
        .default_value("log.level", "warn");
    let values = [
        ("database.url", &connection.store),
        ("broker.url", &connection.broker),
        ("http.listen", &arguments.listen),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            builder = builder.value(key, value.clone());
        }
    }
    builder.load()
}

fn introduce(
    service: &RunningService,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = format!("http://{}", service.address());
    // Entries have no passwords.
    let entry = |key: &str| {
        let entry = settings.entries().iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.clone()).unwrap_or_default()
    };
    let store = entry("database.url");
    let broker = entry("broker.url");
    if output.is_json() {
        let api = format!("{url}/api/v1");
        let started =
            json!({ "url": api, "store": store, "broker": broker, "workflows": WORKFLOWS });
        return Ok(output.json(&started)?);
    }
    let option = match url == format!("http://{LISTEN}") {
        true => String::new(),
        false => format!("--url {url}/api/v1 "),
    };
    output.line(format_args!(
        "aios {version} serves {url}/api/v1 (store {store}, broker {broker})

Start a run:
  curl -H 'content-type: application/json' -d '{{\"input\": \"Ada\"}}' \\
      {url}/api/v1/workflows/welcome/actions/execute
  aios {option}start approval '\"release 1.2\"' --id release-1.2
Answer it:
  aios {option}signal release-1.2 approval true
List runs:
  aios {option}runs

Ctrl-C stops the service. The runs are kept in the store.",
        version = env!("CARGO_PKG_VERSION"),
    ))?;
    Ok(())
}

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        match name.is_empty() {
            true => Err(TaskError::terminal(Failure::new("NO_NAME", "the name is empty"))),
            false => Ok(format!("Hello, {name}!")),
        }
    }
}

/// Has an agent greet someone.
async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.task("greeter", &name).await
}

/// Waits for the signal `approval` with true or false.
async fn approval(context: WorkflowContext, subject: String) -> Result<String, WorkflowError> {
    context.set_status(format!("{subject} waits for an approval"));
    let is_approved: bool = context.signal("approval").await?;
    let answer = if is_approved { "approved" } else { "refused" };
    context.run("answer", || async { format!("{subject} is {answer}") }).await
}
