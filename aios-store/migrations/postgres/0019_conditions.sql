-- A change of a task applies only to a row that has the values which the change expects.

CREATE OR REPLACE FUNCTION {schema}.apply_agent_tasks(changes jsonb, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE {schema}.agent_tasks t
    SET
        updated_at = c.at,
        run_id = CASE WHEN c.cells ? 'run_id' THEN c.cells ->> 'run_id' ELSE t.run_id END,
        agent_type = CASE WHEN c.cells ? 'agent_type' THEN c.cells ->> 'agent_type' ELSE t.agent_type END,
        agent_id = CASE WHEN c.cells ? 'agent_id' THEN c.cells ->> 'agent_id' ELSE t.agent_id END,
        status = CASE WHEN c.cells ? 'status' THEN c.cells ->> 'status' ELSE t.status END,
        attempt = CASE WHEN c.cells ? 'attempt' THEN (c.cells ->> 'attempt')::bigint ELSE t.attempt END,
        failure = CASE WHEN c.cells ? 'failure' THEN c.cells ->> 'failure' ELSE t.failure END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id AND c.updates
        AND t.status NOT IN ('completed', 'cancelled')
        AND t.status = coalesce(c.holds ->> 'status', t.status)
        AND (t.run_id = c.holds ->> 'run_id' OR NOT coalesce(c.holds ? 'run_id', false));

    INSERT INTO {schema}.agent_tasks (
        id, external_id, created_at, updated_at, run_id, agent_type, agent_id, status,
        attempt, failure, deleted_at
    )
    SELECT
        c.id, c.external_id, c.at, c.at,
        c.cells ->> 'run_id',
        c.cells ->> 'agent_type',
        c.cells ->> 'agent_id',
        c.cells ->> 'status',
        (c.cells ->> 'attempt')::bigint,
        c.cells ->> 'failure',
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;
