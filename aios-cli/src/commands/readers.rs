//! Readers of the log with a saved position, for which retention waits.

use std::{fmt, sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_core::{
    clock::{Clock, SystemClock},
    event::{EventId, Timestamp},
    store::{OwnerId, PageRequest, RunFilter, RunStatus, Shard, Store, StoreError},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    arguments::{Connection, Readers, Retire},
    consent::ask,
    error::CliError,
    output::{Output, Table, plain, time},
    target::{SUBJECT, open_store, store_url},
};

/// The reader that publishes the log to the broker.
const RELAY: &str = "relay";
/// Positions that a reader may be behind. Readers save their positions less often than they advance.
const FAR_BEHIND: u64 = 10_000;
/// How long a reader that saves its position while the log is quiet may leave an event unprocessed.
const LONG_BEHIND: Duration = Duration::from_secs(86_400);
/// The statuses of runs that retention removes.
const ENDED: [RunStatus; 4] =
    [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled, RunStatus::Continued];
/// The prefix of the names of projections.
const PROJECTIONS: &str = "projections/";
/// How long the lease of the relay is held while its position is deleted.
const LEASE_TIME: Duration = Duration::from_secs(10);
/// How long the end of the runtime may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A reader of the log, compared with the end of the log.
#[derive(Debug, Serialize)]
pub(super) struct Reader {
    /// Its name.
    #[serde(rename = "reader")]
    pub(super) name: String,
    /// Everything up to this position is processed.
    pub(super) position: u64,
    /// Positions between this one and the end of the log.
    pub(super) behind: u64,
    /// Time of the first event that is not processed. `None` if there is none, or if it can't be read.
    pub(super) behind_since: Option<Timestamp>,
}

impl Reader {
    /// All readers of a store, in the order of their names.
    pub(super) async fn all(store: &dyn Store) -> Result<Vec<Self>, StoreError> {
        let mut readers = Vec::new();
        let saved = store.checkpoints().await?;
        let head = store.head().await?;
        for checkpoint in saved {
            let position = checkpoint.position;
            let behind = head.saturating_sub(position);
            let next = match behind {
                0 => Vec::new(),
                _ => first_after(store, position).await?,
            };
            readers.push(Self {
                name: checkpoint.reader,
                position,
                behind,
                behind_since: next.first().copied(),
            });
        }
        Ok(readers)
    }

    /// Whether the reader is far behind, or has not moved while the log grew. The relay saves its position
    /// only after it has published something, so the time says nothing about it.
    pub(super) fn is_late(&self) -> bool {
        let since = self.behind_since.filter(|_| self.name != RELAY);
        let now = SystemClock.now().as_micros();
        let micros = since.map_or(0, |since| now.saturating_sub(since.as_micros()));
        self.behind > FAR_BEHIND
            || u128::try_from(micros).is_ok_and(|micros| micros > LONG_BEHIND.as_micros())
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, behind, behind_since, .. } = self;
        write!(formatter, "{name} ({behind} behind")?;
        if let Some(since) = behind_since {
            write!(formatter, " since {}", time(*since))?;
        }
        formatter.write_str(")")
    }
}

/// The runs that retention has kept for a reader.
#[derive(Debug, Serialize)]
pub(super) struct Kept {
    /// Name of the reader.
    pub(super) reader: String,
    /// Runs that ended long ago and that it has not passed.
    pub(super) runs: u64,
}

impl Kept {
    /// The runs that are left of those that ended longer ago than this, by the readers that have not passed them.
    pub(super) async fn of_age(store: &dyn Store, age: Duration) -> Result<Vec<Self>, StoreError> {
        let readers = store.checkpoints().await?;
        let Some(slowest) = readers.iter().map(|it| it.position).min() else {
            return Ok(Vec::new());
        };
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = SystemClock.now().as_micros().saturating_sub(age);
        let mut positions = Vec::new();
        let filter = RunFilter {
            statuses: ENDED.to_vec(),
            changed_after: slowest,
            include_deleted: true,
            ..RunFilter::default()
        };
        let mut next = Some(PageRequest::default());
        while let Some(request) = next {
            let page = store.runs(&filter, &request).await?;
            let old = page.rows.iter().filter(|run| run.updated_at.as_micros() < before);
            positions.extend(old.map(|run| run.position));
            next = page.next;
        }
        let kept = readers.into_iter().map(|reader| {
            let runs = positions.iter().filter(|position| **position > reader.position).count();
            Self { reader: reader.reader, runs: u64::try_from(runs).unwrap_or(u64::MAX) }
        });
        Ok(kept.filter(|kept| kept.runs > 0).collect())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reader, runs } = self;
        let noun = if *runs == 1 { "run" } else { "runs" };
        write!(formatter, "kept {runs} {noun} that the reader {} has not passed", plain(reader))
    }
}

