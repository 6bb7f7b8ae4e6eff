//! Reviews a source tree: `code-review PATH` lists its files, analyses each and writes `report.md`
//! and `report.json`.
//!
//! The review is a durable workflow whose state is one file. Kill the program at any moment, run the
//! same command again, and it goes on where it was.
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
mod runs;
mod scan;
mod workflow;

use std::{error::Error, io::stderr, iter::successors, process::ExitCode, time::Duration};

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::{cli::Arguments, request::Request};

/// Exit code when the command line asks for what can't be done, as `clap` uses it.
const USAGE: u8 = 2;

/// How long a file that is being read may hold up the end of the program.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(stderr).init();
    let request = match request(&arguments) {
        Ok(request) => request,
        Err(error) => return fail(&*error, USAGE),
    };
    run(&arguments, &request).unwrap_or_else(|error| fail(&*error, 1))
}

fn request(arguments: &Arguments) -> Result<Request, Box<dyn Error>> {
    let root = scan::root(&arguments.path)?;
    Ok(Request::new(arguments, root)?)
}

fn run(arguments: &Arguments, request: &Request) -> Result<ExitCode, Box<dyn Error>> {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = tokio.block_on(review::review(arguments, request));
    tokio.shutdown_timeout(GRACE);
    ended
}

/// Says on one line what went wrong.
fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let causes = successors(Some(error), |&error| error.source());
    let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    eprintln!("code-review: {message}");
    ExitCode::from(code)
}
