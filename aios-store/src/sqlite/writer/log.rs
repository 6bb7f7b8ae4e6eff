//! The writer's view of the event log.
//!
//! The tables are normalised: a row of `events` refers to its stream, its type and its source by
//! numbers. For each append, the writer needs the end of the stream (its number, its last version,
//! whether it is closed) and the numbers of the names. All three come from bounded caches, so that
//! the usual append of a running process is one `INSERT` per event and the changes of read models.
//!
//! The order of a failed insert is worth knowing: SQLite reports a stored id when the row is
//! inserted, possibly after earlier rows of the same append. `undo_insert` removes those, so that
//! the append leaves nothing in the transaction.

use std::sync::Arc;

use aios_core::{
    catalog::{closes, ending},
    event::EventType,
    store::{Appended, StreamId},
};
use hashlink::LruCache;
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::row::{EventRow, Prepared};
use crate::{
    repeat::{Location, Lookup},
    sqlite::error::is_unique_violation,
};

/// Number of streams whose end is cached.
const STREAMS: usize = 4096;

/// Number of event types whose id is cached, and of event sources.
const NAMES: usize = 1024;

/// Inserts an event. The unique index on `id` refuses a stored one.
const INSERT_EVENT: &str = "\
    INSERT INTO events (position, id, stream_id, version, type_id, source_id, created_at,
                        external_id, metadata, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// Finds where an event is stored, by its key.
const FIND_EVENT: &str = "\
    SELECT streams.name, events.version, events.position
    FROM events JOIN streams ON streams.id = events.stream_id WHERE events.id = ?1";

/// Finds a stream, the version of its last event, and the type of that event.
const FIND_STREAM: &str = "\
    SELECT streams.id, coalesce(events.version, 0), event_types.name
    FROM streams
    LEFT JOIN events ON events.stream_id = streams.id
        AND events.version = (SELECT max(version) FROM events WHERE stream_id = streams.id)
    LEFT JOIN event_types ON event_types.id = events.type_id
    WHERE streams.name = ?1";

/// Finds the type of a stream's first event.
///
/// Only needed for a stream whose last event may have closed it.
const FIND_FIRST_TYPE: &str = "\
    SELECT event_types.name FROM events JOIN event_types ON event_types.id = events.type_id
    WHERE events.stream_id = ?1 AND events.version = 1";

/// The end of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// The number of the stream in its table.
    id: i64,
    pub(crate) version: i64,
    /// Whether the stream accepts no more events.
    pub(crate) is_closed: bool,
}

/// Access to the event log for the writer: prepared statements, and bounded caches of what it looks up
/// most.
///
/// No other connection writes, so the caches are always correct, except after a rollback. Call
/// [`reload`](Self::reload) then.
pub(crate) struct Log<'c> {
    connection: &'c Connection,
    /// Position of the last event.
    pub(crate) head: i64,
    /// Ends of the streams that were appended to last.
    streams: LruCache<StreamId, End>,
    types: LruCache<EventType, i64>,
    sources: LruCache<Arc<str>, i64>,
    insert_event: Statement<'c>,
    insert_stream: Statement<'c>,
    find_stream: Statement<'c>,
    find_event: Statement<'c>,
}

