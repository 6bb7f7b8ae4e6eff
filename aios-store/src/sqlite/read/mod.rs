//! Reads: the connections that read, and the statements that select events and rows.
//!
//! All reads of events select the same columns and join the names back in. They go through one of two
//! indexes: the primary key of positions, or the unique index on stream and version. A page has at most
//! `MAX_PAGE` events.

mod pool;
mod select;

use aios_core::event::Pattern;
use rusqlite::{Connection, Params, Row};
use uuid::Uuid;

use crate::rows::StoredEvent;

pub(crate) use self::{
    pool::ReadPool,
    select::{Path, asks_for_open_runs, has_few_open_runs, select},
};

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

/// A page of the log, in the order of positions.
pub(super) const LOG_PAGE: &str =
    select_events!("WHERE events.position > ?1 ORDER BY events.position LIMIT ?2");

/// `?3` is a JSON array of the ids of the types to leave out.
pub(super) const LOG_RANGE: &str = select_events!(
    "WHERE events.position > ?1 AND events.position <= ?2
         AND events.type_id NOT IN (SELECT value FROM json_each(?3))
     ORDER BY events.position"
);

/// A page of a stream, in the order of versions.
pub(super) const STREAM_PAGE: &str = select_events!(
    "WHERE events.stream_id = (SELECT id FROM streams WHERE name = ?1) AND events.version > ?2
     ORDER BY events.version LIMIT ?3"
);

/// Returns the ids of the event types that match one of the patterns, as a JSON array.
pub(super) fn matching_types(
    connection: &Connection,
    patterns: &[Pattern],
) -> rusqlite::Result<String> {
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

/// Runs one of the statements that select events.
pub(super) fn stored_events(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> rusqlite::Result<Vec<StoredEvent>> {
    connection.prepare_cached(sql)?.query_map(parameters, stored_event)?.collect()
}

/// Takes the columns in the order of `select_events`.
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
