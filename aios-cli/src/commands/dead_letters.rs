use aios_core::{broker::DeadLetterFilter, catalog::codes};
use aios_service::client::{Client, DeadLetter};
use serde_json::json;

use super::runs::Pages;
use crate::{
    arguments::{Chosen, DeadLetters, Listed, Of},
    consent::ask,
    error::CliError,
    output::{Details, Output, Table, shortened, time},
};

/// Width of the reason in a list, in characters.
const REASON: usize = 80;

pub(super) async fn execute(
    client: &Client,
    place: &str,
    command: DeadLetters,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        DeadLetters::List { of, listed } => list(client, &of, &listed, output).await,
        DeadLetters::Show { of, id } => show(client, &of, &id, output).await,
        DeadLetters::Redrive(chosen) => {
            let address = chosen.of.address()?;
            let filter = filter(&chosen)?;
            ask(chosen.consent, place, &format!("deliver {} again", what(&chosen))).await?;
            let count = client.dead_letters(address).redrive(&filter).await?;
            handled("redriven", count, output)
        }
        DeadLetters::Purge(chosen) => {
            let address = chosen.of.address()?;
            let filter = filter(&chosen)?;
            ask(chosen.consent, place, &format!("delete {} for good", what(&chosen))).await?;
            let count = client.dead_letters(address).purge(&filter).await?;
            handled("purged", count, output)
        }
    }
}

async fn list(
    client: &Client,
    of: &Of,
    listed: &Listed,
    output: &mut Output,
) -> Result<(), CliError> {
    let letters = client.dead_letters(of.address()?);
    let mut pages = Pages::new(listed);
    while let Some(page) = pages.next() {
        let page = pages.took(letters.list(&page).await?);
        let mut table = Table::new(&["event", "type", "attempts", "first failure", "reason"]);
        for letter in &page {
            if output.is_json() {
                output.json(letter)?;
            }
            table.row([
                letter.event_id.clone(),
                letter.event_type.clone(),
                letter.attempts.to_string(),
                time(letter.first_failure),
                shortened(&letter.reason, REASON),
            ]);
        }
        if !output.is_json() {
            table.write(output)?;
        }
        output.flush()?;
    }
    pages.end(output);
    Ok(())
}

async fn show(client: &Client, of: &Of, id: &str, output: &mut Output) -> Result<(), CliError> {
    let Some(letter) = find(client, of, id).await? else {
        let text = format!("there is no dead letter {id} of {}", of.address);
        return Err(CliError::Missing { code: codes::DEAD_LETTER_NOT_FOUND, text });
    };
    if output.is_json() {
        return Ok(output.json(&letter)?);
    }
    let metadata = serde_json::to_string(&letter.metadata).map_err(std::io::Error::from)?;
    let details = Details::default()
        .with("event", Some(&letter.event_id))
        .with("type", Some(&letter.event_type))
        .with("reason", Some(&letter.reason))
        .with("attempts", Some(letter.attempts))
        .with("first failure", Some(letter.first_failure))
        .with("data", Some(letter.data.as_str()))
        .with("metadata", Some(metadata));
    Ok(details.write(output)?)
}

/// Looks for a dead letter on all pages.
async fn find(client: &Client, of: &Of, id: &str) -> Result<Option<DeadLetter>, CliError> {
    let letters = client.dead_letters(of.address()?);
    let mut pages = Pages::all();
    while let Some(page) = pages.next() {
        let page = pages.took(letters.list(&page).await?);
        if let Some(letter) = page.into_iter().find(|letter| letter.event_id == id) {
            return Ok(Some(letter));
        }
    }
    Ok(None)
}

fn filter(chosen: &Chosen) -> Result<DeadLetterFilter, CliError> {
    if chosen.all {
        return Ok(DeadLetterFilter::All);
    }
    let ids: Result<Vec<_>, _> = chosen.ids.iter().map(|id| id.parse()).collect();
    let ids = ids.map_err(|error: aios_core::event::EventError| {
        CliError::argument("IDS", error.to_string())
    })?;
    Ok(DeadLetterFilter::Ids(ids))
}

fn what(chosen: &Chosen) -> String {
    let address = &chosen.of.address;
    match chosen.all {
        true => format!("all dead letters of {address}"),
        false => format!("{} dead letters of {address}", chosen.ids.len()),
    }
}

fn handled(action: &str, count: u64, output: &mut Output) -> Result<(), CliError> {
    match output.is_json() {
        true => Ok(output.json(&json!({ "count": count }))?),
        false => Ok(output.line(format_args!("{action} {count}"))?),
    }
}
