//! The program and a folder of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The program in an empty folder, without the variables of the process.
pub(crate) struct Program {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// The exit code and the output of a program.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aios"));
        command.args(arguments).current_dir(self.folder()).env_clear();
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Executes a command to its end.
    pub(crate) fn ended(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Executes a command that succeeds, and returns what it writes.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let Ended { code, stdout, stderr } = self.ended(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
        stdout
    }

    /// Executes a command that succeeds with `--json`, and returns the objects that it writes.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [arguments, &["--json"]].concat();
        self.done(&arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Executes a command that fails with a code, and returns its error.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        let ended = self.ended(arguments);
        let written = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, code, "{arguments:?}: {written}");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended.stderr
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A service that `aios dev` runs.
pub(crate) struct Dev {
    pub(crate) url: String,
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Dev {
    pub(crate) fn start(program: &Program, arguments: &[&str]) -> Self {
        Self::start_at(program, "127.0.0.1:0", arguments)
    }

    /// Starts a service on an address.
    pub(crate) fn start_at(program: &Program, address: &str, arguments: &[&str]) -> Self {
        let arguments = [&["dev", "--listen", address, "--json"], arguments].concat();
        let mut child = program.command(&arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        Self { url: started["url"].as_str().unwrap().to_owned(), child, stdout }
    }

    /// Sends a signal of the operating system.
    pub(crate) fn signal(&self, signal: &str) {
        send(&self.child, signal);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal of the operating system to a program.
pub(crate) fn send(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// A service, and a program that uses it.
pub(crate) fn service() -> (Dev, Program) {
    let program = Program::new();
    let dev = Dev::start(&program, &[]);
    let program = program.with_variable("AIOS_API_URL", &dev.url);
    (dev, program)
}
