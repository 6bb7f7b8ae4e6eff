//! Waits of runs that an engine has evicted from its memory; the memory store explains what they
//! are for.
//!
//! Notes are written by the writer, which checks the fence against its own copy of the leases. The
//! three queries of an engine run on reading connections. They have to stay fast while most runs
//! wait, so each of them is written around the index that it should use: `CROSS JOIN` fixes the
//! order of a join in SQLite, and a unary plus hides a column from the choice of an index.

use std::sync::Arc;

use aios_core::{
    event::{EventId, Timestamp},
    store::{
        DueRun, Fence, MAX_PAGE, Page, PageRequest, Shard, StoreError, StreamId, Unsettled, Wait,
        Waits,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, Params, Row};
use uuid::Uuid;

use crate::{
    rows::{self, Key},
    sqlite::{SqliteStore, writer::Writer},
};

/// Records a wait. Does nothing if the run has no journal, or if a wait at a higher version is recorded.
const NOTE: &str = "\
    INSERT INTO run_waits (shard, id, stream_id, version, wake_at)
    SELECT ?1, ?2, id, ?4, ?5 FROM streams WHERE name = ?3
    ON CONFLICT (shard, id) DO UPDATE
    SET stream_id = excluded.stream_id, version = excluded.version, wake_at = excluded.wake_at
    WHERE stream_id <> excluded.stream_id OR version <= excluded.version";

/// Deletes a wait of one shard. A wait that was noted under another shard stays.
const FORGET: &str = "DELETE FROM run_waits WHERE shard = ?1 AND id = ?2";

/// Finds open runs whose wake-up time has passed, after the last one of the page before. `?1` is a
/// JSON array of shards, here and in the following statements.
const DUE: &str = "\
    SELECT r.id, r.external_id, w.wake_at
    FROM run_waits w CROSS JOIN workflow_runs r ON r.id = w.id
    WHERE (w.wake_at, w.id) > (?2, ?3) AND w.wake_at <= ?4
        AND w.shard IN (SELECT value FROM json_each(?1))
        AND (r.status = 'blocked' OR r.status = 'cancelling'
            OR r.status = 'paused' OR r.status = 'running')
    ORDER BY w.wake_at, w.id LIMIT ?5";

/// Finds open runs without a wait. The unary plus keeps SQLite from scanning all runs in the order
/// of their keys.
const UNNOTED: &str = "\
    SELECT r.id, r.external_id
    FROM workflow_runs r
    WHERE r.shard IN (SELECT value FROM json_each(?1))
        AND (r.status = 'blocked' OR r.status = 'cancelling'
            OR r.status = 'paused' OR r.status = 'running')
        AND r.deleted_at IS NULL
        AND +r.id > ?2
        AND NOT EXISTS (SELECT 1 FROM run_waits w WHERE w.shard = r.shard AND w.id = r.id)
    ORDER BY +r.id LIMIT ?3";

/// Finds open runs whose journal has an event after the version of their wait. Versions are dense,
/// so it is enough to look for the next one.
const OUTDATED: &str = "\
    SELECT r.id, r.external_id
    FROM run_waits w CROSS JOIN workflow_runs r ON r.id = w.id
    WHERE w.shard IN (SELECT value FROM json_each(?1)) AND w.id > ?2
        AND EXISTS (
            SELECT 1 FROM events e WHERE e.stream_id = w.stream_id AND e.version = w.version + 1
        )
        AND (r.status = 'blocked' OR r.status = 'cancelling'
            OR r.status = 'paused' OR r.status = 'running')
        AND r.deleted_at IS NULL
    ORDER BY w.id LIMIT ?3";

#[async_trait]
impl Waits for SqliteStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        let waits = waits.to_vec();
        self.writer().call(move |writer| waits.iter().try_for_each(|wait| writer.note(wait))).await
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        let runs = runs.to_vec();
        let forget = move |writer: &mut Writer<'_>| {
            runs.iter().try_for_each(|(run_id, fence)| writer.forget(run_id, *fence))
        };
        self.writer().call(forget).await
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
        let shards = json_array(shards);
        let up_to = up_to.as_micros();
        let limit = page_limit(limit);
        let read = move |connection: &Connection| {
            let parameters = (&shards, after, &key.as_bytes()[..], up_to, limit);
            query(connection, DUE, parameters, |row| {
                let wake_at = Timestamp::from_micros(row.get(2)?);
                Ok(DueRun { wake_at, run_id: run_id(row)? })
            })
        };
        self.read("read due runs", read).await
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        let limit = page.limit.clamp(1, MAX_PAGE);
        let after = rows::key_after(page)?.unwrap_or_default();
        let shards = json_array(shards);
        let rows = page_limit(limit).saturating_add(1);
        let sql = match which {
            Unsettled::Unnoted => UNNOTED,
            Unsettled::Outdated => OUTDATED,
        };
        let read = move |connection: &Connection| {
            query(connection, sql, (&shards, &after.as_bytes()[..], rows), run_id)
        };
        let found = self.read("read unsettled runs", read).await?;
        Ok(rows::ids_page(found, limit))
    }
}

impl Writer<'_> {
    /// Records a wait. Ignores it if the fence is outdated: the shard has a new owner, and its
    /// notes count.
    fn note(&self, wait: &Wait) -> rusqlite::Result<()> {
        let (Some(key), Ok(stream)) = (Key::of(&wait.run_id), StreamId::of_run(&wait.run_id))
        else {
            return Ok(());
        };
        if self.leases.check(Some(wait.fence)).is_err() {
            return Ok(());
        }
        let parameters = (
            wait.fence.shard.number(),
            &key.uuid.as_bytes()[..],
            stream.as_str(),
            wait.version.cast_signed(),
            wait.wake_at.map(Timestamp::as_micros),
        );
        self.connection.prepare_cached(NOTE)?.execute(parameters).map(drop)
    }

    /// Deletes a wait, unless the fence is outdated.
    fn forget(&self, run_id: &str, fence: Fence) -> rusqlite::Result<()> {
        let Some(key) = Key::of(run_id) else { return Ok(()) };
        if self.leases.check(Some(fence)).is_err() {
            return Ok(());
        }
        let key = &key.uuid.as_bytes()[..];
        self.connection.prepare_cached(FORGET)?.execute((fence.shard.number(), key)).map(drop)
    }
}

/// Runs a read and decodes its rows.
fn query<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(parameters, read)?.collect()
}

/// Reads the id of a run from its key in the first column and its text in the second.
fn run_id(row: &Row<'_>) -> rusqlite::Result<String> {
    let key = Uuid::from_bytes(row.get(0)?);
    let external_id: Option<String> = row.get(1)?;
    Ok(external_id.unwrap_or_else(|| EventId::from(key).to_string()))
}

/// The shards as one parameter. The text of the statement is then the same for any number of
/// shards, and is compiled once.
fn json_array(shards: &[Shard]) -> String {
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    format!("[{}]", shards.join(","))
}

/// The number of rows of a page, at most `MAX_PAGE`.
fn page_limit(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}
