use aios_core::{
    event::Pattern,
    store::{
        Append, Appended, EventStore, MAX_PAGE, Maintenance, RecordedEvent, StoreError, StreamId,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, Params, Row};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{SqliteStore, append::AppendJob, lease::CLOSED};
use crate::rows::StoredEvent;

/// Selects the columns of events. The argument selects the rows.
macro_rules! select_events {
    ($which:literal) => {
        concat!(
            "SELECT events.position, events.id, events.external_id, streams.name, events.version,
                    event_types.name, event_sources.name, events.created_at, events.payload,
                    events.metadata
             FROM events
             JOIN streams ON streams.id = events.stream_id
             JOIN event_types ON event_types.id = events.type_id
             JOIN event_sources ON event_sources.id = events.source_id ",
            $which
        )
    };
}

pub(super) const LOG_PAGE: &str =
    select_events!("WHERE events.position > ?1 ORDER BY events.position LIMIT ?2");

/// `?3` is a JSON array of the ids of the types to leave out.
const LOG_RANGE: &str = select_events!(
    "WHERE events.position > ?1 AND events.position <= ?2
         AND events.type_id NOT IN (SELECT value FROM json_each(?3))
     ORDER BY events.position"
);

const STREAM_PAGE: &str = select_events!(
    "WHERE events.stream_id = (SELECT id FROM streams WHERE name = ?1) AND events.version > ?2
     ORDER BY events.version LIMIT ?3"
);

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let length = batch.len();
        let (reply, replied) = oneshot::channel();
        let job = AppendJob::new(batch, self.max_event_bytes(), reply);
        if let Err(error) = self.writer().send(Box::new(job)).await {
            return vec![Err(error); length];
        }
        match replied.await {
            Ok(reply) => reply.answers,
            Err(_) => vec![Err(StoreError::Closed); length],
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let parameters = (stream.as_str().to_owned(), signed(after), page_limit(limit));
        let read = move |connection: &Connection| {
            let (name, after, limit) = &parameters;
            stored_events(connection, STREAM_PAGE, (name, after, limit))
        };
        self.recorded(self.read("read a stream", read).await?)
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        let parameters = (streams.to_vec(), page_limit(limit));
        let read = move |connection: &Connection| {
            let (streams, limit) = &parameters;
            let read =
                |name: &StreamId| stored_events(connection, STREAM_PAGE, (name.as_str(), 0, limit));
            streams.iter().map(read).collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = self.read("read streams", read).await?;
        found.into_iter().map(|events| self.recorded(events)).collect()
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let parameters = (signed(after), page_limit(limit));
        let read = move |connection: &Connection| stored_events(connection, LOG_PAGE, parameters);
        self.recorded(self.read("read the log", read).await?)
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        // The excluded types are looked up before the events are read. An event that is committed in
        // between could have a new type that matches a pattern, so the range ends at the current head.
        let up_to = signed(up_to.min(*self.head_watch().borrow()));
        let after = signed(after);
        let except = except.to_vec();
        let read = move |connection: &Connection| {
            let excluded = matching_types(connection, &except)?;
            stored_events(connection, LOG_RANGE, (after, up_to, excluded))
        };
        self.recorded(self.read("read the log", read).await?)
    }

    async fn head(&self) -> Result<u64, StoreError> {
        let head = self.head_watch();
        // The writer has dropped its end if the store is closed.
        head.has_changed().map_err(|_| StoreError::Closed)?;
        Ok(*head.borrow())
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        let mut head = self.head_watch().clone();
        let reached = head.wait_for(|head| *head > after).await;
        reached.map(|head| *head).map_err(|_| StoreError::Closed)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer().end().await;
        let mut head = self.head_watch().clone();
        while head.changed().await.is_ok() {}
        self.releases().send_replace(CLOSED);
        Ok(())
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}

impl SqliteStore {
    fn recorded(&self, events: Vec<StoredEvent>) -> Result<Vec<RecordedEvent>, StoreError> {
        events.into_iter().map(|event| event.into_recorded(self.database())).collect()
    }
}

/// Returns the ids of the event types that match one of the patterns, as a JSON array.
fn matching_types(connection: &Connection, patterns: &[Pattern]) -> rusqlite::Result<String> {
    let mut ids = Vec::new();
    let mut statement = connection.prepare_cached("SELECT id, name FROM event_types")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let name: String = row.get(1)?;
        if let Ok(event_type) = name.parse()
            && patterns.iter().any(|pattern| pattern.matches(&event_type))
        {
            ids.push(id.to_string());
        }
    }
    Ok(format!("[{}]", ids.join(",")))
}

pub(super) fn stored_events(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> rusqlite::Result<Vec<StoredEvent>> {
    connection.prepare_cached(sql)?.query_map(parameters, stored_event)?.collect()
}

fn stored_event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        position: row.get(0)?,
        key: Uuid::from_bytes(row.get(1)?),
        external_id: row.get(2)?,
        stream: row.get(3)?,
        version: row.get(4)?,
        event_type: row.get(5)?,
        source: row.get(6)?,
        created_at: row.get(7)?,
        payload: row.get(8)?,
        metadata: row.get(9)?,
    })
}

/// Converts a position or version to SQLite's signed integers. No event is beyond `i64::MAX`.
fn signed(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

fn page_limit(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}
