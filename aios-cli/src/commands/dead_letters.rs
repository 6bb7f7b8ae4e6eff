use aios_core::broker::DeadLetterFilter;
use aios_service::client::{Client, DeadLetter};

use crate::{
    arguments::{Chosen, DeadLetters, Of},
    consent::ask,
    error::CliError,
    output::{Details, Output, Table, shortened, time},
};

/// Width of the reason in a list, in characters.
const REASON: usize = 80;
/// Most dead letters among which one is looked for.
const SEARCHED: usize = 1000;

pub(super) async fn execute(
    client: &Client,
    command: DeadLetters,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        DeadLetters::List { of, limit } => {
            let letters = client.dead_letters(of.address()?).list(usize::from(limit)).await?;
            list(&letters, output)
        }
        DeadLetters::Show { of, id } => show(client, &of, &id, output).await,
        DeadLetters::Redrive(chosen) => {
            let address = chosen.of.address()?;
            let filter = filter(&chosen)?;
            ask(chosen.consent, &format!("deliver {} again", what(&chosen))).await?;
            let count = client.dead_letters(address).redrive(&filter).await?;
            handled("redriven", count, output)
        }
        DeadLetters::Purge(chosen) => {
            let address = chosen.of.address()?;
            let filter = filter(&chosen)?;
            ask(chosen.consent, &format!("delete {} for good", what(&chosen))).await?;
            let count = client.dead_letters(address).purge(&filter).await?;
            handled("purged", count, output)
        }
    }
}

fn list(letters: &[DeadLetter], output: &mut Output) -> Result<(), CliError> {
    let mut table = Table::new(&["event", "type", "attempts", "first failure", "reason"]);
    for letter in letters {
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
    match output.is_json() {
        true => Ok(()),
        false => Ok(table.write(output)?),
    }
}

async fn show(client: &Client, of: &Of, id: &str, output: &mut Output) -> Result<(), CliError> {
    let letters = client.dead_letters(of.address()?).list(SEARCHED).await?;
    let Some(letter) = letters.into_iter().find(|letter| letter.event_id == id) else {
        let address = &of.address;
        return Err(CliError::Missing(format!(
            "there is no dead letter {id} among the {SEARCHED} oldest ones of {address}"
        )));
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
        true => Ok(output.json(&serde_json::json!({ "count": count }))?),
        false => Ok(output.line(format_args!("{action} {count}"))?),
    }
}
