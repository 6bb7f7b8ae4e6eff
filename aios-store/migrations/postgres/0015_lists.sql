-- What a process reports late does not bring a deleted agent back: such a change holds that the agent is
-- not deleted.
CREATE OR REPLACE FUNCTION {schema}.apply_agents(changes jsonb, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE {schema}.agents t
    SET
        updated_at = c.at,
        agent_type = CASE WHEN c.cells ? 'agent_type' THEN c.cells ->> 'agent_type' ELSE t.agent_type END,
        name = CASE WHEN c.cells ? 'name' THEN c.cells ->> 'name' ELSE t.name END,
        config = CASE WHEN c.cells ? 'config' THEN c.cells ->> 'config' ELSE t.config END,
        status = CASE WHEN c.cells ? 'status' THEN c.cells ->> 'status' ELSE t.status END,
        last_seen_at = CASE WHEN c.cells ? 'last_seen_at' THEN (c.cells ->> 'last_seen_at')::timestamptz ELSE t.last_seen_at END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id AND c.updates
        AND (t.deleted_at IS NULL OR NOT coalesce(c.holds ? 'deleted_at', false));

    INSERT INTO {schema}.agents (
        id, external_id, created_at, updated_at, agent_type, name, config, status,
        last_seen_at, deleted_at
    )
    SELECT
        c.id, c.external_id, c.at, c.at,
        c.cells ->> 'agent_type',
        c.cells ->> 'name',
        c.cells ->> 'config',
        c.cells ->> 'status',
        (c.cells ->> 'last_seen_at')::timestamptz,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;

UPDATE {schema}.agents SET status = 'stopped' WHERE deleted_at IS NOT NULL AND status <> 'stopped';

-- Lists of the rows of a workflow, of a time and of one agent, each in its order. The other columns are
-- there so that a filter does not read the rows that it leaves out.
CREATE INDEX idx_workflow_runs_workflow ON {schema}.workflow_runs (workflow, id, status);
CREATE INDEX idx_workflow_runs_created_at ON {schema}.workflow_runs (created_at, id, status, workflow);
CREATE INDEX idx_agent_tasks_created_at ON {schema}.agent_tasks (created_at, id, status, agent_type);
CREATE INDEX idx_agent_tasks_agent_id ON {schema}.agent_tasks (agent_id, id)
WHERE agent_id IS NOT NULL;

DROP FUNCTION {schema}.expire_requests(text, bigint, integer);

-- Removes those of the named streams whose last event is old enough and whose run, if one is given, has
-- ended or does not exist. Returns the number of removed streams. The other conditions are those of
-- `expire`.
CREATE FUNCTION {schema}.expire_streams(in_names text[], in_runs uuid[], in_micros bigint)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    stream_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    SELECT array_agg(s.id) INTO stream_ids
    FROM unnest(in_names, in_runs) AS n (name, run)
    JOIN {schema}.streams s ON s.name = n.name
    CROSS JOIN LATERAL (
        SELECT e.created_at, e.position FROM {schema}.events e
        WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
    ) l
    WHERE l.created_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - in_micros
        AND l.position <= (
            SELECT least(max(e.position) - 1, (SELECT min(c.position) FROM {schema}.checkpoints c))
            FROM {schema}.events e
        )
        AND NOT EXISTS (
            SELECT FROM {schema}.workflow_runs w
            WHERE w.id = n.run AND w.status IN ('running', 'paused', 'blocked', 'cancelling')
        );
    IF stream_ids IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM nextval('{schema}.expirations');
    DELETE FROM {schema}.events e WHERE e.stream_id = ANY (stream_ids);
    DELETE FROM {schema}.streams s WHERE s.id = ANY (stream_ids);
    RETURN cardinality(stream_ids);
END
$$;
