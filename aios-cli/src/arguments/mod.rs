//! The arguments of the program. Their comments are the text of `--help`.

mod operations;
mod runs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::{
    operations::{
        Agents, Backup, Chosen, Config, Consent, DeadLetters, Events, Folder, Of, Readers, Retain,
        Retire, Tasks, Verify,
    },
    runs::{Cancel, Fork, Journal, Retry, Run, RunId, Runs, Signal, Start, Trace, read_input},
};
use crate::exit;

/// Starts, follows and repairs durable runs, and maintains what they are stored in.
///
/// Commands work over the HTTP API of a service, or directly on a store; migrate, rebuild, readers, retain,
/// backup and verify need a store. Without --url and --store, a command uses AIOS_API_URL or the key
/// api.url of the files in the folder `config`, then AIOS_DATABASE_URL or database.url, then
/// http://127.0.0.1:8080/api/v1, where `aios dev` serves.
#[derive(Debug, Parser)]
#[command(name = "aios", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,

    /// Write JSON: one object a line, errors as {"error": {"code", "message", "remedy"}}.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the command works.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Connection {
    /// URL of the HTTP API, up to and including /api/v1. Credentials are AIOS_API_TOKEN or AIOS_API_KEY, or
    /// files named by AIOS_API_TOKEN_FILE or AIOS_API_KEY_FILE.
    #[arg(long, global = true, value_name = "URL", conflicts_with = "store")]
    pub(crate) url: Option<String>,

    /// URL of a store, sqlite://FILE or postgres://…, to work without a service. Other users of this
    /// machine can see arguments: pass a password in AIOS_DATABASE_URL instead.
    #[arg(long, global = true, value_name = "URL", value_parser = store_url)]
    pub(crate) store: Option<String>,

    /// URL of the broker, amqp://…, for commands about dead letters that work on a store. Pass a password
    /// in AIOS_BROKER_URL instead.
    #[arg(long, global = true, value_name = "URL", value_parser = broker_url)]
    pub(crate) broker: Option<String>,
}

/// Refuses what is no URL at all, such as the path of a file. Adapters check the rest.
fn store_url(text: &str) -> Result<String, String> {
    match text.contains(':') {
        true => Ok(text.to_owned()),
        false => Err(format!("not a URL; for a SQLite file, write sqlite://{text}")),
    }
}

fn broker_url(text: &str) -> Result<String, String> {
    match text.contains(':') {
        true => Ok(text.to_owned()),
        false => Err("not a URL, such as amqp://user@host/%2f".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve for development: a SQLite file, a broker in memory, the HTTP API, and two workflows to try.
    ///
    /// The settings AIOS_… and the files in the folder `config` apply, as they do to every service.
    Dev(Dev),
    /// List runs.
    Runs(Runs),
    /// Show a run.
    Run(Run),
    /// Start a run.
    Start(Start),
    /// Send a signal to a run.
    Signal(Signal),
    /// Cancel a run. It compensates and ends as cancelled.
    Cancel(Cancel),
    /// Pause a run. Tasks in progress continue.
    Pause(RunId),
    /// Resume a paused run, or retry a blocked one.
    Resume(RunId),
    /// Retry a failed run from its failed operation, as a new run.
    Retry(Retry),
    /// Start a new run from a copy of another run's journal up to an operation.
    Fork(Fork),
    /// Show the journal of a run.
    Journal(Journal),
    /// Show where a run and its children spent their time, or send their trace to a collector.
    Trace(Trace),
    /// Follow the events of the log.
    #[command(subcommand)]
    Events(Events),
    /// List agents.
    Agents(Agents),
    /// List tasks.
    Tasks(Tasks),
    /// List, show, redrive and purge dead letters: events whose delivery was given up.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// List the engines that are alive, and the shards of the runs that each owns.
    Engines,
    /// Find what is wrong, in this order: settings, store, schema, broker, readers, engines, agents, runs, dead
    /// letters.
    Doctor,
    /// Create or migrate the schema of a store.
    Migrate,
    /// Rebuild the read models of a store from its log.
    Rebuild(Consent),
    /// List the readers of a log, such as projections and the relay, and how far behind they are.
    ///
    /// Retention keeps what a reader has not processed, even if no process runs the reader any more.
    #[command(args_conflicts_with_subcommands = true)]
    Readers {
        #[command(subcommand)]
        command: Option<Readers>,
    },
    /// Remove runs that ended long ago. Says for which readers it keeps runs.
    Retain(Retain),
    /// Copy a SQLite store to a new file, even while it is in use. For PostgreSQL, use pg_dump.
    Backup(Backup),
    /// Check a store that is not in use: dense positions, complete streams, read models equal to a rebuild.
    Verify(Verify),
    /// Check and show the settings AIOS_… and the files in the folder `config`.
    #[command(subcommand)]
    Config(Config),
    /// Write the manual pages of all commands into a folder.
    Man {
        /// The folder, which must exist.
        folder: PathBuf,
    },
    /// Write a completion script for a shell.
    ///
    /// For bash: aios completions bash > ~/.local/share/bash-completion/completions/aios
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether the command ends by itself after a signal.
    pub(crate) fn handles_signals(&self) -> bool {
        matches!(self, Self::Dev(_))
    }
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Address and port of the API; port 0 picks a free one. Default 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
}

/// Which items a list has.
#[derive(Clone, Debug, Args)]
pub(crate) struct Listed {
    /// Maximum number of items to list.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// List all items.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Continue a list after this cursor, which an incomplete list writes to the standard error; with --json
    /// as {"next": CURSOR}.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}
