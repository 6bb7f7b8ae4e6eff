//! Waits of runs that an engine has evicted from its memory; the memory store explains what they
//! are for.
//!
//! The statements are SQL functions of the migrations. Those that write lock the leases of the
//! shards for the transaction, so that no shard changes its owner between the check of the fence
//! and the commit. Those that read are written so that they are fast before PostgreSQL has gathered
//! statistics.

use std::sync::Arc;

use aios_core::{
    event::{EventId, Timestamp},
    store::{
        DueRun, Fence, MAX_PAGE, Page, PageRequest, Shard, StoreError, StreamId, Unsettled, Wait,
        Waits,
    },
};
use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    postgres::{PostgresStore, connection::Statement, nul_escape::unescape},
    rows::{self, Key},
};

/// Records waits under their fences.
const NOTE: &str = "SELECT {schema}.note_waits($1, $2, $3, $4, $5, $6)";
/// Deletes waits under their fences.
const FORGET: &str = "SELECT {schema}.forget_waits($1, $2, $3)";
/// The runs whose wake-up time has passed.
const DUE: &str =
    "SELECT wake_at, id, external_id FROM {schema}.due_runs($1, $2, $3, $4, $5) WHERE {primary}";
/// The open runs without a wait.
const UNNOTED: &str =
    "SELECT id, external_id FROM {schema}.unnoted_runs($1, $2, $3) WHERE {primary}";
/// The open runs whose journal has grown since their wait.
const OUTDATED: &str =
    "SELECT id, external_id FROM {schema}.outdated_runs($1, $2, $3) WHERE {primary}";

/// Waits as arguments of the SQL functions, one array per field.
#[derive(Default)]
struct WaitArguments {
    ids: Vec<Uuid>,
    streams: Vec<String>,
    shards: Vec<i32>,
    epochs: Vec<i64>,
    versions: Vec<i32>,
    wakes: Vec<Option<i64>>,
}

impl WaitArguments {
    /// Adds the columns that both functions have.
    fn push_run(&mut self, key: Uuid, fence: Fence) {
        self.ids.push(key);
        self.shards.push(fence.shard.number().into());
        self.epochs.push(i64::try_from(fence.epoch.0).unwrap_or(i64::MAX));
    }

    /// Adds a wait, unless the run id cannot have a journal.
    ///
    /// A stream with NUL cannot be stored in PostgreSQL, so a run with such an id has no journal to wait for.
    fn push(&mut self, wait: &Wait) {
        let (Some(key), Ok(stream)) = (Key::of(&wait.run_id), StreamId::of_run(&wait.run_id))
        else {
            return;
        };
        if stream.as_str().contains('\0') {
            return;
        }
        self.push_run(key.uuid, wait.fence);
        self.streams.push(stream.as_str().to_owned());
        self.versions.push(i32::try_from(wait.version).unwrap_or(i32::MAX));
        self.wakes.push(wait.wake_at.map(Timestamp::as_micros));
    }
}

#[async_trait]
impl Waits for PostgresStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        let mut arguments = WaitArguments::default();
        waits.iter().for_each(|wait| arguments.push(wait));
        let query = Statement::new(self.0.database.schema().fill(NOTE))
            .bind(arguments.ids)
            .bind(arguments.streams)
            .bind(arguments.shards)
            .bind(arguments.epochs)
            .bind(arguments.versions)
            .bind(arguments.wakes);
        self.0.database.fetch_all("record waiting runs", query).await.map(drop)
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        let mut arguments = WaitArguments::default();
        for (run_id, fence) in runs {
            if let Some(key) = Key::of(run_id) {
                arguments.push_run(key.uuid, *fence);
            }
        }
        let query = Statement::new(self.0.database.schema().fill(FORGET))
            .bind(arguments.ids)
            .bind(arguments.shards)
            .bind(arguments.epochs);
        self.0.database.fetch_all("forget waiting runs", query).await.map(drop)
    }

    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError> {
        let last = beyond.and_then(|run| Some((run.wake_at.as_micros(), Key::of(&run.run_id)?)));
        let (after, key) = last.map_or((i64::MIN, Uuid::nil()), |(at, key)| (at, key.uuid));
        let query = Statement::new(self.0.database.schema().fill(DUE))
            .bind(shards.iter().map(|shard| i32::from(shard.number())).collect::<Vec<_>>())
            .bind(after)
            .bind(key)
            .bind(up_to.as_micros())
            .bind(page_limit(limit));
        self.fetch("read due runs", query, |row| {
            let wake_at = Timestamp::from_micros(row.try_get(0)?);
            Ok(DueRun { wake_at, run_id: run_id(row, 1)? })
        })
        .await
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        let limit = page.limit.clamp(1, MAX_PAGE);
        let after = rows::key_after(page)?.unwrap_or_default();
        let schema = self.0.database.schema();
        let query = match which {
            Unsettled::Unnoted => Statement::new(schema.fill(UNNOTED))
                .bind(shards.iter().map(|shard| i64::from(shard.number())).collect::<Vec<_>>()),
            Unsettled::Outdated => Statement::new(schema.fill(OUTDATED))
                .bind(shards.iter().map(|shard| i32::from(shard.number())).collect::<Vec<_>>()),
        };
        let query = query.bind(after).bind(page_limit(limit).saturating_add(1));
        let found = self.fetch("read unsettled runs", query, |row| run_id(row, 0)).await?;
        Ok(rows::ids_page(found, limit))
    }
}

impl PostgresStore {
    /// Runs a read and decodes its rows.
    async fn fetch<T>(
        &self,
        operation: &'static str,
        query: Statement,
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let database = &self.0.database;
        let rows = database.fetch_all(operation, query).await?;
        let found: sqlx::Result<Vec<T>> = rows.iter().map(read).collect();
        found.map_err(|error| database.error(operation, error))
    }
}

/// Reads the id of a run from its key in one column and its text in the next column.
fn run_id(row: &PgRow, index: usize) -> sqlx::Result<String> {
    let key: Uuid = row.try_get(index)?;
    let external_id: Option<String> = row.try_get(index + 1)?;
    Ok(external_id.map(unescape).unwrap_or_else(|| EventId::from(key).to_string()))
}

/// The number of rows of a page, at most `MAX_PAGE`.
fn page_limit(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}
