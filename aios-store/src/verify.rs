//! Checks a store: positions, versions, and read models against the log.
//!
//! The check uses only the ports, so it works for every adapter. It reads the log once from the
//! beginning and projects every event into tables in memory, the same [`Tables`] that the memory
//! store uses. Then it pages through the read models of the store and through its own tables with
//! the same queries, and compares the pages row by row.
//!
//! ```text
//! read_log ──► Log ──► gaps in positions, gaps in versions ──► faults
//!               └─project──► Tables ─┐
//!                                    ├─ same query, same page ──► equal?
//! read models of the store ──────────┘
//! ```
//!
//! The comparison is meaningful only if nothing is appended between the last page of the log and
//! the last page of the tables. The head is read before and after. If it moved, all findings about
//! read models are dropped and replaced by `Changed`; gaps found in the log remain, because events
//! never change.
//!
//! A table is compared up to its first difference. One fault per table is enough: the remedy is a
//! rebuild of all tables, whatever the number of rows that differ.

use std::{collections::HashMap, fmt};

use aios_core::{
    Chain,
    projection::{Query, Record, project},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, PageSize, ReadModels, RecordedEvent,
        RunFilter, Store, StoreError, StreamId, TaskFilter,
    },
};

use crate::{memory::Tables, rows};

/// Rows that are compared at once.
const ROWS: usize = 1000;
/// The highest number of events that are read at once.
const EVENTS: usize = 1000;
/// Maximum number of faults of a kind that a report lists. A damaged log of millions of events would
/// otherwise fill the memory with faults. One limit for all kinds would let the gaps that retention leaves
/// hide the events that a stream lacks.
const MAX_FAULTS: u64 = 100;

/// The result of [`verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Number of events in the log.
    pub events: u64,
    /// Number of rows of the read models that were compared.
    pub rows: u64,
    /// The faults, at most 100 of a kind; none if the store is as it should be.
    pub faults: Vec<VerifyFault>,
    /// Number of gaps in positions. The first 100 are listed.
    pub gaps: u64,
    /// Number of events whose version is not the next one of their stream. The first 100 are listed.
    pub breaks: u64,
    /// Number of events that can't be read. The first 100 are listed.
    pub unreadable: u64,
}

/// A fault of a store.
///
/// # Examples
///
/// The remedy depends on the fault. Read models are derived from the log, so they can be rebuilt. Events
/// that are missing come from a backup only:
///
/// ```
/// use aios_core::store::{Store, StoreError};
/// use aios_store::{VerifyFault, verify};
///
/// async fn repair(store: &dyn Store) -> Result<(), StoreError> {
///     let verification = verify(store, |_, _| ()).await?;
///     for fault in &verification.faults {
///         match fault {
///             VerifyFault::ReadModel { .. } => store.rebuild().await?,
///             VerifyFault::Gap { .. } => println!("{fault}; expected if runs have expired"),
///             _ => println!("{fault}"),
///         }
///     }
///     Ok(())
/// }
/// # let _ = repair;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyFault {
    /// Positions of the log have no event. Retention removes the events of old runs; nothing else does.
    #[non_exhaustive]
    Gap {
        /// The first position without an event.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A stream lacks events.
    #[non_exhaustive]
    Stream {
        /// The stream.
        stream: StreamId,
        /// The version that an event should have.
        expected: u64,
        /// The version that it has.
        found: u64,
    },
    /// An event can't be read. Its stream seems to lack an event then, and a read model may have what the event
    /// says.
    #[non_exhaustive]
    Unreadable {
        /// The position of the event.
        position: u64,
        /// Why it can't be read.
        reason: String,
    },
    /// A table is not what the log says. Rebuild it.
    #[non_exhaustive]
    ReadModel {
        /// Name of the table.
        table: &'static str,
        /// Id of the first row that differs, is missing, or should not exist.
        id: String,
    },
    /// Events were appended while the store was checked, so nothing is known about the read models.
    #[non_exhaustive]
    Changed {
        /// Position of the last event that was checked.
        position: u64,
    },
}

