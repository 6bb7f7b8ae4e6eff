-- The event log, the source of truth. Names of streams, types and sources are stored once and referenced
-- by small integers. All timestamps are microseconds since the Unix epoch, UTC.

CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_streams_name ON streams (name);

CREATE TABLE event_types (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_event_types_name ON event_types (name);

CREATE TABLE event_sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_event_sources_name ON event_sources (name);

-- `id` is the key of the event's id: the UUID itself, or the UUIDv5 of a foreign id, whose text is then
-- stored in `external_id`. `created_at` is the event's own timestamp.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    stream_id INTEGER NOT NULL CONSTRAINT fk_events_streams REFERENCES streams (id),
    version INTEGER NOT NULL,
    type_id INTEGER NOT NULL CONSTRAINT fk_events_event_types REFERENCES event_types (id),
    source_id INTEGER NOT NULL CONSTRAINT fk_events_event_sources REFERENCES event_sources (id),
    created_at INTEGER NOT NULL,
    external_id TEXT,
    metadata TEXT,
    payload TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_events_id ON events (id);
CREATE UNIQUE INDEX idx_events_stream_id_version ON events (stream_id, version);

-- The log in a readable form.
CREATE VIEW event_log AS
SELECT
    events.position,
    coalesce(events.external_id, lower(
        substr(hex(events.id), 1, 8) || '-' || substr(hex(events.id), 9, 4) || '-'
        || substr(hex(events.id), 13, 4) || '-' || substr(hex(events.id), 17, 4) || '-'
        || substr(hex(events.id), 21)
    )) AS id,
    streams.name AS stream,
    events.version,
    event_types.name AS type,
    event_sources.name AS source,
    strftime('%Y-%m-%dT%H:%M:%S', events.created_at / 1000000, 'unixepoch')
        || printf('.%06dZ', events.created_at % 1000000) AS created_at,
    events.payload AS data,
    events.metadata
FROM events
JOIN streams ON streams.id = events.stream_id
JOIN event_types ON event_types.id = events.type_id
JOIN event_sources ON event_sources.id = events.source_id;

CREATE TABLE leases (
    shard INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE checkpoints (
    reader TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
