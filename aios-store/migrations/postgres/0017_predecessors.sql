-- Keeps the run that an open run continues. When the open run begins, it copies the signals from the
-- journal of that run which were not taken.

-- Also finds the last run of a chain that was continued, without reading a long chain for each of its runs.
CREATE INDEX idx_workflow_runs_chain ON {schema}.workflow_runs (first_run_id, position)
WHERE first_run_id IS NOT NULL;
DROP INDEX {schema}.idx_workflow_runs_first_run_id;

-- Returns the runs that can be removed, oldest first: all, or those with the given keys.
CREATE OR REPLACE FUNCTION {schema}.expirable(in_micros bigint, in_limit integer, in_keys uuid[])
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
        AND (r.status <> 'continued'
            OR r.position < (
                SELECT max(l.position) FROM {schema}.workflow_runs l
                WHERE l.first_run_id = coalesce(r.first_run_id, r.run_id) AND l.status = 'continued'
            )
            OR NOT EXISTS (
                SELECT FROM {schema}.workflow_runs n
                WHERE n.first_run_id = coalesce(r.first_run_id, r.run_id)
                    AND n.status NOT IN ('completed', 'failed', 'cancelled', 'continued')
            )
        )
    ORDER BY r.updated_at
    LIMIT in_limit
$$;
