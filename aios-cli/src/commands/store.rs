//! Commands that maintain a store and need no service.

use std::{fmt, path::Path};

use aios_core::store::Expirable;
use aios_service::config::HumanDuration;
use aios_store::{AnyStore, ExpiredEvents, Retention, Verification, VerifyFault, schema_version};
use serde_json::json;

use super::readers::Kept;
use crate::{
    arguments::{Backup, Connection, Consent, Retain, Verify},
    consent::ask,
    error::CliError,
    output::Output,
    target::{open_store, store_url},
};

pub(super) async fn migrate(connection: &Connection, output: &mut Output) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let before = schema_version(url.expose()).await?;
    aios_store::connect(url.expose()).await?;
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
    ask(consent, &url, will).await?;
    let opened = open_store(url.expose()).await?;
    output.progress("rebuilding the read models …");
    let result = opened.store().rebuild().await;
    output.end_progress();
    result?;
    done("rebuilt the read models", &json!({ "rebuilt": true }), output)
}

/// Removes old runs, then output streams, then idempotency keys. What was removed before a failure is
/// reported too.
pub(super) async fn retain(
    connection: &Connection,
    arguments: &Retain,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    if arguments.compact && !url.expose().starts_with("sqlite:") {
        let reason = "not a SQLite store, and only SQLite can be compacted";
        return Err(CliError::argument("--compact", reason));
    }
    ask(arguments.consent, &url, &what_retain_removes(arguments)).await?;
    let opened = open_store(url.expose()).await?;
    let mut removed = Removed::default();
    output.progress("removing runs …");
    let result = removed.remove(&opened, arguments).await;
    output.end_progress();
    if result.is_ok() || removed.runs.is_some() {
        done(&removed.to_string(), &removed.json(), output)?;
    }
    result
}

/// The text of the question before `retain`.
fn what_retain_removes(arguments: &Retain) -> String {
    let age = arguments.older_than;
    let outputs = arguments.outputs_older_than.unwrap_or(age);
    let requests = arguments.requests_older_than.unwrap_or(age);
    let action = if arguments.archive { "archive" } else { "permanently delete" };
    format!(
        "{action} the runs that ended more than {age} ago, with their events; permanently delete output \
         streams of ended runs older than {outputs} and idempotency keys older than {requests}"
    )
}

/// The numbers of what `retain` has removed. `None` if it has not come to that.
#[derive(Default)]
struct Removed {
    runs: Option<u64>,
    outputs: Option<u64>,
    requests: Option<u64>,
    freed_bytes: Option<u64>,
    /// Runs that are old enough and were kept for a reader.
    kept: Vec<Kept>,
}

impl Removed {
    /// Removes one part after the other.
    async fn remove(&mut self, opened: &AnyStore, arguments: &Retain) -> Result<(), CliError> {
        let expired = match arguments.archive {
            true => ExpiredEvents::Archive,
            false => ExpiredEvents::Delete,
        };
        let age = arguments.older_than;
        let runs = Retention::new(age.get()).with_expired(expired);
        self.runs = Some(opened.expire_runs(&runs).await?);
        self.kept = Kept::of_age(&*opened.store(), age.get()).await?;
        let of_age = |other: Option<HumanDuration>| Retention::new(other.unwrap_or(age).get());
        let outputs = of_age(arguments.outputs_older_than);
        self.outputs = Some(opened.expire_streams(Expirable::Outputs, &outputs).await?);
        let requests = of_age(arguments.requests_older_than);
        self.requests = Some(opened.expire_streams(Expirable::Requests, &requests).await?);
        if arguments.compact {
            self.freed_bytes = Some(opened.compact().await?);
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self { runs, outputs, requests, freed_bytes, kept } = self;
        json!({
            "runs": runs,
            "outputs": outputs,
            "requests": requests,
            "freed_bytes": freed_bytes,
            "kept": kept,
        })
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.runs, "runs"),
            (self.outputs, "output streams"),
            (self.requests, "idempotency keys"),
        ];
        let parts =
            parts.into_iter().filter_map(|(count, what)| Some(format!("{} {what}", count?)));
        write!(formatter, "removed {}", parts.collect::<Vec<_>>().join(", "))?;
        self.kept.iter().try_for_each(|kept| write!(formatter, "\n{kept}"))?;
        match self.kept.is_empty() {
            true => Ok(()),
            false => formatter.write_str(
                "\n`aios readers retire` ends the wait for a reader that never continues",
            ),
        }
    }
}

