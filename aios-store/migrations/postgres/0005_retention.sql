-- Events that retention removed from the log, with names instead of references.
CREATE TABLE {schema}.archived_events (
    id uuid PRIMARY KEY,
    position bigint NOT NULL,
    stream text NOT NULL,
    created_at bigint NOT NULL,
    version integer NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    external_id text,
    payload text NOT NULL,
    metadata text,
    archived_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_archived_events_stream ON {schema}.archived_events (stream, version);

-- Removes a batch of finished runs that are old enough from the log and the read models, oldest first, and
-- returns their number. This holds the lock of `append`, so that no event is appended to a stream that is
-- being removed. The last event of the log stays, because the next position is derived from it. Events that
-- a checkpoint has not passed stay too.
CREATE FUNCTION {schema}.expire(in_micros bigint, in_limit integer, in_archive boolean)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    passed bigint;
    run_keys uuid[];
    run_ids text[];
    stream_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    SELECT least(max(e.position) - 1, (SELECT min(c.position) FROM {schema}.checkpoints c))
    INTO passed
    FROM {schema}.events e;

    SELECT array_agg(r.id), array_agg(r.run_id), array_agg(r.stream_id)
    INTO run_keys, run_ids, stream_ids
    FROM (
        SELECT w.id, coalesce(w.external_id, w.id::text) AS run_id, s.id AS stream_id
        FROM {schema}.workflow_runs w
        JOIN {schema}.streams s ON s.name = 'runs/' || coalesce(w.external_id, w.id::text)
        CROSS JOIN LATERAL (
            SELECT e.position FROM {schema}.events e
            WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
        ) l
        WHERE w.status IN ('completed', 'failed', 'cancelled', 'continued')
            AND w.updated_at < clock_timestamp() - in_micros * interval '1 microsecond'
            AND l.position <= passed
        ORDER BY w.updated_at
        LIMIT in_limit
    ) r;
    IF run_keys IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM nextval('{schema}.expirations');

    IF in_archive THEN
        INSERT INTO {schema}.archived_events (
            id, position, stream, created_at, version, type, source, external_id, payload, metadata
        )
        SELECT
            e.id, e.position, s.name, e.created_at, e.version, t.name, c.name, e.external_id,
            e.payload, e.metadata
        FROM {schema}.events e
        JOIN {schema}.streams s ON s.id = e.stream_id
        JOIN {schema}.event_types t ON t.id = e.type_id
        JOIN {schema}.event_sources c ON c.id = e.source_id
        WHERE e.stream_id = ANY (stream_ids);
    END IF;
    DELETE FROM {schema}.events e WHERE e.stream_id = ANY (stream_ids);
    DELETE FROM {schema}.streams s WHERE s.id = ANY (stream_ids);
    DELETE FROM {schema}.agent_tasks t WHERE t.run_id = ANY (run_ids);
    DELETE FROM {schema}.workflow_runs w WHERE w.id = ANY (run_keys);
    RETURN cardinality(run_keys);
END
$$;
