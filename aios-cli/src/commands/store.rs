//! Commands that maintain a store and need no service.

use std::path::Path;

use aios_core::store::Expirable;
use aios_service::config::HumanDuration;
use aios_store::{ExpiredEvents, Retention, VerifyFault, schema_version};
use serde_json::json;

use crate::{
    arguments::{Backup, Connection, Consent, Retain, Verify},
    consent::ask,
    error::CliError,
    output::Output,
    target::{open_store, store_url},
};

pub(super) async fn migrate(connection: &Connection, output: &mut Output) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let before = schema_version(&url).await?;
    aios_store::connect(&url).await?;
    let from = before.found;
    let to = before.known;
    if output.is_json() {
        return Ok(output.json(&json!({ "from": from, "to": to }))?);
    }
    let text = match before.is_outdated() {
        true => format!("migrated the schema from version {from} to {to}"),
        false => format!("the schema has version {to}, which is current"),
    };
    Ok(output.line(text)?)
}

pub(super) async fn rebuild(
    connection: &Connection,
    consent: Consent,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let will = "rebuild the read models from the log; appends wait until it has finished";
    ask(consent, will).await?;
    let opened = open_store(&url).await?;
    output.progress("rebuilding the read models …");
    let result = opened.store().rebuild().await;
    output.end_progress();
    result?;
    done("rebuilt the read models", &json!({ "rebuilt": true }), output)
}

pub(super) async fn retain(
    connection: &Connection,
    arguments: &Retain,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let (age, expired) = match arguments.archive {
        true => (arguments.older_than, ExpiredEvents::Archive),
        false => (arguments.older_than, ExpiredEvents::Delete),
    };
    let action = if arguments.archive { "archive" } else { "delete" };
    let will = format!("{action} the runs that ended more than {age} ago, with their events");
    ask(arguments.consent, &will).await?;
    let opened = open_store(&url).await?;
    let policy = Retention::new(age.get()).with_expired(expired);
    output.progress("removing runs …");
    let result = opened.expire_runs(&policy).await;
    output.end_progress();
    let runs = result?;
    let of_age = |other: Option<HumanDuration>| Retention::new(other.unwrap_or(age).get());
    let outputs = of_age(arguments.outputs_older_than);
    let outputs = opened.expire_streams(Expirable::Outputs, &outputs).await?;
    let requests = of_age(arguments.requests_older_than);
    let requests = opened.expire_streams(Expirable::Requests, &requests).await?;
    let freed = match arguments.compact {
        true => Some(opened.compact().await?),
        false => None,
    };
    let text =
        format!("removed {runs} runs, {outputs} output streams and {requests} idempotency keys");
    let json = json!({
        "runs": runs, "outputs": outputs, "requests": requests, "freed_bytes": freed,
    });
    done(&text, &json, output)
}

pub(super) async fn backup(
    connection: &Connection,
    arguments: &Backup,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    if !url.starts_with("sqlite:") {
        let reason = "not a SQLite store; use pg_dump, and `aios verify` after the restore";
        return Err(CliError::argument("--store", reason));
    }
    if schema_version(&url).await?.found == 0 {
        let reason = "there is no store of aios to copy";
        return Err(CliError::argument("--store", reason));
    }
    let file = arguments.file.display().to_string();
    output.progress(format_args!("writing {file} …"));
    let result = copy(&url, &arguments.file).await;
    output.end_progress();
    let bytes = result?;
    let text = format!(
        "wrote {file} ({bytes} bytes); check it with `aios verify --store sqlite://{file}`"
    );
    done(&text, &json!({ "file": file, "bytes": bytes }), output)
}

#[cfg(feature = "sqlite")]
async fn copy(url: &str, file: &Path) -> Result<u64, CliError> {
    Ok(aios_store::sqlite::backup(&url.parse()?, file).await?)
}

#[cfg(not(feature = "sqlite"))]
async fn copy(_: &str, _: &Path) -> Result<u64, CliError> {
    Err(CliError::argument("--store", "this program was built without SQLite"))
}

pub(super) async fn verify(
    connection: &Connection,
    arguments: &Verify,
    output: &mut Output,
) -> Result<(), CliError> {
    let opened = open_store(&store_url(connection)?).await?;
    let progress =
        |events, head| output.progress(format_args!("checked {events} of {head} positions"));
    let result = aios_store::verify(&*opened.store(), progress).await;
    output.end_progress();
    let mut found = result?;
    if arguments.retained {
        found.faults.retain(|fault| !matches!(fault, VerifyFault::Gap { .. }));
    }
    let events = found.events;
    let rows = found.rows;
    let faults: Vec<_> = found.faults.iter().map(ToString::to_string).collect();
    if output.is_json() {
        output.json(&json!({ "events": events, "rows": rows, "faults": faults }))?;
    } else {
        faults.iter().try_for_each(|fault| output.line(fault))?;
        output.line(format_args!("checked {events} events and {rows} rows"))?;
    }
    match faults.len() {
        0 => Ok(()),
        count => {
            Err(CliError::Faults(format!("the store has {count} faults{}", advice(&found.faults))))
        }
    }
}

/// The remedy for the kinds of faults.
fn advice(faults: &[VerifyFault]) -> &'static str {
    let has = |kind: fn(&VerifyFault) -> bool| faults.iter().any(kind);
    if has(|fault| matches!(fault, VerifyFault::Stream { .. })) {
        "; restore a backup"
    } else if has(|fault| matches!(fault, VerifyFault::Gap { .. })) {
        "; if runs were removed by retention, verify with --retained; otherwise restore a backup"
    } else if has(|fault| matches!(fault, VerifyFault::ReadModel { .. })) {
        "; run `aios rebuild`"
    } else {
        ""
    }
}

fn done(text: &str, value: &serde_json::Value, output: &mut Output) -> Result<(), CliError> {
    match output.is_json() {
        true => Ok(output.json(value)?),
        false => Ok(output.line(text)?),
    }
}
