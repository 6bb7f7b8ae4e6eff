//! The program `aios`; see the library of the same crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(aios_cli::main(std::env::args_os()))
}
