//! What each command does.

mod actions;
mod completions;
mod dev;
mod journal;
mod runs;

use crate::{
    arguments::{Arguments, Command},
    error::CliError,
    output::Output,
    target::{Needs, Target},
};

/// Executes the command.
pub(crate) async fn execute(arguments: Arguments, output: &mut Output) -> Result<(), CliError> {
    let Arguments { connection, command, .. } = arguments;
    match command {
        Command::Dev(dev) => return dev::serve(&connection, &dev, output).await,
        Command::Completions { shell } => return completions::write(shell, output),
        _ => {}
    }
    let target = Target::open(&connection, Needs::Store).await?;
    let client = target.client();
    let result = match command {
        Command::Runs(arguments) => runs::list(client, &arguments, output).await,
        Command::Run(arguments) => runs::show(client, &arguments, output).await,
        Command::Start(arguments) => actions::start(client, arguments, output).await,
        Command::Signal(arguments) => actions::signal(client, &arguments, output).await,
        Command::Cancel(arguments) => actions::cancel(client, &arguments, output).await,
        Command::Pause(arguments) => actions::pause(client, &arguments, output).await,
        Command::Resume(arguments) => actions::resume(client, &arguments, output).await,
        Command::Retry(arguments) => actions::retry(client, &arguments, output).await,
        Command::Fork(arguments) => actions::fork(client, &arguments, output).await,
        Command::Journal(arguments) => journal::show(client, &arguments, output).await,
        Command::Dev(_) | Command::Completions { .. } => Ok(()),
    };
    target.close().await;
    result
}