pub(super) async fn backup(
    connection: &Connection,
    arguments: &Backup,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let url = url.expose();
    if !url.starts_with("sqlite:") {
        let reason = "not a SQLite store; use pg_dump, and `aios verify` after the restore";
        return Err(CliError::argument("--store", reason));
    }
    if schema_version(url).await?.found == 0 {
        let reason = "there is no store of aios to copy";
        return Err(CliError::argument("--store", reason));
    }
    let file = arguments.file.display().to_string();
    output.progress(format_args!("writing {file} …"));
    let result = copy(url, &arguments.file).await;
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
    let opened = open_store(store_url(connection)?.expose()).await?;
    let progress =
        |events, head| output.progress(format_args!("checked {events} of {head} positions"));
    let result = aios_store::verify(&*opened.store(), progress).await;
    output.end_progress();
    let mut found = result?;
    if arguments.retained {
        found.gaps = 0;
        found.faults.retain(|fault| !is_gap(fault));
    }
    report(&found, output)
}

/// Writes the faults, and fails if there is one.
fn report(found: &Verification, output: &mut Output) -> Result<(), CliError> {
    let Verification { events, rows, .. } = found;
    let faults: Vec<_> = found.faults.iter().map(ToString::to_string).collect();
    let listed = |kind: fn(&VerifyFault) -> bool| {
        u64::try_from(found.faults.iter().filter(|fault| kind(fault)).count()).unwrap_or(u64::MAX)
    };
    let gaps = found.gaps.saturating_sub(listed(is_gap));
    let breaks = found.breaks.saturating_sub(listed(is_break));
    let unreadable = found.unreadable.saturating_sub(listed(is_unreadable));
    if output.is_json() {
        let more = json!({
            "gaps": gaps, "missing_events": breaks, "unreadable_events": unreadable,
        });
        output.json(&json!({ "events": events, "rows": rows, "faults": faults, "more": more }))?;
    } else {
        faults.iter().try_for_each(|fault| output.line(fault))?;
        for (more, what) in [
            (gaps, "gaps in positions"),
            (breaks, "places where a stream lacks events"),
            (unreadable, "events that can't be read"),
        ] {
            if more > 0 {
                output.line(format_args!("{more} more {what}"))?;
            }
        }
        output.line(format_args!("checked {events} events and {rows} rows"))?;
    }
    let listed = u64::try_from(faults.len()).unwrap_or(u64::MAX);
    let count = [gaps, breaks, unreadable].into_iter().fold(listed, u64::saturating_add);
    let text = match count {
        0 => return Ok(()),
        1 => "the store has 1 fault".to_owned(),
        count => format!("the store has {count} faults"),
    };
    Err(CliError::Faults(format!("{text}{}", advice(&found.faults))))
}

fn is_gap(fault: &VerifyFault) -> bool {
    matches!(fault, VerifyFault::Gap { .. })
}

fn is_break(fault: &VerifyFault) -> bool {
    matches!(fault, VerifyFault::Stream { .. })
}

fn is_unreadable(fault: &VerifyFault) -> bool {
    matches!(fault, VerifyFault::Unreadable { .. })
}

/// The remedy for the kinds of faults.
fn advice(faults: &[VerifyFault]) -> &'static str {
    let has = |kind: fn(&VerifyFault) -> bool| faults.iter().any(kind);
    if has(is_break) || has(is_unreadable) {
        "; restore a backup"
    } else if has(is_gap) {
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