/// The time of the first event after a position, unless it can't be read.
async fn first_after(store: &dyn Store, position: u64) -> Result<Vec<Timestamp>, StoreError> {
    match store.read_log(position, 1).await {
        Ok(events) => Ok(events.into_iter().map(|it| it.event.timestamp).collect()),
        Err(StoreError::InvalidRow { .. } | StoreError::Corrupt { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) async fn execute(
    connection: &Connection,
    command: Option<Readers>,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        None => list(connection, output).await,
        Some(Readers::Retire(arguments)) => retire(connection, &arguments, output).await,
    }
}

async fn list(connection: &Connection, output: &mut Output) -> Result<(), CliError> {
    let store = open_store(store_url(connection)?.expose()).await?.store();
    let mut table = Table::new(&["reader", "position", "behind", "behind since"]);
    for reader in Reader::all(&*store).await? {
        if output.is_json() {
            output.json(&reader)?;
        }
        table.row([
            reader.name,
            reader.position.to_string(),
            reader.behind.to_string(),
            reader.behind_since.map(time).unwrap_or_default(),
        ]);
    }
    match output.is_json() {
        true => Ok(()),
        false => Ok(table.write(output)?),
    }
}

async fn retire(
    connection: &Connection,
    arguments: &Retire,
    output: &mut Output,
) -> Result<(), CliError> {
    let url = store_url(connection)?;
    let reader = arguments.reader.as_str();
    ask(arguments.consent, &url, &what_retire_means(reader)).await?;
    let store = open_store(url.expose()).await?.store();
    let is_retired = match reader.strip_prefix(PROJECTIONS) {
        _ if reader == RELAY => retire_relay(&*store).await?,
        Some(projection) => retire_projection(store, projection).await?,
        None => store.delete_checkpoint(reader).await?,
    };
    if !is_retired {
        let text = format!("there is no reader {reader}; `aios readers` lists all");
        return Err(CliError::Missing { code: "READER_NOT_FOUND", text });
    }
    match output.is_json() {
        true => Ok(output.json(&json!({ "retired": reader }))?),
        false => Ok(output.line(format_args!("retired {reader}"))?),
    }
}

/// The text of the question before `readers retire`.
fn what_retire_means(reader: &str) -> String {
    let later = match reader {
        RELAY => "the next engine with a relay will republish the whole log",
        _ if reader.starts_with(PROJECTIONS) => {
            "a projection of this name that is started later begins again"
        }
        _ => "a reader of this name that is started later begins again",
    };
    format!(
        "delete the position of the reader {reader}: retention no longer waits for it, and {later}"
    )
}

/// Retires a projection, unless a process runs it.
async fn retire_projection(store: Arc<dyn Store>, name: &str) -> Result<bool, CliError> {
    let broker = aios_broker::connect("memory:").await?;
    let builder = Runtime::builder().source(SUBJECT).client_only().broker(broker).store(store);
    let runtime = builder.start().await?;
    let retired = match runtime.projection_handle(name) {
        Ok(projection) => projection.retire().await,
        Err(error) => Err(error),
    };
    // A runtime without agents and without an engine has nothing that could fail to end.
    let _ = runtime.shutdown(CLOSE_TIMEOUT).await;
    Ok(retired?)
}

/// Deletes the position of the relay, unless an engine relays: it would save its position again.
async fn retire_relay(store: &dyn Store) -> Result<bool, CliError> {
    let owner = OwnerId::new(EventId::generate().to_string());
    let leases = store.acquire(&[Shard::RELAY], &owner, LEASE_TIME).await?;
    if leases.is_empty() {
        let reason =
            "an engine relays, or died less than a lease time ago while it did; stop it first";
        return Err(CliError::Refused(format!("not retired: {reason}")));
    }
    let deleted = store.delete_checkpoint(RELAY).await;
    store.release(&leases).await?;
    Ok(deleted?)
}
