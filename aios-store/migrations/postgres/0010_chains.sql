-- A run that continues another run has the id of the first run of its chain. Retention keeps runs that may
-- still be needed, and archives the events of every run that had the same id.

ALTER TABLE {schema}.workflow_runs ADD COLUMN first_run_id text;

CREATE INDEX idx_workflow_runs_first_run_id ON {schema}.workflow_runs (first_run_id)
WHERE first_run_id IS NOT NULL;

CREATE OR REPLACE FUNCTION {schema}.apply_workflow_runs(changes jsonb, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE {schema}.workflow_runs t
    SET
        updated_at = c.at,
        workflow = CASE WHEN c.cells ? 'workflow' THEN c.cells ->> 'workflow' ELSE t.workflow END,
        workflow_version = CASE WHEN c.cells ? 'workflow_version' THEN (c.cells ->> 'workflow_version')::bigint ELSE t.workflow_version END,
        shard = CASE WHEN c.cells ? 'shard' THEN (c.cells ->> 'shard')::bigint ELSE t.shard END,
        status = CASE WHEN c.cells ? 'status' THEN c.cells ->> 'status' ELSE t.status END,
        parent_run_id = CASE WHEN c.cells ? 'parent_run_id' THEN c.cells ->> 'parent_run_id' ELSE t.parent_run_id END,
        result = CASE WHEN c.cells ? 'result' THEN c.cells ->> 'result' ELSE t.result END,
        failure = CASE WHEN c.cells ? 'failure' THEN c.cells ->> 'failure' ELSE t.failure END,
        status_text = CASE WHEN c.cells ? 'status_text' THEN c.cells ->> 'status_text' ELSE t.status_text END,
        progress = CASE WHEN c.cells ? 'progress' THEN c.cells ->> 'progress' ELSE t.progress END,
        first_run_id = CASE WHEN c.cells ? 'first_run_id' THEN c.cells ->> 'first_run_id' ELSE t.first_run_id END,
        position = CASE WHEN c.cells ? 'position' THEN (c.cells ->> 'position')::bigint ELSE t.position END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id AND c.updates
        AND t.status NOT IN ('completed', 'failed', 'cancelled', 'continued')
        AND t.workflow = (c.holds ->> 'workflow')
        AND t.status = coalesce(c.holds ->> 'status', t.status);

    INSERT INTO {schema}.workflow_runs (
        id, external_id, created_at, updated_at, workflow, workflow_version, shard, status,
        parent_run_id, result, failure, status_text, progress, first_run_id, position, deleted_at
    )
    SELECT
        c.id, c.external_id, c.at, c.at,
        c.cells ->> 'workflow',
        (c.cells ->> 'workflow_version')::bigint,
        (c.cells ->> 'shard')::bigint,
        c.cells ->> 'status',
        c.cells ->> 'parent_run_id',
        c.cells ->> 'result',
        c.cells ->> 'failure',
        c.cells ->> 'status_text',
        c.cells ->> 'progress',
        c.cells ->> 'first_run_id',
        (c.cells ->> 'position')::bigint,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;

-- Positions are never reused, but ids of events may be: an engine derives some from the id of a run, which
-- can be used again. `incarnation` is the id of the stream's first event.
ALTER TABLE {schema}.archived_events DROP CONSTRAINT archived_events_pkey;
ALTER TABLE {schema}.archived_events ADD PRIMARY KEY (position);
ALTER TABLE {schema}.archived_events ADD COLUMN incarnation uuid;

UPDATE {schema}.archived_events a
SET incarnation = (
    SELECT f.id FROM {schema}.archived_events f
    WHERE f.stream = a.stream AND f.version = 1 LIMIT 1
);

-- Whether there is a run with this id that has not ended. Looks at its journal, which is found by name.
CREATE FUNCTION {schema}.goes_on(run_id text)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (
        SELECT
        FROM {schema}.streams s
        JOIN {schema}.events f ON f.stream_id = s.id AND f.version = 1
        JOIN {schema}.event_types b ON b.id = f.type_id
        CROSS JOIN LATERAL (
            SELECT e.type_id FROM {schema}.events e
            WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
        ) l
        JOIN {schema}.event_types t ON t.id = l.type_id
        WHERE s.name = 'runs/' || run_id AND NOT {schema}.closes(b.name, t.name)
    )
$$;

-- Returns the runs that can be removed, oldest first: all, or those with the given keys.
CREATE FUNCTION {schema}.expirable(in_micros bigint, in_limit integer, in_keys uuid[])
RETURNS TABLE (id uuid, run_id text, stream_id bigint)
LANGUAGE sql STABLE
AS $$
    SELECT r.id, r.run_id, s.id
    FROM (
        SELECT
            w.*,
            coalesce(w.external_id, w.id::text) AS run_id,
            (
                SELECT least(max(e.position) - 1, (SELECT min(c.position) FROM {schema}.checkpoints c))
                FROM {schema}.events e
            ) AS passed
        FROM {schema}.workflow_runs w
        WHERE w.status IN ('completed', 'failed', 'cancelled', 'continued')
            AND w.updated_at < clock_timestamp() - in_micros * interval '1 microsecond'
            AND (in_keys IS NULL OR w.id = ANY (in_keys))
    ) r
    JOIN {schema}.streams s ON s.name = 'runs/' || r.run_id
    CROSS JOIN LATERAL (
        SELECT e.position FROM {schema}.events e
        WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
    ) l
    WHERE l.position <= r.passed
        AND (r.parent_run_id IS NULL OR NOT {schema}.goes_on(r.parent_run_id))
        AND (r.status <> 'continued' OR NOT EXISTS (
            SELECT FROM {schema}.workflow_runs n
            WHERE n.first_run_id = r.run_id AND n.status <> 'continued'
        ))
    ORDER BY r.updated_at
    LIMIT in_limit
$$;

-- Removes a batch of finished runs that are old enough from the log and the read models, and returns their
-- number. The runs are searched before the lock of `append` is taken, and checked again under the lock, so
-- that no event is appended to a stream that is being removed.
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
            incarnation
        )
        SELECT
            e.id, e.position, s.name, e.created_at, e.version, t.name, c.name, e.external_id,
            e.payload, e.metadata, f.id
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
    DELETE FROM {schema}.workflow_runs w WHERE w.id = ANY (run_keys);
    RETURN cardinality(run_keys);
END
$$;
