//! Commands that start or change a run.

use aios_service::client::Client;

use super::runs::result;
use crate::{
    arguments::{Cancel, Fork, Retry, RunId, Signal, Start, read_input},
    error::CliError,
    output::Output,
};

pub(super) async fn start(
    client: &Client,
    arguments: Start,
    output: &mut Output,
) -> Result<(), CliError> {
    let input = read_input("INPUT", &arguments.input).await?;
    let mut start = client.start(&arguments.workflow, &input);
    if let Some(id) = arguments.id {
        start = start.id(id);
    }
    if let Some(time) = arguments.at {
        start = start.at(time);
    }
    if let Some(delay) = arguments.after {
        start = start.after(delay.get());
    }
    if let Some(id) = arguments.correlation_id {
        start = start.correlation_id(id);
    }
    let run = start.await?;
    match arguments.wait {
        true => {
            output.note(format_args!("started {}", run.id()));
            result(client, run.id(), output).await
        }
        false => changed(client, run.id(), "started", output).await,
    }
}

pub(super) async fn signal(
    client: &Client,
    arguments: &Signal,
    output: &mut Output,
) -> Result<(), CliError> {
    let payload = read_input("PAYLOAD", &arguments.payload).await?;
    client.run(&arguments.run).signal(&arguments.name, &payload).await?;
    changed(client, &arguments.run, "signaled", output).await
}

pub(super) async fn cancel(
    client: &Client,
    arguments: &Cancel,
    output: &mut Output,
) -> Result<(), CliError> {
    client.run(&arguments.run).cancel(&arguments.reason).await?;
    changed(client, &arguments.run, "cancelled", output).await
}

pub(super) async fn pause(
    client: &Client,
    arguments: &RunId,
    output: &mut Output,
) -> Result<(), CliError> {
    client.run(&arguments.run).pause().await?;
    changed(client, &arguments.run, "paused", output).await
}

pub(super) async fn resume(
    client: &Client,
    arguments: &RunId,
    output: &mut Output,
) -> Result<(), CliError> {
    client.run(&arguments.run).resume().await?;
    changed(client, &arguments.run, "resumed", output).await
}

pub(super) async fn retry(
    client: &Client,
    arguments: &Retry,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run).retry(arguments.new_id.as_deref()).await?;
    changed(client, run.id(), "started", output).await
}

pub(super) async fn fork(
    client: &Client,
    arguments: &Fork,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run);
    let run = run.fork(arguments.operation, arguments.new_id.as_deref()).await?;
    changed(client, run.id(), "started", output).await
}

/// Writes the run as it stands, or for people what was requested.
async fn changed(
    client: &Client,
    run: &str,
    action: &str,
    output: &mut Output,
) -> Result<(), CliError> {
    if output.is_json() {
        let run = client.run(run).status().await?;
        return Ok(output.json(&run)?);
    }
    Ok(output.line(format_args!("{action} {run}"))?)
}
