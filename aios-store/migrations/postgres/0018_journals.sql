-- Retention finds the journal of a run whose id has the character U+001A. Read models escape that character,
-- and names of streams do not. Such a run was never removed, and its children were removed while it was open.

-- Returns the name of the journal of a run with this id, as a read model stores it: with U+001A as U+001A and
-- `1`. No name of a stream has NUL, which is stored as U+001A and `0`.
CREATE FUNCTION {schema}.journal(run_id text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT 'runs/' || replace(run_id, chr(26) || '1', chr(26))
$$;

-- Whether there is a run with this id that has not ended. Looks at its journal, which is found by name.
CREATE OR REPLACE FUNCTION {schema}.goes_on(run_id text)
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
        WHERE s.name = {schema}.journal(run_id) AND NOT {schema}.closes(b.name, t.name)
    )
$$;

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
    JOIN {schema}.streams s ON s.name = {schema}.journal(r.run_id)
    CROSS JOIN LATERAL (
        SELECT e.position FROM {schema}.events e
        WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
    ) l
    -- The row alone decides for most runs that are kept, before their journals are read.
    WHERE r.position <= r.passed AND l.position <= r.passed
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