impl fmt::Display for VerifyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { from, to } => write!(formatter, "positions {from} to {to} have no event"),
            Self::Stream { stream, expected, found } => {
                write!(formatter, "stream {stream} has version {found} where {expected} belongs")
            }
            Self::Unreadable { position, reason } => {
                write!(formatter, "the event at position {position} can't be read: {reason}")
            }
            Self::ReadModel { table, id } => {
                write!(formatter, "row {id} of the table {table} is not what the log says")
            }
            Self::Changed { position } => write!(
                formatter,
                "events were appended after position {position} while the store was checked; check \
                 a store or a backup that is not in use"
            ),
        }
    }
}

/// Checks that every event can be read, that the positions of the log are dense, that the versions of every
/// stream are, and that the read models are what a rebuild would make of the log. Changes nothing. Run it
/// on a store that is not in use, such as a restored backup.
///
/// Reads the whole log. Needs memory for the rows of the read models and the names of the streams, not
/// for the events. `progress` is called after each page with the number of events so far and the
/// position of the last event of the log.
///
/// When an agent was last seen is not compared, because the log does not record it.
///
/// # Errors
///
/// The error that the store reports, such as [`StoreError::Corrupt`] if it concerns more than 100 events.
///
/// # Cancel safety
///
/// Cancel safe: nothing is written.
///
/// # Examples
///
/// A backup is one only after it was opened and checked:
///
/// ```
/// use aios_store::{sqlite::{SqliteStore, backup}, verify};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", folder.path().join("shop.db").display());
/// # let store = SqliteStore::connect(&url).await?;
/// let copy = folder.path().join("backup.db");
/// backup(&url.parse()?, &copy).await?;
/// let copy = SqliteStore::connect(&format!("sqlite:{}", copy.display())).await?;
/// let verification = verify(&copy, |events, head| println!("{events} of {head}")).await?;
/// assert!(verification.faults.is_empty());
/// # Ok(())
/// # }
/// ```
pub async fn verify(
    store: &dyn Store,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verification, StoreError> {
    let mut log = Log::default();
    let head = store.head().await?;
    let mut size = PageSize::new(EVENTS);
    loop {
        match store.read_log(log.position, size.events()).await {
            Ok(page) if page.is_empty() => break,
            Ok(page) => {
                page.iter().for_each(|recorded| log.add(recorded));
                size.adapt(page.len(), &page);
            }
            Err(error) if is_unreadable(&error) && log.position < head => {
                let up_to = head.min(log.position.saturating_add(size.events() as u64));
                log.add_each(store, up_to).await?;
            }
            Err(error) => return Err(error),
        }
        progress(log.verification.events, head);
    }
    log.gap(head);
    let Log { tables, mut verification, last: position, .. } = log;
    let mut faults = Vec::new();
    for compared in [
        agents(store, &tables).await?,
        tasks(store, &tables).await?,
        workflows(store, &tables).await?,
        runs(store, &tables).await?,
    ] {
        verification.rows += compared.rows;
        faults.extend(compared.fault);
    }
    if store.head().await? != position.max(head) {
        faults = vec![VerifyFault::Changed { position }];
    }
    verification.faults.append(&mut faults);
    Ok(verification)
}

/// The state that the events read so far imply.
#[derive(Default)]
struct Log {
    /// The rows that a rebuild would make of them.
    tables: Tables,
    /// The version of the last event of each stream.
    versions: HashMap<StreamId, u64>,
    /// The position up to which the log was read.
    position: u64,
    /// Position of the last event; 0 before the first one.
    last: u64,
    /// The report so far. The faults of the read models are added at the end.
    verification: Verification,
}

impl Log {
    /// Adds the next event of the log: notes a gap before it, a missing version of its stream, and
    /// its changes of the tables.
    ///
    /// After a wrong version, the stream continues from the version that was found. Otherwise one
    /// missing event would be reported again for every later event of the stream.
    fn add(&mut self, recorded: &RecordedEvent) {
        self.gap(recorded.position - 1);
        (self.position, self.last) = (recorded.position, recorded.position);
        self.verification.events += 1;
        let version = self.versions.entry(recorded.stream.clone()).or_default();
        let expected = *version + 1;
        let found = recorded.version;
        *version = found;
        if expected != found {
            self.verification.breaks += 1;
            if self.verification.breaks <= MAX_FAULTS {
                let stream = recorded.stream.clone();
                let fault = VerifyFault::Stream { stream, expected, found };
                self.verification.faults.push(fault);
            }
        }
        self.tables.apply(project(recorded));
    }

    /// Adds the events up to a position, one by one, and notes those that can't be read.
    ///
    /// Fails with an error of a damaged file if it concerns more events than are listed: the file is then
    /// damaged as a whole.
    async fn add_each(&mut self, store: &dyn Store, up_to: u64) -> Result<(), StoreError> {
        for after in self.position..up_to {
            match store.read_log_except(after, after + 1, &[]).await {
                Ok(found) => found.iter().for_each(|recorded| self.add(recorded)),
                Err(error) if is_unreadable(&error) => self.unreadable(after + 1, error)?,
                Err(error) => return Err(error),
            }
            self.position = after + 1;
        }
        Ok(())
    }

    /// Notes an event that can't be read.
    fn unreadable(&mut self, position: u64, error: StoreError) -> Result<(), StoreError> {
        self.gap(position - 1);
        self.last = position;
        self.verification.unreadable += 1;
        if self.verification.unreadable <= MAX_FAULTS {
            let reason = Chain(&error).to_string();
            self.verification.faults.push(VerifyFault::Unreadable { position, reason });
        } else if matches!(error, StoreError::Corrupt { .. }) {
            return Err(error);
        }
        Ok(())
    }

    /// Notes the positions after the last event and up to this one, which have no event.
    fn gap(&mut self, up_to: u64) {
        let from = self.last + 1;
        if from <= up_to {
            self.verification.gaps += 1;
            if self.verification.gaps <= MAX_FAULTS {
                self.verification.faults.push(VerifyFault::Gap { from, to: up_to });
            }
        }
    }
}

/// Whether an error concerns single events, so that others may be readable.
fn is_unreadable(error: &StoreError) -> bool {
    matches!(error, StoreError::InvalidRow { .. } | StoreError::Corrupt { .. })
}

/// The comparison of one table.
#[derive(Default)]
struct Compared {
    /// Rows of the store that were looked at.
    rows: u64,
    /// The first difference. Set at most once: the comparison stops there.
    fault: Option<VerifyFault>,
}

impl Compared {
    /// Compares a page with its counterpart. Returns the next page to compare, or `None` after a
    /// difference or the last page.
    ///
    /// In this order, the fault is the first row that the store could not decode, the first row
    /// that differs, or the first row that one of the pages has beyond the other.
    fn page<R: PartialEq>(
        &mut self,
        found: Page<R>,
        expected: &Page<R>,
        table: &'static str,
        id: impl Fn(&R) -> &str,
    ) -> Option<PageRequest> {
        self.rows += found.rows.len() as u64;
        let pairs = found.rows.iter().zip(&expected.rows);
        let differing = pairs.clone().find(|(found, expected)| found != expected);
        let longer = || match found.rows.len() > expected.rows.len() {
            true => found.rows.get(expected.rows.len()),
            false => expected.rows.get(found.rows.len()),
        };
        let unreadable = found.unreadable.first().map(|row| row.id.clone());
        let differing = differing.map(|(row, _)| row).or_else(longer).map(|row| id(row).to_owned());
        self.fault = unreadable.or(differing).map(|id| VerifyFault::ReadModel { table, id });
        // If the store ends exactly where one of its pages does, the next page has rows that it lacks.
        found.next.or_else(|| expected.next.clone()).filter(|_| self.fault.is_none())
    }
}

/// Returns the page that the tables in memory have for a query.
fn expected<R: Record>(tables: &Tables, query: &Query) -> Result<Page<R>, StoreError> {
    rows::page(tables.find(query)?, query, "the log")
}

/// Compares the table `agents`, with deleted rows but without the columns of heartbeats.
async fn agents(store: &dyn ReadModels, tables: &Tables) -> Result<Compared, StoreError> {
    let filter = AgentFilter { include_deleted: true, ..AgentFilter::default() };
    let mut compared = Compared::default();
    let mut next = Some(PageRequest::first(ROWS));
    while let Some(page) = next {
        let found = store.agents(&filter, &page).await?;
        let expected = expected(tables, &Query::agents(&filter, &page))?;
        next = compared.page(unseen(found), &unseen(expected), "agents", |row| &row.id);
    }
    Ok(compared)
}

/// Removes what heartbeats change without an event.
fn unseen(mut page: Page<AgentRecord>) -> Page<AgentRecord> {
    for row in &mut page.rows {
        (row.last_seen_at, row.updated_at) = (None, row.created_at);
    }
    page
}

/// Compares the table `agent_tasks`, with deleted rows.
async fn tasks(store: &dyn ReadModels, tables: &Tables) -> Result<Compared, StoreError> {
    let filter = TaskFilter { include_deleted: true, ..TaskFilter::default() };
    let mut compared = Compared::default();
    let mut next = Some(PageRequest::first(ROWS));
    while let Some(page) = next {
        let found = store.tasks(&filter, &page).await?;
        let expected = expected(tables, &Query::tasks(&filter, &page))?;
        next = compared.page(found, &expected, "agent_tasks", |row| &row.id);
    }
    Ok(compared)
}

/// Compares the table `workflows`.
async fn workflows(store: &dyn ReadModels, tables: &Tables) -> Result<Compared, StoreError> {
    let mut compared = Compared::default();
    let mut next = Some(PageRequest::first(ROWS));
    while let Some(page) = next {
        let found = store.workflows(&page).await?;
        let expected = expected(tables, &Query::workflows(&page))?;
        next = compared.page(found, &expected, "workflows", |row| &row.id);
    }
    Ok(compared)
}

/// Compares the table `workflow_runs`, with deleted rows.
async fn runs(store: &dyn ReadModels, tables: &Tables) -> Result<Compared, StoreError> {
    let filter = RunFilter { include_deleted: true, ..RunFilter::default() };
    let mut compared = Compared::default();
    let mut next = Some(PageRequest::first(ROWS));
    while let Some(page) = next {
        let found = store.runs(&filter, &page).await?;
        let expected = expected(tables, &Query::runs(&filter, &page))?;
        next = compared.page(found, &expected, "workflow_runs", |row| &row.id);
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aios_core::{
        event::Event,
        store::{Append, EventStoreExt},
    };
    use serde_json::json;

    use super::*;
    use crate::{AnyStore, Retention};

    async fn append(store: &dyn Store, stream: &str, event_type: &str, data: serde_json::Value) {
        let event = Event::new(event_type.parse().unwrap(), "test", &data).unwrap();
        let append = Append::new(StreamId::new(stream).unwrap(), vec![event]);
        store.append_one(append).await.unwrap();
    }

    async fn with_runs() -> AnyStore {
        let opened = AnyStore::connect("memory:").await.unwrap();
        let store = opened.store();
        for run in ["runs/a", "runs/b"] {
            append(&*store, run, "workflows.deploy.started", json!({ "version": 1 })).await;
        }
        append(&*store, "runs/a", "workflows.deploy.completed", json!({ "result": 1 })).await;
        opened
    }

    #[tokio::test]
    async fn should_find_a_sound_store_sound() {
        let opened = with_runs().await;
        let mut calls = Vec::new();
        let found = verify(&*opened.store(), |done, all| calls.push((done, all))).await.unwrap();
        assert_eq!(found, Verification { events: 3, rows: 2, ..Verification::default() });
        assert_eq!(calls, [(3, 3)]);
    }

    #[tokio::test]
    async fn should_find_what_retention_has_removed() {
        let opened = with_runs().await;
        append(&*opened.store(), "runs/b", "workflows.deploy.paused", json!({})).await;
        assert_eq!(opened.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap(), 1);
        let found = verify(&*opened.store(), |_, _| {}).await.unwrap();
        let gap = |position| VerifyFault::Gap { from: position, to: position };
        assert_eq!((found.faults, found.gaps), (vec![gap(1), gap(3)], 2));
    }

    #[test]
    fn should_list_a_missing_event_after_any_number_of_gaps() {
        let mut log = Log::default();
        let data = json!({});
        let event = Event::new("shop.order.placed".parse().unwrap(), "test", &data).unwrap();
        let mut add = |position, version| {
            let stream = StreamId::new("orders/1").unwrap();
            log.add(&RecordedEvent { position, stream, version, event: event.clone() });
        };
        (1..=150).for_each(|version| add(2 * version, version));
        add(301, 152);
        let Verification { gaps, breaks, faults, .. } = log.verification;
        assert_eq!((gaps, breaks, faults.len()), (150, 1, 101));
        assert!(matches!(faults[100], VerifyFault::Stream { expected: 151, found: 152, .. }));
    }
}
