//! Reviews a source tree: `code-review PATH` lists its files, analyses each and writes `report.md`
//! and `report.json`.
//!
//! The review is a durable workflow whose state is one file. Kill the program at any time and run
//! the same command again: it resumes where it stopped.
//!
//! Where one process is not enough, `code-review engine` and any number of `code-review agent`
//! processes carry out the review that `code-review start PATH` requests, with PostgreSQL and
//! RabbitMQ. With the same `--model` for all of them, a language model reviews too. `code-review serve`
//! has an HTTP API.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to its user"
)]

mod agents;
mod analysis;
mod cli;
mod interrupt;
mod own_files;
mod progress;
mod read;
mod report;
mod request;
mod review;
mod reviewer;
mod runs;
mod scan;
mod serve;
mod service;
mod workflow;

use std::{error::Error, io::stderr, process::ExitCode, time::Duration};

use aios_core::Chain;
use clap::Parser;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    cli::{CommandLine, Job, Part},
    request::Request,
};

/// Exit code for an invalid command line, the same as that of `clap`.
const USAGE: u8 = 2;

/// How long a file that is being read may delay the exit of the program.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let line = CommandLine::parse();
    log();
    run(line).unwrap_or_else(|error| fail(&*error, 1))
}

/// Prints warnings. aios also reports connection problems, without the event data that lapin logs.
fn log() {
    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target("lapin", LevelFilter::OFF);
    let printed = tracing_subscriber::fmt::layer().with_writer(stderr);
    tracing_subscriber::registry().with(printed.with_filter(levels)).init();
}

fn run(line: CommandLine) -> Result<ExitCode, Box<dyn Error>> {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = match (line.part, line.whole) {
        (Some(Part::Engine(engine)), _) => tokio.block_on(service::engine(&engine)),
        (Some(Part::Agent(agent)), _) => tokio.block_on(service::agent(&agent)),
        (Some(Part::Serve(part)), _) => tokio.block_on(serve::serve(&part)),
        (Some(Part::Start(job)), _) => match request(&job) {
            Ok(request) => tokio.block_on(review::start(&job, &request)),
            Err(error) => Ok(fail(&*error, USAGE)),
        },
        (None, Some(whole)) => match request(&whole.job) {
            Ok(request) => tokio.block_on(review::whole(&whole, &request)),
            Err(error) => Ok(fail(&*error, USAGE)),
        },
        (None, None) => Err("a path or a part is needed".into()),
    };
    tokio.shutdown_timeout(GRACE);
    ended
}

fn request(job: &Job) -> Result<Request, Box<dyn Error>> {
    let root = scan::root(&job.path)?;
    Ok(Request::new(job, root)?)
}

/// Prints the error on one line.
fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("code-review: {}", Chain(error));
    ExitCode::from(code)
}
