//! Reviews a source tree: `code-review PATH` lists its files, analyses each and writes `report.md`
//! and `report.json`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to its user"
)]

mod analysis;
mod cli;
mod own_files;
mod read;
mod report;
mod scan;

use std::{error::Error, iter::successors, path::Path, process::ExitCode};

use clap::Parser;

use crate::{cli::Arguments, own_files::OwnFiles, report::Report};

/// Exit code when the command line asks for what can't be done, as `clap` uses it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let root = match scan::root(&arguments.path) {
        Ok(root) => root,
        Err(error) => return fail(&error, USAGE),
    };
    match review(&arguments, &root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error, 1),
    }
}

fn review(arguments: &Arguments, root: &Path) -> Result<(), Box<dyn Error>> {
    let own_files = OwnFiles::new(&arguments.out, arguments.state_file());
    let scan = scan::scan(root, &own_files)?;
    let analyses = scan.files.iter().map(|file| analysis::analyze(root, &file.path));
    let report = Report::new(scan.skipped, analyses);
    let written = report::write(&report, &arguments.out)?;
    println!("{} files reviewed: {}", report.total.files, written.markdown.display());
    Ok(())
}

/// Says on one line what went wrong.
fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let causes = successors(Some(error), |&error| error.source());
    let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    eprintln!("code-review: {message}");
    ExitCode::from(code)
}
