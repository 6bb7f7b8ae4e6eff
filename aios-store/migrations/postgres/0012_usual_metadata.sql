-- An event of a run's journal without `metadata` names that run as `run_id` and `correlation_id`, as
-- most of them do.
CREATE OR REPLACE VIEW {schema}.event_log AS
SELECT
    events.position,
    coalesce(events.external_id, events.id::text) AS id,
    streams.name AS stream,
    events.version,
    event_types.name AS type,
    event_sources.name AS source,
    to_timestamp(events.created_at / 1000000.0) AS created_at,
    events.payload::json AS data,
    coalesce(
        events.metadata::json,
        CASE WHEN starts_with(streams.name, 'runs/') THEN json_build_object(
            'correlation_id', substr(streams.name, 6), 'run_id', substr(streams.name, 6)
        ) END
    ) AS metadata
FROM {schema}.events
JOIN {schema}.streams ON streams.id = events.stream_id
JOIN {schema}.event_types ON event_types.id = events.type_id
JOIN {schema}.event_sources ON event_sources.id = events.source_id;
