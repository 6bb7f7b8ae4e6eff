use std::path::PathBuf;

use aios_core::{
    broker::{Address, Group, Mailbox},
    event::Pattern,
    store::{AgentStatus, TaskStatus},
};
use aios_service::config::HumanDuration;
use clap::{Args, Subcommand};

use super::Listed;

/// Subcommands of `events`.
#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// Follow the log: one line for each event.
    Tail {
        /// Only events whose type matches: * stands for one segment, # for any number.
        #[arg(long, value_parser = pattern)]
        pattern: Option<String>,
        /// Start after this position of the log; 0 shows all events. Without it, only new events are shown.
        #[arg(long, value_name = "POSITION")]
        after: Option<u64>,
    },
}

fn pattern(text: &str) -> Result<String, String> {
    text.parse::<Pattern>().map(|pattern| pattern.as_str().to_owned()).map_err(|it| it.to_string())
}

/// Arguments of `agents`.
#[derive(Debug, Args)]
pub(crate) struct Agents {
    /// Only agents of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) agent_type: Option<String>,
    /// Only agents in this status: waiting, running, missing, stopped, failed.
    #[arg(long, value_parser = agent_status)]
    pub(crate) status: Option<AgentStatus>,
    #[command(flatten)]
    pub(crate) listed: Listed,
}

fn agent_status(text: &str) -> Result<AgentStatus, String> {
    let all = || AgentStatus::ALL.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
    AgentStatus::parse(text).ok_or_else(|| format!("one of {}", all()))
}

/// Arguments of `tasks`.
#[derive(Debug, Args)]
pub(crate) struct Tasks {
    /// Only tasks of this run.
    #[arg(long)]
    pub(crate) run: Option<String>,
    /// Only tasks for agents of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) agent_type: Option<String>,
    /// Only tasks in this status: assigned, completed, failed, cancelled.
    #[arg(long, value_parser = task_status)]
    pub(crate) status: Option<TaskStatus>,
    #[command(flatten)]
    pub(crate) listed: Listed,
}

fn task_status(text: &str) -> Result<TaskStatus, String> {
    let all = || TaskStatus::ALL.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
    TaskStatus::parse(text).ok_or_else(|| format!("one of {}", all()))
}

/// Subcommands of `dead-letters`. An address is a group, such as `agents.backend` for the tasks of the
/// agents of type `backend`, or a mailbox.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List the dead letters of a group or mailbox, the oldest first.
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        listed: Listed,
    },
    /// Show one dead letter with its data.
    Show {
        #[command(flatten)]
        of: Of,
        /// Id of the event.
        id: String,
    },
    /// Send dead letters back to where they came from, and count their attempts from zero.
    Redrive(Chosen),
    /// Delete dead letters. They can't be restored.
    Purge(Chosen),
}

/// Dead letters of an address.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    pub(crate) of: Of,
    /// Ids of the events.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// All dead letters of the address.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// The address of dead letters.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// Name of the group, such as agents.backend; with --mailbox, name of the mailbox.
    pub(crate) address: String,
    /// The address is a mailbox.
    #[arg(long)]
    pub(crate) mailbox: bool,
}

impl Of {
    pub(crate) fn address(&self) -> Result<Address, aios_core::broker::BrokerError> {
        Ok(match self.mailbox {
            true => Mailbox::new(self.address.as_str())?.into(),
            false => Group::new(self.address.as_str())?.into(),
        })
    }
}

/// Whether a person has agreed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Consent {
    /// Do not ask for confirmation.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Subcommands of `readers`.
#[derive(Debug, Subcommand)]
pub(crate) enum Readers {
    /// Delete the position of a reader that never continues, so that retention no longer waits for it.
    Retire(Retire),
}

/// Arguments of `readers retire`.
#[derive(Debug, Args)]
pub(crate) struct Retire {
    /// Name of the reader as it is listed, such as projections/orders.
    pub(crate) reader: String,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// Arguments of `retain`.
#[derive(Debug, Args)]
pub(crate) struct Retain {
    /// Remove runs that ended longer ago than this, such as 720h.
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: HumanDuration,
    /// Remove output streams of runs that ended longer ago than this. Default: as for runs.
    #[arg(long, value_name = "DURATION")]
    pub(crate) outputs_older_than: Option<HumanDuration>,
    /// Remove idempotency keys of the HTTP API that are older than this. Default: as for runs.
    #[arg(long, value_name = "DURATION")]
    pub(crate) requests_older_than: Option<HumanDuration>,
    /// Keep the events in the archive table. SQLite and PostgreSQL only.
    #[arg(long)]
    pub(crate) archive: bool,
    /// Return the free space of a SQLite file to the operating system afterwards.
    #[arg(long)]
    pub(crate) compact: bool,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The new file. It must not exist.
    pub(crate) file: PathBuf,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Accept gaps in positions, which `aios retain` or a retention policy leaves behind.
    #[arg(long)]
    pub(crate) retained: bool,
}

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check the settings of the current folder and the environment, and report all faults at once.
    ///
    /// Sections of your own program are not checked; they are listed.
    Check(Folder),
    /// Show every value and where it comes from, without secrets.
    Show(Folder),
    /// Write the JSON Schema of the files, for editors.
    Schema,
}

/// The folder of the configuration.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The folder of base.yaml and of the files of environments. Default: config.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}
