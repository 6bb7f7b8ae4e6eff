//! The operators' program, which the package installs as `aios`.
//!
//! It is that of `aios-cli`, so that one installation has the library and the program. The
//! interpreter's lock is released while it runs.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Executes the program with these arguments, of which the first is its name. Returns its exit code.
#[pyfunction]
pub(crate) fn run_program(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| aios_cli::main(arguments))
}
