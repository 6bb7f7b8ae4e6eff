//! Commands that start or change a run.

use aios_service::client::{Client, Run, RunHandle};

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
        false => started(&run, output),
    }
}

pub(super) async fn signal(
    client: &Client,
    arguments: &Signal,
    output: &mut Output,
) -> Result<(), CliError> {
    let payload = read_input("PAYLOAD", &arguments.payload).await?;
    let run = client.run(&arguments.run).signal(&arguments.name, &payload).await?;
    changed(&run, "signaled", output)
}

pub(super) async fn cancel(
    client: &Client,
    arguments: &Cancel,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run);
    let run = match arguments.terminate {
        true => run.terminate(&arguments.reason).await?,
        false => run.cancel(&arguments.reason).await?,
    };
    changed(&run, "cancelled", output)
}

pub(super) async fn pause(
    client: &Client,
    arguments: &RunId,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run).pause().await?;
    changed(&run, "paused", output)
}

pub(super) async fn resume(
    client: &Client,
    arguments: &RunId,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run).resume().await?;
    changed(&run, "resumed", output)
}

pub(super) async fn retry(
    client: &Client,
    arguments: &Retry,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run).retry(arguments.new_id.as_deref()).await?;
    started(&run, output)
}

pub(super) async fn fork(
    client: &Client,
    arguments: &Fork,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run);
    let run = run.fork(arguments.operation, arguments.new_id.as_deref()).await?;
    started(&run, output)
}

/// Writes the run as the service has answered, or for people what was requested. The run is not read again:
/// the command has taken effect, whether or not the caller may read runs.
fn changed(run: &Run, action: &str, output: &mut Output) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(output.json(run)?);
    }
    Ok(output.line(format_args!("{action} {}", run.id))?)
}

/// Writes a run that was started.
fn started(handle: &RunHandle, output: &mut Output) -> Result<(), CliError> {
    match handle.started() {
        Some(run) => changed(run, "started", output),
        None => Ok(output.line(format_args!("started {}", handle.id()))?),
    }
}
