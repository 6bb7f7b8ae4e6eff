//! Retention: each batch is one job of the writer, and so one transaction with whatever else is
//! queued.
//!
//! Finding expired runs walks the runs that have ended, oldest first, through an index on
//! `updated_at` and `id`, and checks each one: that every reader has passed its last event, that its
//! parent has ended, and that its chain does not need it. A page begins after the last run of the page
//! before, and ends at the batch size, or when it has examined a limited number of runs.
//!
//! After a removal, the writer clears its caches: the number of a removed stream may be given to
//! another one.

use aios_core::{
    event::{EventId, Timestamp},
    store::{Expirable, ExpirePage, Expired, Maintenance, RunStatus, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use crate::{
    retention::{ExpireRuns, ExpiredEvents, ExpiredRuns, Place, Retention, names},
    rows::Key,
    sqlite::{SqliteStore, writer::Writer},
};

/// A page of the runs that ended before a time, after the run with an end and a key, oldest first.
const ENDED: &str = "\
    SELECT id, external_id, parent_run_id, status, first_run_id, position, updated_at
    FROM workflow_runs
    WHERE (status = 'completed' OR status = 'failed' OR status = 'cancelled' OR status = 'continued')
        AND updated_at < ?1 AND (updated_at, id) > (?2, ?3)
    ORDER BY updated_at, id
    LIMIT ?4";

/// Finds the position up to which events can be removed: passed by every checkpoint, and before the last
/// event of the log.
const PASSED: &str = "\
    SELECT min(
        (SELECT coalesce(max(position), 0) FROM events) - 1,
        coalesce((SELECT min(position) FROM checkpoints), 9223372036854775807)
    )";

/// The number of a stream, and the position of its last event.
const STREAM: &str = "\
    SELECT id, (SELECT max(position) FROM events WHERE stream_id = streams.id)
    FROM streams WHERE name = ?1";

/// A page of streams, with the last event of each.
const STREAMS_PAGE: &str = "\
    SELECT s.id, s.name, e.position, e.created_at
    FROM streams s
    LEFT JOIN events e ON e.stream_id = s.id
        AND e.version = (SELECT max(version) FROM events WHERE stream_id = s.id)
    WHERE s.name > ?1 AND s.name < ?2
    ORDER BY s.name
    LIMIT ?3";

/// Whether a run exists and has not ended.
const IS_OPEN: &str = "\
    SELECT count(*) > 0 FROM workflow_runs
    WHERE id = ?1 AND status NOT IN ('completed', 'failed', 'cancelled', 'continued')";

/// Whether the last run of a chain exists: the only one that did not end by continuing.
const HAS_CHAIN: &str =
    "SELECT count(*) > 0 FROM workflow_runs WHERE first_run_id = ?1 AND status <> 'continued'";

/// Whether a run of a chain is open that continues the run at a position, and no later one. The chain is
/// read only for the last of its runs that was continued.
const IS_FOLLOWED: &str = "\
    SELECT CASE
        WHEN ?2 < (
            SELECT position FROM workflow_runs
            WHERE first_run_id = ?1 AND status = 'continued'
            ORDER BY position DESC LIMIT 1
        ) THEN 0
        ELSE EXISTS (
            SELECT 1 FROM workflow_runs
            WHERE first_run_id = ?1
                AND status NOT IN ('completed', 'failed', 'cancelled', 'continued')
        )
    END";

/// Removes the recorded wait of a run. Runs before the row of the run is deleted, which names the
/// shard.
const FORGET: &str = "\
    DELETE FROM run_waits
    WHERE id = ?1 AND shard = (SELECT shard FROM workflow_runs WHERE id = ?1)";

/// Copies a stream to the archive, with names instead of numbers. `incarnation` is the id of the
/// first event, which tells runs apart that used the same id one after the other.
const ARCHIVE: &str = "\
    INSERT INTO archived_events
        (position, id, stream, created_at, version, type, source, external_id, payload, metadata,
         incarnation, archived_at)
    SELECT
        e.position, e.id, s.name, e.created_at, e.version, t.name, c.name, e.external_id, e.payload,
        e.metadata, f.id, ?2
    FROM events e
    JOIN streams s ON s.id = e.stream_id
    JOIN event_types t ON t.id = e.type_id
    JOIN event_sources c ON c.id = e.source_id
    JOIN events f ON f.stream_id = e.stream_id AND f.version = 1
    WHERE e.stream_id = ?1";

impl SqliteStore {
    /// Removes finished runs that are older than the policy allows from the log and the read models,
    /// in small transactions, and returns the number of removed runs. [`Retention`] lists the runs that
    /// are kept. The file does not shrink: SQLite reuses the free space.
    /// [`compact`](Self::compact) returns it to the operating system.
    ///
    /// # Examples
    ///
    /// The maintenance of a store, for example once a day:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_core::store::Expirable;
    /// use aios_store::sqlite::{ExpiredEvents, Retention, SqliteStore};
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 3600);
    ///
    /// async fn maintain(store: &SqliteStore) -> Result<(), aios_core::store::StoreError> {
    ///     let runs = Retention::new(90 * DAY).with_expired(ExpiredEvents::Archive);
    ///     let removed = store.expire_runs(&runs).await?;
    ///     store.expire_streams(Expirable::Requests, &Retention::new(DAY)).await?;
    ///     store.expire_streams(Expirable::Outputs, &Retention::new(7 * DAY)).await?;
    ///     if removed > 10_000 {
    ///         store.compact().await?; // appends wait until it is done
    ///     }
    ///     Ok(())
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// #     Ok(maintain(&SqliteStore::connect("sqlite::memory:").await?).await?)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid. Otherwise the error that SQLite
    /// reports. Transactions that committed before the error stay committed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.expire_runs(self, &*self.clock()).await
    }

    /// Removes streams that are needed for a time only and whose last event is older than the policy
    /// allows, and returns their number; see [`Retention`]. One transaction examines as many streams as
    /// the policy's batch size.
    ///
    /// # Errors
    ///
    /// See [`expire_runs`](Self::expire_runs).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_streams(
        &self,
        what: Expirable,
        policy: &Retention,
    ) -> Result<u64, StoreError> {
        policy.expire(self, &*self.clock(), what).await
    }
}

