//! Engines, agent services and servers as real processes, under faults at seeded random times, and
//! a check of what clients and agents observed from outside.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::missing_docs_in_private_items,
    reason = "a harness talks to its user, waits in real time and fails by panicking"
)]

mod check;
mod client;
mod counting;
mod effect;
mod fault;
mod folders;
mod harness;
mod history;
mod inject;
mod measure;
mod network;
mod observer;
mod options;
mod part;
mod place;
mod plan;
mod plant;
mod process;
mod proxy;
mod random;
mod sink;
mod work;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{CommandLine, Part};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    match line.part {
        Some(Part::Part(options)) => part::run(options),
        Some(Part::Measure(options)) => measure::run(&options),
        None => harness::run(&line.options),
    }
}
