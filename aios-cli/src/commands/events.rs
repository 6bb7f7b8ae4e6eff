use std::pin::pin;

use aios_service::client::{Client, EventQuery};

use super::journal::write;
use crate::{arguments::Events, error::CliError, output::Output};

pub(super) async fn execute(
    client: &Client,
    command: Events,
    output: &mut Output,
) -> Result<(), CliError> {
    let Events::Tail { pattern, after } = command;
    let mut query = EventQuery::new();
    if let Some(pattern) = pattern {
        query = query.with_pattern(pattern);
    }
    if let Some(after) = after {
        query = query.with_after(after);
        // From a given position on, the stream is tried again and again. That must not hide a wrong URL.
        client.me().await?;
    }
    let mut events = client.events(&query);
    let mut closed = pin!(Output::closed());
    loop {
        let event = tokio::select! {
            biased;
            () = &mut closed => return Ok(()),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(()) };
        match event {
            Ok(event) => write(&event, output)?,
            // The stream continues after the last event.
            Err(error) if error.is_retryable() && events.position().is_some() => {
                output.note(format_args!("{error}; trying again"));
            }
            Err(error) => return Err(error.into()),
        }
        output.flush()?;
    }
}
