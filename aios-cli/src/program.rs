//! Parses the arguments, executes the command and reports its failure.

use std::{
    ffi::OsString,
    io::{self, Write},
    panic, thread,
};

use aios_core::Chain;
use clap::Parser;
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    arguments::Arguments,
    commands,
    error::{CliError, INVALID_ARGUMENTS},
    exit,
    output::{Output, plain_lines},
};

/// Size of the stack of the command, in bytes: that of a main thread.
const STACK: usize = 8 * 1024 * 1024;

/// Executes the program with these arguments, of which the first is its name, and returns its exit code.
/// Results are written to the standard output, errors to the standard error. The environment variables
/// `AIOS_…` of the process are read. Blocks until the command has ended; call it outside of any tokio
/// runtime. After a signal that ends the command, end the process: a thread that is blocked, for example by
/// a reader that does not read, remains.
///
/// Exit codes are listed by `aios --help`. 0 means done.
///
/// # Examples
///
/// ```
/// assert_eq!(aios_cli::main(["aios", "completions", "bash"]), 0);
/// assert_eq!(aios_cli::main(["aios", "unknown"]), 2);
/// ```
pub fn main(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let wants_json = arguments.iter().any(|argument| argument == "--json");
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error, wants_json),
    };
    let is_json = arguments.json;
    match execute(arguments) {
        Ok(()) => exit::DONE,
        Err(error) if error.is_broken_pipe() => exit::DONE,
        Err(error) => {
            // The standard error may be closed; the exit code remains.
            let _ = report(&error, is_json);
            error.exit_code()
        }
    }
}

/// Writes the help text, the version or what is wrong with the arguments.
fn unparsed(error: &clap::Error, wants_json: bool) -> u8 {
    // A reader that has closed the output does not want the text.
    let _ = match wants_json && error.use_stderr() {
        true => {
            let text = error.render().to_string();
            let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
            write_json(&mut io::stderr().lock(), INVALID_ARGUMENTS, text, None)
        }
        false => error.print(),
    };
    u8::try_from(error.exit_code()).unwrap_or(exit::INVALID)
}

/// Executes the command, and returns at a signal, even if the command is blocked: by a file that is a pipe,
/// or by a reader of the output that does not read. Its thread then ends with the process.
fn execute(arguments: Arguments) -> Result<(), CliError> {
    if arguments.command.handles_signals() {
        return command(arguments);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, end) = oneshot::channel();
    runtime.block_on(async {
        let interrupted = interrupted()?;
        let thread = thread::Builder::new().name("aios-command".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || {
            // After a signal, the receiver is gone.
            let _ = ended.send(command(arguments));
        })?;
        tokio::select! {
            biased;
            signal = interrupted => Err(signal),
            result = end => result.unwrap_or_else(|_| match thread.join() {
                Err(panic) => panic::resume_unwind(panic),
                Ok(()) => Err(CliError::Interrupted),
            }),
        }
    })
}

/// Executes the command on this thread. One that is not blocked also ends at a signal, so that it does
/// nothing more until the process has ended.
fn command(arguments: Arguments) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut output = Output::new(arguments.json);
    let result = runtime.block_on(async {
        if arguments.command.handles_signals() {
            return commands::execute(arguments, &mut output).await;
        }
        let interrupted = interrupted()?;
        tokio::select! {
            biased;
            signal = interrupted => Err(signal),
            result = commands::execute(arguments, &mut output) => result,
        }
    });
    // A thread that reads the standard input can't be stopped, so it is not waited for.
    runtime.shutdown_background();
    result.and_then(|()| Ok(output.flush()?))
}

fn report(error: &CliError, is_json: bool) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let message = Chain(error).to_string();
    let remedy = error.remedy();
    if is_json {
        // The code has a field of its own.
        let code = error.code();
        let rest = message.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "));
        return write_json(&mut stderr, code, rest.unwrap_or(&message), remedy);
    }
    writeln!(stderr, "error: {}", plain_lines(&message))?;
    remedy.map_or(Ok(()), |remedy| writeln!(stderr, "  {remedy}"))
}

fn write_json(
    output: &mut impl Write,
    code: &str,
    message: &str,
    remedy: Option<&str>,
) -> io::Result<()> {
    let error = json!({ "code": code, "message": message, "remedy": remedy });
    writeln!(output, "{}", json!({ "error": error }))
}

/// Completes when a signal asks the program to end.
#[cfg(unix)]
pub(crate) fn interrupted() -> io::Result<impl Future<Output = CliError>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => CliError::Interrupted,
            _ = terminate.recv() => CliError::Terminated,
        }
    })
}

#[cfg(not(unix))]
pub(crate) fn interrupted() -> io::Result<impl Future<Output = CliError>> {
    Ok(async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => CliError::Interrupted,
            Err(_) => std::future::pending().await,
        }
    })
}
