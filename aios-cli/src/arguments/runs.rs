use std::{
    error::Error,
    fs,
    io::{self, Read},
};

use aios_core::{
    event::{Payload, Timestamp},
    store::RunStatus,
};
use aios_service::config::{HumanDuration, Protocol};
use clap::Args;

use super::Listed;
use crate::error::CliError;

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Only runs in one of these statuses, separated by commas: running, paused, blocked, cancelling,
    /// completed, failed, cancelled, continued.
    #[arg(long, value_delimiter = ',', value_parser = status)]
    pub(crate) status: Vec<RunStatus>,
    /// Only runs of this workflow.
    #[arg(long)]
    pub(crate) workflow: Option<String>,
    /// Include deleted runs.
    #[arg(long)]
    pub(crate) deleted: bool,
    #[command(flatten)]
    pub(crate) listed: Listed,
}

fn status(text: &str) -> Result<RunStatus, String> {
    let all = || RunStatus::ALL.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
    RunStatus::parse(text).ok_or_else(|| format!("one of {}", all()))
}

/// The run that a command is about.
#[derive(Debug, Args)]
pub(crate) struct RunId {
    /// Id of the run.
    pub(crate) run: String,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Id of the run.
    pub(crate) run: String,
    /// Wait until the run has ended, and write its result as JSON.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Arguments of `start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Name of the workflow.
    pub(crate) workflow: String,
    /// Input: JSON such as '"Ada"' or '{"name": "Ada"}', @FILE, or - for the standard input.
    #[arg(default_value = "null")]
    pub(crate) input: String,
    /// Id of the run; a new UUID by default. Starting again with the same id and input returns the
    /// existing run.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Time at which the run starts, such as 2030-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    pub(crate) at: Option<Timestamp>,
    /// Delay after which the run starts, such as 90s, 5m or 2h.
    #[arg(long, value_name = "DURATION")]
    pub(crate) after: Option<HumanDuration>,
    /// Correlation id of all events that the run causes.
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,
    /// Wait until the run has ended, and write its result as JSON.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Arguments of `signal`.
#[derive(Debug, Args)]
pub(crate) struct Signal {
    /// Id of the run.
    pub(crate) run: String,
    /// Name of the signal.
    pub(crate) name: String,
    /// Payload: JSON, @FILE, or - for the standard input.
    #[arg(default_value = "null")]
    pub(crate) payload: String,
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Id of the run.
    pub(crate) run: String,
    /// Reason, recorded in the journal.
    #[arg(long, default_value = "cancelled by an operator")]
    pub(crate) reason: String,
    /// End the run at once, without the rest of its compensations.
    #[arg(long)]
    pub(crate) terminate: bool,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Id of the failed run.
    pub(crate) run: String,
    /// Id of the new run; a new UUID by default.
    #[arg(long, value_name = "ID")]
    pub(crate) new_id: Option<String>,
}

/// Arguments of `fork`.
#[derive(Debug, Args)]
pub(crate) struct Fork {
    /// Id of the run.
    pub(crate) run: String,
    /// Number of the first operation that the new run executes itself; see `aios journal`.
    pub(crate) operation: u64,
    /// Id of the new run; a new UUID by default.
    #[arg(long, value_name = "ID")]
    pub(crate) new_id: Option<String>,
}

/// Arguments of `journal`.
#[derive(Debug, Args)]
pub(crate) struct Journal {
    /// Id of the run.
    pub(crate) run: String,
    /// Follow new events until the run has ended.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Id of the run.
    pub(crate) run: String,
    /// Send the trace by OTLP, for example to http://localhost:4318. Sending it again produces the same
    /// span ids. Headers of the settings are sent only to the server of telemetry.traces.endpoint.
    #[arg(long, value_name = "URL")]
    pub(crate) export: Option<String>,
    /// Protocol of the collector, http/protobuf or grpc. The default is telemetry.traces.protocol at the
    /// server of telemetry.traces.endpoint, and http/protobuf elsewhere.
    #[arg(long, requires = "export", value_parser = protocol)]
    pub(crate) protocol: Option<Protocol>,
}

/// Reads a protocol as the settings have it.
fn protocol(text: &str) -> Result<Protocol, String> {
    serde_json::from_value(text.into())
        .map_err(|_| format!("{text:?} is neither http/protobuf nor grpc"))
}

/// Reads an argument that is JSON, `@FILE`, or `-` for the standard input.
pub(crate) async fn read_input(argument: &'static str, text: &str) -> Result<Payload, CliError> {
    let text = match text {
        "-" => {
            let read = tokio::task::spawn_blocking(|| {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            });
            let read = read.await.map_err(|_| CliError::Interrupted)?;
            read.map_err(|source| CliError::Read { path: "the standard input".to_owned(), source })?
        }
        text => match text.strip_prefix('@') {
            Some(path) => fs::read_to_string(path)
                .map_err(|source| CliError::Read { path: path.to_owned(), source })?,
            None => text.to_owned(),
        },
    };
    json(argument, text)
}

/// Reads JSON.
fn json(argument: &'static str, text: String) -> Result<Payload, CliError> {
    let is_word = !text.trim_start().is_empty() && !text.trim_start().starts_with(['{', '[', '"']);
    Payload::from_text(text).map_err(|error| {
        // The error itself names events.
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let hint =
            if is_word { "; a string needs two pairs of quotes, as in '\"text\"'" } else { "" };
        CliError::argument(argument, format!("it is not JSON: {reason}{hint}"))
    })
}
