-- From now on, an event of a run's journal without `metadata` has that run as `run_id` and
-- `correlation_id`, the default of most events. Existing events without `metadata` have none, which is
-- written out here.
UPDATE events SET metadata = '{}'
WHERE metadata IS NULL
    AND stream_id IN (SELECT id FROM streams WHERE substr(name, 1, 5) = 'runs/');

UPDATE archived_events SET metadata = '{}'
WHERE metadata IS NULL AND substr(stream, 1, 5) = 'runs/';

DROP VIEW event_log;

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
    coalesce(
        events.metadata,
        CASE WHEN substr(streams.name, 1, 5) = 'runs/' THEN json_object(
            'correlation_id', substr(streams.name, 6), 'run_id', substr(streams.name, 6)
        ) END
    ) AS metadata
FROM events
JOIN streams ON streams.id = events.stream_id
JOIN event_types ON event_types.id = events.type_id
JOIN event_sources ON event_sources.id = events.source_id;