impl<'c> Log<'c> {
    /// Prepares the statements.
    pub(crate) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            head: 0,
            streams: LruCache::new(STREAMS),
            types: LruCache::new(NAMES),
            sources: LruCache::new(NAMES),
            insert_event: connection.prepare(INSERT_EVENT)?,
            insert_stream: connection.prepare("INSERT INTO streams (name) VALUES (?1)")?,
            find_stream: connection.prepare(FIND_STREAM)?,
            find_event: connection.prepare(FIND_EVENT)?,
        })
    }

    /// Clears the caches and reads the head of the log from the database.
    pub(crate) fn reload(&mut self) -> rusqlite::Result<()> {
        self.streams.clear();
        self.types.clear();
        self.sources.clear();
        let sql = "SELECT coalesce(max(position), 0) FROM events";
        self.head = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(())
    }

    /// Returns the end of a stream, or `None` if the stream does not exist.
    pub(super) fn end_of(&mut self, stream: &StreamId) -> rusqlite::Result<Option<End>> {
        if let Some(end) = self.streams.get(stream) {
            return Ok(Some(*end));
        }
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let found = self.find_stream.query_row([stream.as_str()], read).optional()?;
        let Some((id, version, last)) = found else { return Ok(None) };
        let end = End { id, version, is_closed: self.is_closed(stream, id, last)? };
        self.streams.insert(stream.clone(), end);
        Ok(Some(end))
    }

    /// Whether a stream whose last event has the type `last` accepts no more events. The first
    /// event is looked up only if the last one may have closed the stream.
    fn is_closed(
        &self,
        stream: &StreamId,
        id: i64,
        last: Option<String>,
    ) -> rusqlite::Result<bool> {
        let last: Option<EventType> = last.and_then(|name| name.parse().ok());
        let Some(last) = last.filter(|last| ending(stream, last).is_some()) else {
            return Ok(false);
        };
        let mut find = self.connection.prepare_cached(FIND_FIRST_TYPE)?;
        let first: String = find.query_row([id], |row| row.get(0))?;
        Ok(first.parse().is_ok_and(|first| closes(stream, &first, &last)))
    }

    /// Inserts all events and returns the place of the last one. Returns `None` and inserts nothing if
    /// an id is already stored.
    ///
    /// The unique index on the ids detects stored ids. A query before the insert would search the index
    /// twice for each event.
    pub(super) fn insert(
        &mut self,
        prepared: &mut Prepared,
        end: Option<End>,
    ) -> rusqlite::Result<Option<Appended>> {
        let mut last = end.map_or_else(|| self.create(&prepared.stream), Ok)?;
        let mut position = self.head;
        for row in &mut prepared.rows {
            last.version += 1;
            position += 1;
            row.recorded.version = last.version.cast_unsigned();
            row.recorded.position = position.cast_unsigned();
            match self.insert_one(row, last, position) {
                Ok(()) => {}
                Err(error) if is_unique_violation(&error) => {
                    self.undo_insert(end.is_none().then_some(last.id))?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        self.remember(prepared, last);
        self.head = position;
        let version = last.version.cast_unsigned();
        Ok(Some(Appended { version, position: position.cast_unsigned(), repeated: false }))
    }

    /// Inserts a stream without events.
    fn create(&mut self, stream: &StreamId) -> rusqlite::Result<End> {
        let id = self.insert_stream.insert([stream.as_str()])?;
        Ok(End { id, version: 0, is_closed: false })
    }

    /// Caches the end of a stream. If the append may have closed the stream, the next append looks it up.
    fn remember(&mut self, prepared: &Prepared, end: End) {
        let last = prepared.rows.last().map(|row| &row.recorded.event.event_type);
        if last.is_some_and(|last| ending(&prepared.stream, last).is_some()) {
            self.streams.remove(&prepared.stream);
        } else {
            self.streams.insert(prepared.stream.clone(), end);
        }
    }

    /// Inserts the row of an event at this position and as this version.
    fn insert_one(&mut self, row: &EventRow, end: End, position: i64) -> rusqlite::Result<()> {
        let event = &row.recorded.event;
        let type_id = self.type_id(&event.event_type)?;
        let source_id = self.source_id(&event.source)?;
        let inserted = self.insert_event.execute(params![
            position,
            &row.key.as_bytes()[..],
            end.id,
            end.version,
            type_id,
            source_id,
            event.timestamp.as_micros(),
            event.id.foreign(),
            row.metadata,
            event.payload.as_str(),
        ]);
        inserted.map(drop)
    }

    /// Deletes the rows that an append inserted before one of its ids turned out to be stored.
    ///
    /// Their positions are the highest ones, because nothing else writes. A stream that this append
    /// created goes too.
    fn undo_insert(&self, created_stream: Option<i64>) -> rusqlite::Result<()> {
        let connection = self.connection;
        connection
            .prepare_cached("DELETE FROM events WHERE position > ?1")?
            .execute([self.head])?;
        if let Some(id) = created_stream {
            connection.prepare_cached("DELETE FROM streams WHERE id = ?1")?.execute([id])?;
        }
        Ok(())
    }

    /// Looks up the ids of an append's events.
    pub(super) fn look_up(&mut self, prepared: &Prepared) -> rusqlite::Result<Lookup> {
        let mut found = Vec::with_capacity(prepared.rows.len());
        for row in &prepared.rows {
            let key = &row.key.as_bytes()[..];
            let location = self.find_event.query_row([key], location).optional()?;
            found.push((&row.recorded.event.id, location));
        }
        Ok(Lookup::of(&prepared.stream, &found))
    }

    /// Returns the number of an event type.
    fn type_id(&mut self, event_type: &EventType) -> rusqlite::Result<i64> {
        if let Some(id) = self.types.get(event_type) {
            return Ok(*id);
        }
        let id = self.intern("event_types", event_type.as_str())?;
        self.types.insert(event_type.clone(), id);
        Ok(id)
    }

    /// Returns the number of a source.
    fn source_id(&mut self, source: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(id) = self.sources.get(source) {
            return Ok(*id);
        }
        let id = self.intern("event_sources", source)?;
        self.sources.insert(Arc::clone(source), id);
        Ok(id)
    }

    /// Returns the id of a name. Inserts the name if it is new.
    fn intern(&self, table: &str, name: &str) -> rusqlite::Result<i64> {
        let find = format!("SELECT id FROM {table} WHERE name = ?1");
        let existing = self
            .connection
            .prepare_cached(&find)?
            .query_row([name], |row| row.get(0))
            .optional()?;
        match existing {
            Some(id) => Ok(id),
            None => {
                let insert = format!("INSERT INTO {table} (name) VALUES (?1)");
                self.connection.prepare_cached(&insert)?.insert([name])
            }
        }
    }
}

/// Decodes a row of [`FIND_EVENT`].
fn location(row: &rusqlite::Row<'_>) -> rusqlite::Result<Location> {
    let stream: String = row.get(0)?;
    let version: i64 = row.get(1)?;
    let position: i64 = row.get(2)?;
    let stream = StreamId::new(stream).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Location { stream, version: version.cast_unsigned(), position: position.cast_unsigned() })
}
