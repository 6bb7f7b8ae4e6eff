-- A row never leaves a final status, and an event of another workflow does not change a run. JSON of users
-- is stored as text, unchanged: the parser of json columns refuses some JSON that the log accepts.

ALTER TABLE {schema}.agents ALTER COLUMN config TYPE text;
ALTER TABLE {schema}.agent_tasks ALTER COLUMN failure TYPE text;
ALTER TABLE {schema}.workflow_runs
    ALTER COLUMN result TYPE text,
    ALTER COLUMN failure TYPE text,
    ALTER COLUMN progress TYPE text;

DROP FUNCTION {schema}.placed(jsonb, bigint, integer[]);

-- The same as before, and in addition whether a change updates existing rows, and the values that such a
-- row must have.
CREATE FUNCTION {schema}.placed(changes jsonb, head bigint, kept integer[])
RETURNS TABLE (
    id uuid, external_id text, at timestamptz, creates boolean, updates boolean, holds jsonb, cells jsonb
)
LANGUAGE sql STABLE
AS $$
    SELECT
        c.id, c.external_id, c.at, c.creates, c.updates, c.holds,
        CASE
            WHEN c.positioned IS NULL THEN c.cells
            ELSE c.cells || jsonb_build_object(c.positioned, head + p.place)
        END
    FROM jsonb_to_recordset(changes) AS c (
        event integer, id uuid, external_id text, at timestamptz, creates boolean,
        updates boolean, holds jsonb, positioned text, cells jsonb
    )
    CROSS JOIN LATERAL (
        SELECT CASE WHEN kept IS NULL THEN c.event ELSE array_position(kept, c.event) END AS place
    ) p
    WHERE head IS NULL OR p.place IS NOT NULL
    OFFSET 0 -- Keeps the planner from evaluating the cells again for each reference.
$$;

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
    WHERE t.id = c.id AND c.updates;

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
        AND t.status NOT IN ('completed', 'cancelled');

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
        position = CASE WHEN c.cells ? 'position' THEN (c.cells ->> 'position')::bigint ELSE t.position END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id AND c.updates
        AND t.status NOT IN ('completed', 'failed', 'cancelled', 'continued')
        AND t.workflow = (c.holds ->> 'workflow')
        AND t.status = coalesce(c.holds ->> 'status', t.status);

    INSERT INTO {schema}.workflow_runs (
        id, external_id, created_at, updated_at, workflow, workflow_version, shard, status,
        parent_run_id, result, failure, status_text, progress, position, deleted_at
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
        (c.cells ->> 'position')::bigint,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;
