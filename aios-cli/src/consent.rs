//! Questions before a command that can't be undone.

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
};

use crate::{arguments::Consent, error::CliError};

/// Says what will be done at which place and asks, unless `--yes` was given. Without a terminal that could
/// answer, the command is refused. The place is a URL without its password: the settings of another folder
/// name another one.
pub(crate) async fn ask(consent: Consent, place: impl Display, will: &str) -> Result<(), CliError> {
    if consent.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let reason = format!("not confirmed: at {place}, this would {will}; pass --yes to confirm");
        return Err(CliError::Refused(reason));
    }
    // The standard error may be closed; the question is then not answered either.
    let _ = write!(io::stderr(), "At {place}, this will {will}. Continue? [y/N] ");
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(|_| CliError::Interrupted)?;
    match line?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Refused("not confirmed".to_owned())),
    }
}