#[async_trait]
impl ExpireRuns for SqliteStore {
    async fn expire_page(
        &self,
        policy: &Retention,
        after: Option<Place>,
    ) -> Result<ExpiredRuns, StoreError> {
        let policy = policy.clone();
        let now = self.clock().now();
        self.writer().call(move |writer| writer.expire(&policy, after, now)).await
    }
}

#[async_trait]
impl Maintenance for SqliteStore {
    async fn expire(&self, page: &ExpirePage) -> Result<Expired, StoreError> {
        let page = page.clone();
        let now = self.clock().now();
        self.writer().call(move |writer| writer.expire_streams(&page, now)).await
    }
}

/// A finished run that is old enough to be removed.
struct EndedRun {
    key: Uuid,
    /// The id as text, which names the stream.
    run_id: String,
    /// The parent run, which may still need the result.
    parent: Option<String>,
    /// Whether the run ended by continuing as another run.
    is_continued: bool,
    /// The first run of its chain; `None` if that is the run itself.
    first: Option<String>,
    /// Position of its last event.
    position: i64,
    /// Where it stands among the runs that have ended.
    place: Place,
}

/// The runs of a page that can be removed.
struct EndedPage {
    /// The runs, with the ids of their streams.
    expired: Vec<(EndedRun, i64)>,
    /// The last examined run, after which the next page begins; `None` if there are no more.
    next: Option<Place>,
}

impl Writer<'_> {
    /// Removes the expired ones of a page of runs.
    fn expire(
        &mut self,
        policy: &Retention,
        after: Option<Place>,
        now: Timestamp,
    ) -> rusqlite::Result<ExpiredRuns> {
        let before = now.as_micros().saturating_sub(micros(policy.older_than));
        let EndedPage { expired, next } = find_expired(self.connection, policy, after, before)?;
        for (run, stream_id) in &expired {
            if policy.expired == ExpiredEvents::Archive {
                let mut archive = self.connection.prepare_cached(ARCHIVE)?;
                archive.execute((stream_id, now.as_micros()))?;
            }
            remove_run(self.connection, run, *stream_id)?;
        }
        if !expired.is_empty() {
            self.log.reload()?;
        }
        let removed = expired.len().try_into().unwrap_or(u64::MAX);
        let has_freed = expired.iter().any(|(run, _)| run.first.is_some() && !run.is_continued);
        Ok(ExpiredRuns { removed, has_freed, next })
    }

    /// Removes the expired ones of a page of streams.
    fn expire_streams(&mut self, page: &ExpirePage, now: Timestamp) -> rusqlite::Result<Expired> {
        let before = now.as_micros().saturating_sub(micros(page.older_than));
        let passed: i64 =
            self.connection.prepare_cached(PASSED)?.query_row([], |row| row.get(0))?;
        let (after, end) = names(page);
        let mut find = self.connection.prepare_cached(STREAMS_PAGE)?;
        let mut rows = find.query((after, end, page.limit))?;
        let mut expired = Vec::new();
        let mut next = None;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let (position, at): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
            let is_old =
                position.is_some_and(|it| it <= passed) && at.is_some_and(|it| it < before);
            if is_old && !is_open(self.connection, page.what.run_of(&name))? {
                expired.push(row.get::<_, i64>(0)?);
            }
            next = Some(name);
        }
        for stream_id in &expired {
            remove_stream(self.connection, *stream_id)?;
        }
        if !expired.is_empty() {
            self.log.reload()?;
        }
        Ok(Expired { removed: expired.len().try_into().unwrap_or(u64::MAX), next })
    }
}

