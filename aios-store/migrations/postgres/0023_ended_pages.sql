-- Retention examines the runs that have ended in pages, each run once in a pass. `expire` examined all of them
-- in each batch. It stays for processes of earlier versions.

CREATE INDEX idx_workflow_runs_ended ON {schema}.workflow_runs (updated_at, id)
WHERE status IN ('completed', 'failed', 'cancelled', 'continued');
DROP INDEX {schema}.idx_workflow_runs_updated_at;

-- A page of the runs that ended before a time, after the run with the given end and key.
CREATE FUNCTION {schema}.ended_runs(
    in_before timestamptz, in_at timestamptz, in_key uuid, in_limit integer
)
RETURNS TABLE (id uuid, updated_at timestamptz)
LANGUAGE sql STABLE
AS $$
    SELECT w.id, w.updated_at
    FROM {schema}.workflow_runs w
    WHERE w.status IN ('completed', 'failed', 'cancelled', 'continued')
        AND w.updated_at < in_before
        AND (w.updated_at, w.id) > (in_at, in_key)
    ORDER BY w.updated_at, w.id
    LIMIT in_limit
$$;

-- Removes runs with these keys that can be removed from the log and the read models, in the way of `expire`.
-- Returns their number, and whether one of them was the last run of a chain, whose first run was kept for it.
CREATE FUNCTION {schema}.remove_runs(
    in_micros bigint, in_keys uuid[], in_archive boolean, OUT removed bigint, OUT has_freed boolean
)
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    run_keys uuid[];
    run_ids text[];
    stream_ids bigint[];
BEGIN
    removed := 0;
    has_freed := false;
    PERFORM pg_advisory_xact_lock({lock});
    SELECT array_agg(x.id), array_agg(x.run_id), array_agg(x.stream_id)
    INTO run_keys, run_ids, stream_ids
    FROM {schema}.expirable(in_micros, cardinality(in_keys), in_keys) x;
    IF run_keys IS NULL THEN
        RETURN;
    END IF;
    PERFORM nextval('{schema}.expirations');
    removed := cardinality(run_keys);
    has_freed := EXISTS (
        SELECT FROM {schema}.workflow_runs w
        WHERE w.id = ANY (run_keys) AND w.first_run_id IS NOT NULL AND w.status <> 'continued'
    );

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
END
$$;

-- Examines runs that have ended, the oldest first, after the run with the given end and key, and removes those
-- that can be removed. Examines at most `in_examined` runs, and stops before that once it has found at least
-- half of the runs that it may remove. Returns the end and the key of the last examined run; null if there are
-- no more. The runs are examined before the lock of `append` is taken, and those found again under the lock.
CREATE FUNCTION {schema}.expire_page(
    in_micros bigint, in_limit integer, in_examined integer, in_archive boolean,
    in_at timestamptz, in_key uuid,
    OUT removed bigint, OUT has_freed boolean, OUT next_at timestamptz, OUT next_key uuid
)
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - in_micros * interval '1 microsecond';
    examined integer := 0;
    size integer;
    page uuid[];
    found_keys uuid[] := '{}';
BEGIN
    removed := 0;
    has_freed := false;
    next_at := coalesce(in_at, '-infinity');
    next_key := coalesce(in_key, '00000000-0000-0000-0000-000000000000');
    WHILE examined < in_examined AND 2 * cardinality(found_keys) < in_limit LOOP
        size := least(in_limit - cardinality(found_keys), in_examined - examined);
        SELECT coalesce(array_agg(p.id ORDER BY p.updated_at, p.id), '{}'), max(p.updated_at)
        INTO page, next_at
        FROM {schema}.ended_runs(cutoff, next_at, next_key, size) p;
        next_key := page[cardinality(page)];
        examined := examined + cardinality(page);
        found_keys := found_keys || ARRAY(SELECT x.id FROM {schema}.expirable(in_micros, size, page) x);
        IF cardinality(page) < size THEN
            next_at := NULL;
            next_key := NULL;
            EXIT;
        END IF;
    END LOOP;
    IF cardinality(found_keys) > 0 THEN
        SELECT r.removed, r.has_freed INTO removed, has_freed
        FROM {schema}.remove_runs(in_micros, found_keys, in_archive) r;
    END IF;
END
$$;
