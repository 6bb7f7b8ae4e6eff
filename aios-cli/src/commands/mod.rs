//! Executes the commands.

mod actions;
mod config;
mod dead_letters;
mod dev;
mod doctor;
mod events;
mod generate;
mod journal;
mod lists;
mod readers;
mod runs;
mod store;
mod trace;

use crate::{
    arguments::{Arguments, Command, Connection},
    error::CliError,
    output::Output,
    target::{Needs, Target},
};

/// Executes the command.
pub(crate) async fn execute(arguments: Arguments, output: &mut Output) -> Result<(), CliError> {
    let Arguments { connection, command, .. } = arguments;
    match command {
        Command::Dev(dev) => dev::serve(&connection, &dev, output).await,
        Command::Completions { shell } => generate::completions(shell, output),
        Command::Man { folder } => generate::manual(&folder, output),
        Command::Config(command) => config::execute(&command, output),
        Command::Doctor => doctor::examine(&connection, output).await,
        Command::Migrate => store::migrate(&connection, output).await,
        Command::Rebuild(consent) => store::rebuild(&connection, consent, output).await,
        Command::Readers { command } => readers::execute(&connection, command, output).await,
        Command::Retain(arguments) => store::retain(&connection, &arguments, output).await,
        Command::Backup(arguments) => store::backup(&connection, &arguments, output).await,
        Command::Verify(arguments) => store::verify(&connection, &arguments, output).await,
        command => on_service(&connection, command, output).await,
    }
}

/// Executes a command that works with a service.
async fn on_service(
    connection: &Connection,
    command: Command,
    output: &mut Output,
) -> Result<(), CliError> {
    let needs = match command {
        Command::DeadLetters(_) => Needs::Broker,
        _ => Needs::Store,
    };
    let target = Target::open(connection, needs).await?;
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
        Command::Trace(arguments) => trace::show(connection, client, &arguments, output).await,
        Command::Events(arguments) => events::execute(client, arguments, output).await,
        Command::Agents(arguments) => lists::agents(client, &arguments, output).await,
        Command::Tasks(arguments) => lists::tasks(client, &arguments, output).await,
        Command::Engines => lists::engines(client, output).await,
        Command::DeadLetters(arguments) => {
            dead_letters::execute(client, target.letters(), arguments, output).await
        }
        // `execute` takes all others.
        _ => Ok(()),
    };
    target.close().await;
    result
}
