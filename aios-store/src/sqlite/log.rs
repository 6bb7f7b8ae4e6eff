use std::sync::Arc;

use aios_core::{
    event::EventType,
    store::{Appended, StreamId, closes, ending},
};
use hashlink::LruCache;
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::{
    error::is_unique_violation,
    row::{EventRow, Prepared},
};
use crate::validation::{Location, Lookup};

/// Streams whose end the writer remembers.
const STREAMS: usize = 4096;

/// Event types, and as many sources, whose number the writer remembers.
const NAMES: usize = 1024;

const INSERT_EVENT: &str = "\
    INSERT INTO events (position, id, stream_id, version, type_id, source_id, created_at,
                        external_id, metadata, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const FIND_EVENT: &str = "\
    SELECT streams.name, events.version, events.position
    FROM events JOIN streams ON streams.id = events.stream_id WHERE events.id = ?1";

/// A stream, where it ends, and the type of its last event.
const FIND_STREAM: &str = "\
    SELECT streams.id, coalesce(events.version, 0), event_types.name
    FROM streams
    LEFT JOIN events ON events.stream_id = streams.id
        AND events.version = (SELECT max(version) FROM events WHERE stream_id = streams.id)
    LEFT JOIN event_types ON event_types.id = events.type_id
    WHERE streams.name = ?1";

/// The type of a stream's first event.
const FIND_BEGINNING: &str = "\
    SELECT event_types.name FROM events JOIN event_types ON event_types.id = events.type_id
    WHERE events.stream_id = ?1 AND events.version = 1";

/// Where a stream ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    id: i64,
    pub(super) version: i64,
    /// Whether it takes no more events.
    pub(super) is_closed: bool,
}

/// The log as its only writer sees it: statements, and bounded copies of what it looks up most.
///
/// Being the only writer, it is always right about them, except after a rollback: then
/// [`reload`](Self::reload).
pub(super) struct Log<'c> {
    connection: &'c Connection,
    /// Position of the last event.
    pub(super) head: i64,
    streams: LruCache<StreamId, End>,
    types: LruCache<EventType, i64>,
    sources: LruCache<Arc<str>, i64>,
    insert_event: Statement<'c>,
    insert_stream: Statement<'c>,
    find_stream: Statement<'c>,
    find_event: Statement<'c>,
}

impl<'c> Log<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
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

    /// Forgets what it remembers and asks the database where the log ends.
    pub(super) fn reload(&mut self) -> rusqlite::Result<()> {
        self.streams.clear();
        self.types.clear();
        self.sources.clear();
        let sql = "SELECT coalesce(max(position), 0) FROM events";
        self.head = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(())
    }

    /// Where a stream ends; `None` if it has no event.
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
        let mut find = self.connection.prepare_cached(FIND_BEGINNING)?;
        let first: String = find.query_row([id], |row| row.get(0))?;
        Ok(first.parse().is_ok_and(|first| closes(stream, &first, &last)))
    }

    /// Inserts all events and returns where the last one landed; `None`, and nothing inserted, if an
    /// id is taken.
    ///
    /// The unique index on the ids is the check: it is looked at once an event, not twice.
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
                    self.undo(end.is_none().then_some(last.id))?;
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

    fn create(&mut self, stream: &StreamId) -> rusqlite::Result<End> {
        let id = self.insert_stream.insert([stream.as_str()])?;
        Ok(End { id, version: 0, is_closed: false })
    }

    /// Remembers where a stream ends. If the append may have closed it, the next one looks it up.
    fn remember(&mut self, prepared: &Prepared, end: End) {
        let last = prepared.rows.last().map(|row| &row.recorded.event.event_type);
        if last.is_some_and(|last| ending(&prepared.stream, last).is_some()) {
            self.streams.remove(&prepared.stream);
        } else {
            self.streams.insert(prepared.stream.clone(), end);
        }
    }

    fn insert_one(&mut self, row: &EventRow, place: End, position: i64) -> rusqlite::Result<()> {
        let event = &row.recorded.event;
        let type_id = self.type_id(&event.event_type)?;
        let source_id = self.source_id(&event.source)?;
        let inserted = self.insert_event.execute(params![
            position,
            &row.key.as_bytes()[..],
            place.id,
            place.version,
            type_id,
            source_id,
            event.timestamp.as_micros(),
            event.id.foreign(),
            row.metadata,
            event.payload.as_str(),
        ]);
        inserted.map(drop)
    }

    /// Takes back what an append inserted before one of its ids turned out to be taken.
    fn undo(&self, created_stream: Option<i64>) -> rusqlite::Result<()> {
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
            let place = self.find_event.query_row([key], place).optional()?;
            found.push((&row.recorded.event.id, place));
        }
        Ok(Lookup::of(&prepared.stream, &found))
    }

    fn type_id(&mut self, event_type: &EventType) -> rusqlite::Result<i64> {
        if let Some(id) = self.types.get(event_type) {
            return Ok(*id);
        }
        let id = self.intern("event_types", event_type.as_str())?;
        self.types.insert(event_type.clone(), id);
        Ok(id)
    }

    fn source_id(&mut self, source: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(id) = self.sources.get(source) {
            return Ok(*id);
        }
        let id = self.intern("event_sources", source)?;
        self.sources.insert(Arc::clone(source), id);
        Ok(id)
    }

    /// The number of a name, which it gets here if it has none.
    fn intern(&self, table: &str, name: &str) -> rusqlite::Result<i64> {
        let find = format!("SELECT id FROM {table} WHERE name = ?1");
        let known = self
            .connection
            .prepare_cached(&find)?
            .query_row([name], |row| row.get(0))
            .optional()?;
        match known {
            Some(id) => Ok(id),
            None => {
                let insert = format!("INSERT INTO {table} (name) VALUES (?1)");
                self.connection.prepare_cached(&insert)?.insert([name])
            }
        }
    }
}

fn place(row: &rusqlite::Row<'_>) -> rusqlite::Result<Location> {
    let stream: String = row.get(0)?;
    let version: i64 = row.get(1)?;
    let position: i64 = row.get(2)?;
    let stream = StreamId::new(stream).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Location { stream, version: version.cast_unsigned(), position: position.cast_unsigned() })
}