/// Finds the runs of a page that can be removed.
fn find_expired(
    connection: &Connection,
    policy: &Retention,
    after: Option<Place>,
    before: i64,
) -> rusqlite::Result<EndedPage> {
    let passed: i64 = connection.prepare_cached(PASSED)?.query_row([], |row| row.get(0))?;
    let at = after.map_or(i64::MIN, |after| after.ended_at.as_micros());
    let key = after.map_or(Uuid::nil(), |after| after.key);
    let mut find = connection.prepare_cached(ENDED)?;
    let mut rows = find.query((before, at, &key.as_bytes()[..], policy.examined()))?;
    let (mut found, mut examined, mut next) = (Vec::new(), 0, None);
    while found.len() < usize::from(policy.batch_size) {
        let Some(row) = rows.next()? else {
            let next = next.filter(|_| examined == policy.examined());
            return Ok(EndedPage { expired: found, next });
        };
        let run = ended_run(row)?;
        (examined, next) = (examined + 1, Some(run.place));
        if let Some(stream_id) = passed_stream(connection, &run, passed)?
            && !is_needed(connection, &run)?
        {
            found.push((run, stream_id));
        }
    }
    Ok(EndedPage { expired: found, next })
}

/// The id of a run's stream, if its last event can be removed.
fn passed_stream(
    connection: &Connection,
    run: &EndedRun,
    passed: i64,
) -> rusqlite::Result<Option<i64>> {
    if run.position > passed {
        return Ok(None);
    }
    let name = format!("runs/{}", run.run_id);
    let stream = connection
        .prepare_cached(STREAM)?
        .query_row([name], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?)))
        .optional()?;
    Ok(stream.and_then(|(id, last)| last.filter(|last| *last <= passed).map(|_| id)))
}

/// Decodes a row of [`ENDED`].
fn ended_run(row: &Row<'_>) -> rusqlite::Result<EndedRun> {
    let key = Uuid::from_bytes(row.get(0)?);
    let external_id: Option<String> = row.get(1)?;
    let status: String = row.get(3)?;
    Ok(EndedRun {
        key,
        run_id: external_id.unwrap_or_else(|| EventId::from(key).to_string()),
        parent: row.get(2)?,
        is_continued: RunStatus::parse(&status) == Some(RunStatus::Continued),
        first: row.get(4)?,
        position: row.get(5)?,
        place: Place { ended_at: Timestamp::from_micros(row.get(6)?), key },
    })
}

/// Whether the run may still be needed: by its parent, by the last run of its chain, or by the run that it
/// continued as.
fn is_needed(connection: &Connection, run: &EndedRun) -> rusqlite::Result<bool> {
    if is_open(connection, run.parent.as_deref())? {
        return Ok(true);
    }
    if !run.is_continued {
        return Ok(false);
    }
    let mut followed = connection.prepare_cached(IS_FOLLOWED)?;
    let first = run.first.as_ref().unwrap_or(&run.run_id);
    if followed.query_row((first, run.position), |row| row.get(0))? {
        return Ok(true);
    }
    connection.prepare_cached(HAS_CHAIN)?.query_row([&run.run_id], |row| row.get(0))
}

/// Whether there is a run with this id that has not ended.
fn is_open(connection: &Connection, run_id: Option<&str>) -> rusqlite::Result<bool> {
    let Some(run) = run_id.and_then(Key::of) else { return Ok(false) };
    let key = &run.uuid.as_bytes()[..];
    connection.prepare_cached(IS_OPEN)?.query_row([key], |row| row.get(0))
}

/// Deletes a stream and its events.
fn remove_stream(connection: &Connection, stream_id: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM events WHERE stream_id = ?1")?.execute([stream_id])?;
    connection.prepare_cached("DELETE FROM streams WHERE id = ?1")?.execute([stream_id])?;
    Ok(())
}

/// Deletes a run: its stream, its tasks, its wait, and its row.
fn remove_run(connection: &Connection, run: &EndedRun, stream_id: i64) -> rusqlite::Result<()> {
    remove_stream(connection, stream_id)?;
    connection
        .prepare_cached("DELETE FROM agent_tasks WHERE run_id = ?1")?
        .execute([&run.run_id])?;
    let key = &run.key.as_bytes()[..];
    connection.prepare_cached(FORGET)?.execute([key])?;
    connection.prepare_cached("DELETE FROM workflow_runs WHERE id = ?1")?.execute([key])?;
    Ok(())
}

/// A duration in the unit of the timestamps.
fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{SqliteOptions, schema::open_writer};

    #[test]
    fn should_read_a_page_of_ended_runs_from_a_range_of_an_index() {
        let connection = open_writer(&SqliteOptions::memory(), None).unwrap();
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {ENDED}")).unwrap();
        let steps = explain.query_map((0, 0, &[0_u8; 16][..], 7), |row| row.get(3)).unwrap();
        let plan = steps.collect::<rusqlite::Result<Vec<String>>>().unwrap().join("; ");
        let range = "SEARCH workflow_runs USING INDEX idx_workflow_runs_ended \
                     ((updated_at,id)>(?,?) AND updated_at<?)";
        assert_eq!(plan, range);
    }
}
