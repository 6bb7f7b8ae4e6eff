-- From now on, an event of a run's journal without `metadata` has that run as `run_id` and
-- `correlation_id`, the default of most events. Existing events without `metadata` have none, which
-- `is_bare` records: the column is added with a default for existing rows, which PostgreSQL stores only
-- once, and has no default for new rows.
ALTER TABLE {schema}.events ADD COLUMN is_bare boolean DEFAULT true;
ALTER TABLE {schema}.events ALTER COLUMN is_bare DROP DEFAULT;
ALTER TABLE {schema}.archived_events ADD COLUMN is_bare boolean DEFAULT true;
ALTER TABLE {schema}.archived_events ALTER COLUMN is_bare DROP DEFAULT;

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
        CASE WHEN starts_with(streams.name, 'runs/') AND events.is_bare IS NULL THEN json_build_object(
            'correlation_id', substr(streams.name, 6), 'run_id', substr(streams.name, 6)
        ) END
    ) AS metadata
FROM {schema}.events
JOIN {schema}.streams ON streams.id = events.stream_id
JOIN {schema}.event_types ON event_types.id = events.type_id
JOIN {schema}.event_sources ON event_sources.id = events.source_id;

-- The same as before, with the two meanings of missing metadata.
CREATE OR REPLACE FUNCTION {schema}.expire(in_micros bigint, in_limit integer, in_archive boolean)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    run_keys uuid[];
    run_ids text[];
    stream_ids bigint[];
BEGIN
    SELECT array_agg(x.id) INTO run_keys FROM {schema}.expirable(in_micros, in_limit, NULL) x;
    IF run_keys IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock({lock});
    SELECT array_agg(x.id), array_agg(x.run_id), array_agg(x.stream_id)
    INTO run_keys, run_ids, stream_ids
    FROM {schema}.expirable(in_micros, in_limit, run_keys) x;
    IF run_keys IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM nextval('{schema}.expirations');

    IF in_archive THEN
        INSERT INTO {schema}.archived_events (
            id, position, stream, created_at, version, type, source, external_id, payload, metadata,
            incarnation, is_bare
        )
        SELECT
            e.id, e.position, s.name, e.created_at, e.version, t.name, c.name, e.external_id,
            e.payload, e.metadata, f.id, e.is_bare
        FROM {schema}.events e
        JOIN {schema}.streams s ON s.id = e.stream_id
        JOIN {schema}.event_types t ON t.id = e.type_id
        JOIN {schema}.event_sources c ON c.id = e.source_id
        JOIN {schema}.events f ON f.stream_id = e.stream_id AND f.version = 1
        WHERE e.stream_id = ANY (stream_ids);
    END IF;
    DELETE FROM {schema}.events e WHERE e.stream_id = ANY (stream_ids);
    DELETE FROM {schema}.streams s WHERE s.id = ANY (stream_ids);
    DELETE FROM {schema}.agent_tasks t WHERE t.run_id = ANY (run_ids);
    DELETE FROM {schema}.run_waits w USING {schema}.workflow_runs r
    WHERE r.id = ANY (run_keys) AND w.shard = r.shard AND w.id = r.id;
    DELETE FROM {schema}.workflow_runs w WHERE w.id = ANY (run_keys);
    RETURN cardinality(run_keys);
END
$$;
