//! The same work in other systems, written in Python.
//!
//! `AIOS_PEERS` is the path of a Python interpreter that has `peers/requirements.txt` installed. Without
//! it, the benchmarks measure aios alone.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The interpreter, if `AIOS_PEERS` is set.
#[must_use]
pub fn python() -> Option<PathBuf> {
    env::var_os("AIOS_PEERS").map(PathBuf::from)
}

/// A program of `peers`.
#[must_use]
pub fn program(python: &Path, name: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)).args(arguments);
    command.stderr(Stdio::inherit());
    command
}

/// Runs a program of `peers` that prints one number.
#[must_use]
pub fn measure(python: &Path, name: &str, arguments: &[String]) -> f64 {
    let output = program(python, name, arguments).output().unwrap();
    assert!(output.status.success(), "{name} failed");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
