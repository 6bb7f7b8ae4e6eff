//! The output of a command: text for people, or JSON for programs.

mod details;
mod table;

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
};

use serde::Serialize;

pub(crate) use self::{
    details::Details,
    table::{Table, plain, plain_lines, shortened, time},
};

/// The standard output, and what people are told on the standard error. No text can steer their terminal.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    is_json: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        Self { stdout: BufWriter::new(io::stdout()), is_json }
    }

    /// Whether the output is for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.line("")
    }

    /// Writes a line of text. A program that reads it gets it as it is.
    pub(crate) fn line(&mut self, text: impl Display) -> io::Result<()> {
        match self.stdout.get_ref().is_terminal() {
            true => writeln!(self.stdout, "{}", plain_lines(&text.to_string())),
            false => writeln!(self.stdout, "{text}"),
        }
    }

    /// Writes a text as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Writes what is buffered. Called before every wait, so that a reader sees each line at once.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// Completes when the reader of the output has gone, as `head` does once it has its lines. For commands
    /// that would otherwise wait for the next line to notice it.
    #[cfg(unix)]
    pub(crate) async fn closed() {
        use std::os::fd::AsFd;

        use tokio::{io::Interest, net::unix::pipe::Sender};

        // Nothing is written with this, so the output need not be in the mode of a pipe of tokio.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        // Files cannot be watched, and have no reader.
        let Ok(stdout) = stdout.and_then(Sender::from_owned_fd_unchecked) else {
            return std::future::pending().await;
        };
        if stdout.ready(Interest::ERROR).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    #[cfg(not(unix))]
    pub(crate) async fn closed() {
        std::future::pending().await
    }

    /// Tells a person something that is not part of the output. Programs are not told.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.is_json {
            // The standard error may be closed.
            let _ = writeln!(io::stderr(), "{}", plain_lines(&text.to_string()));
        }
    }

    /// Says what the output lacks: a text for people, one line of JSON for programs. The command has not
    /// failed, but its output is not all there is.
    pub(crate) fn lacks(&self, value: &serde_json::Value, text: impl Display) {
        // The standard error may be closed.
        let _ = match self.is_json {
            true => writeln!(io::stderr(), "{value}"),
            false => writeln!(io::stderr(), "{}", plain_lines(&text.to_string())),
        };
    }

    /// Shows the progress of long work on one line of a terminal.
    pub(crate) fn progress(&self, text: impl Display) {
        if !self.is_json && io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[2K{text}");
        }
    }

    /// Removes the line of the progress.
    pub(crate) fn end_progress(&self) {
        self.progress("");
    }
}
