use std::pin::pin;

use aios_core::store::RecordedEvent;
use aios_service::client::{Client, EventStream};
use serde_json::json;

use super::runs::Pages;
use crate::{
    arguments::{Journal, Listed},
    error::CliError,
    output::{Output, Table, plain, shortened, time},
};

/// Width of the data in a list, in characters.
const DATA: usize = 100;

/// Shows the journal of a run.
pub(super) async fn show(
    client: &Client,
    arguments: &Journal,
    output: &mut Output,
) -> Result<(), CliError> {
    let run = client.run(&arguments.run);
    let mut pages = Pages::new(&Listed { limit: 1, all: true, after: None });
    let mut position = 0;
    while let Some(page) = pages.next() {
        let events = pages.took(run.journal(&page).await?);
        position = events.last().map_or(position, |last| last.position);
        if output.is_json() {
            events.iter().try_for_each(|event| write(event, output))?;
        } else {
            table(&events, output)?;
        }
        output.flush()?;
    }
    if arguments.follow {
        // A service that has gone away since then is an error, not something to wait for.
        run.status().await?;
        // Also if the run has ended: it may have done so after the last page.
        return follow(run.events(position), output).await;
    }
    Ok(())
}

/// Writes the events that come, until the run or the reader of the output has ended.
async fn follow(mut events: EventStream, output: &mut Output) -> Result<(), CliError> {
    let mut closed = pin!(Output::closed());
    loop {
        let event = tokio::select! {
            biased;
            () = &mut closed => return Ok(()),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(()) };
        write(&event?, output)?;
        output.flush()?;
    }
}

fn table(events: &[RecordedEvent], output: &mut Output) -> Result<(), CliError> {
    let mut table = Table::new(&["version", "time", "event", "data"]);
    for RecordedEvent { version, event, .. } in events {
        table.row([
            version.to_string(),
            time(event.timestamp),
            event.event_type.to_string(),
            shortened(event.payload.as_str(), DATA),
        ]);
    }
    Ok(table.write(output)?)
}

/// Writes one event, as it comes.
pub(super) fn write(recorded: &RecordedEvent, output: &mut Output) -> Result<(), CliError> {
    let RecordedEvent { position, stream, version, event } = recorded;
    if output.is_json() {
        let place = json!({
            "position": position, "stream": stream.as_str(), "version": version, "event": event,
        });
        return Ok(output.json(&place)?);
    }
    let data = plain(&shortened(event.payload.as_str(), DATA));
    let at = time(event.timestamp);
    let stream = plain(stream.as_str());
    Ok(output.line(format_args!("{position}  {at}  {stream}  {}  {data}", event.event_type))?)
}
