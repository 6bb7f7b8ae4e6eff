//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{fault::FaultKind, plant::Plant};

/// Real processes under faults at seeded random moments, and a check of what came of it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    /// A process of the harness.
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    /// The harness.
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What the harness starts.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// An engine or an agent service; the harness starts them.
    #[command(hide = true)]
    Part(PartOptions),
}

/// How a process of the harness reaches the others.
#[derive(Clone, Debug, Args)]
pub(crate) struct PartOptions {
    #[arg(long)]
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) socket: PathBuf,
    #[arg(long)]
    pub(crate) broker: String,
    /// Only of an engine.
    #[arg(long)]
    pub(crate) store: Option<String>,
    #[arg(long)]
    pub(crate) lease: f64,
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) plant: Vec<Plant>,
}

impl PartOptions {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.lease)
    }
}

/// What the harness does.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Decides the runs, the faults and their moments. A new one is drawn without it.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long faults happen. Everything has to end within --settle seconds afterwards.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) minutes: f64,
    /// Engine processes.
    #[arg(long, default_value_t = 3)]
    pub(crate) engines: usize,
    /// Agent service processes.
    #[arg(long, default_value_t = 3)]
    pub(crate) agents: usize,
    /// Nodes of RabbitMQ: one, or a cluster of an odd number.
    #[arg(long, default_value_t = 1)]
    pub(crate) nodes: usize,
    /// Runs in flight.
    #[arg(long, default_value_t = 200)]
    pub(crate) runs: u64,
    /// Which faults happen; all without it.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) faults: Vec<FaultKind>,
    /// Seconds between the beginnings of two faults, on average.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) every: f64,
    /// The engines' lease time in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) lease: f64,
    /// How many seconds everything may take to end once no fault happens any more.
    #[arg(long, default_value_t = 90.0)]
    pub(crate) settle: f64,
    /// Multiplies the time in which processes have to be ready and to end, and --settle: for machines
    /// that are slow or do other work.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) patience: f64,
    /// Fails if a kind of fault has not happened.
    #[arg(long)]
    pub(crate) every_kind: bool,
    /// Lets the processes of the harness do something wrong, which has to be found.
    #[arg(long, value_delimiter = ',', value_enum, hide = true)]
    pub(crate) plant: Vec<Plant>,
    /// Megabytes that a process may have in the end.
    #[arg(long, default_value_t = 200)]
    pub(crate) memory: u64,
    /// Folder for the logs of the processes; removed afterwards without it.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}
