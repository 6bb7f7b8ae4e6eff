//! Files about the program itself.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{arguments::Arguments, error::CliError, output::Output};

/// Writes the completion script of a shell.
pub(super) fn completions(shell: Shell, output: &mut Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "aios", &mut script);
    Ok(output.bytes(&script)?)
}

/// Writes a manual page for each command.
pub(super) fn manual(folder: &Path, output: &mut Output) -> Result<(), CliError> {
    let written = clap_mangen::generate_to(Arguments::command(), folder);
    written.map_err(|source| CliError::Write { path: folder.display().to_string(), source })?;
    output.note(format_args!("wrote the manual pages to {}", folder.display()));
    Ok(())
}
