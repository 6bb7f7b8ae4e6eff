//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{fault::FaultKind, plant::Plant};

/// Real processes under faults at seeded random times, and a check of the outcome.
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

/// The processes that the harness starts.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// An engine or an agent service; the harness starts them.
    #[command(hide = true)]
    Part(PartOptions),
    /// Measures how long runs wait for the next engine when theirs ends or freezes.
    Measure(MeasureOptions),
}

/// The options of a measurement.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeasureOptions {
    /// How the engine ends.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "sigterm,sigkill,sigstop")]
    pub(crate) signals: Vec<Ending>,
    /// How often each of them is measured.
    #[arg(long, default_value_t = 5)]
    pub(crate) trials: usize,
    /// Runs in flight.
    #[arg(long, default_value_t = 20)]
    pub(crate) runs: usize,
    /// The engines' lease time in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) lease: f64,
    /// Decides when the engine ends.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Fails if a run waits for longer than the lease time and these seconds.
    #[arg(long)]
    pub(crate) limit: Option<f64>,
    /// Lets the processes log everything.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Folder for the logs of the processes; a temporary folder by default.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// How an engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ending {
    /// It is asked to end.
    Sigterm,
    /// It dies.
    Sigkill,
    /// It is frozen for longer than its lease.
    Sigstop,
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
    /// For engines only.
    #[arg(long)]
    pub(crate) store: Option<String>,
    #[arg(long)]
    pub(crate) lease: f64,
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) plant: Vec<Plant>,
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl PartOptions {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.lease)
    }
}

/// The options of the harness.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Decides the runs, the faults and their times. Drawn at random if it is not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long faults are injected. Everything has to end within --settle seconds afterwards.
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
    /// The faults to inject; all by default.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) faults: Vec<FaultKind>,
    /// Seconds between the beginnings of two faults, on average.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) every: f64,
    /// The engines' lease time in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) lease: f64,
    /// How many seconds everything may take to end after the last fault.
    #[arg(long, default_value_t = 90.0)]
    pub(crate) settle: f64,
    /// Multiplies the time in which processes have to be ready and to end, and --settle: for slow
    /// or busy machines.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) patience: f64,
    /// Fails if a kind of fault has not happened.
    #[arg(long)]
    pub(crate) every_kind: bool,
    /// Makes the processes of the harness misbehave in ways that the checks have to find.
    #[arg(long, value_delimiter = ',', value_enum, hide = true)]
    pub(crate) plant: Vec<Plant>,
    /// Megabytes that a process may use at the end in addition to those that it used when it was
    /// ready.
    #[arg(long, default_value_t = 100)]
    pub(crate) memory: u64,
    /// Folder for the logs of the processes; a temporary folder by default.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}
