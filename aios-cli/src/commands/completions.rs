use clap::CommandFactory;
use clap_complete::Shell;

use crate::{arguments::Arguments, error::CliError, output::Output};

/// Writes the completion script of a shell.
pub(super) fn write(shell: Shell, output: &mut Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "aios", &mut script);
    Ok(output.bytes(&script)?)
}
