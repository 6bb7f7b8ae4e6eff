-- The read models: tables derived from the log. They can be rebuilt at any time. Flexible data is json
-- and not jsonb, because jsonb refuses some strings (\u0000) and rewrites numbers. A run whose result is
-- refused could not end.

CREATE TABLE {schema}.agents (
    id uuid PRIMARY KEY,
    external_id text,
    agent_type text NOT NULL,
    name text NOT NULL,
    config json,
    status text NOT NULL,
    last_seen_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);

CREATE INDEX idx_agents_agent_type ON {schema}.agents (agent_type);

CREATE TABLE {schema}.agent_tasks (
    id uuid PRIMARY KEY,
    external_id text,
    run_id text,
    agent_type text NOT NULL,
    agent_id text,
    status text NOT NULL,
    attempt bigint NOT NULL,
    failure json,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);

CREATE INDEX idx_agent_tasks_run_id ON {schema}.agent_tasks (run_id);

CREATE TABLE {schema}.workflows (
    id uuid PRIMARY KEY,
    external_id text,
    name text NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);

CREATE TABLE {schema}.workflow_runs (
    id uuid PRIMARY KEY,
    external_id text,
    workflow text NOT NULL,
    workflow_version bigint NOT NULL,
    shard bigint NOT NULL,
    status text NOT NULL,
    parent_run_id text,
    result json,
    failure json,
    status_text text,
    progress json,
    position bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);

CREATE INDEX idx_workflow_runs_position ON {schema}.workflow_runs (position);

-- Finds the runs that have not ended, when an engine takes a shard.
CREATE INDEX idx_workflow_runs_shard ON {schema}.workflow_runs (shard)
WHERE status IN ('running', 'paused', 'blocked', 'cancelling');

-- Finds the finished runs for retention, oldest first.
CREATE INDEX idx_workflow_runs_updated_at ON {schema}.workflow_runs (updated_at)
WHERE status IN ('completed', 'failed', 'cancelled', 'continued');

-- Returns the changes of a set, with the positions of their events. A set has at most one change per row.
-- Only changes of accepted events are returned: `kept` has the indexes of these events, null means all.
CREATE FUNCTION {schema}.placed(changes jsonb, head bigint, kept integer[])
RETURNS TABLE (id uuid, external_id text, at timestamptz, creates boolean, cells jsonb)
LANGUAGE sql STABLE
AS $$
    SELECT
        c.id, c.external_id, c.at, c.creates,
        CASE
            WHEN c.positioned IS NULL THEN c.cells
            ELSE c.cells || jsonb_build_object(c.positioned, head + p.place)
        END
    FROM jsonb_to_recordset(changes) AS c (
        event integer, id uuid, external_id text, at timestamptz, creates boolean,
        positioned text, cells jsonb
    )
    CROSS JOIN LATERAL (
        SELECT CASE WHEN kept IS NULL THEN c.event ELSE array_position(kept, c.event) END AS place
    ) p
    WHERE head IS NULL OR p.place IS NOT NULL
    OFFSET 0 -- Keeps the planner from evaluating the cells again for each reference.
$$;

-- Applies sets of changes one after the other: `[{"table", "changes"}]`. Existing rows are updated. Missing
-- rows are created if the change creates rows. Cells that are not named keep their values. A null `head`
-- means that the cells already have their positions.
CREATE FUNCTION {schema}.apply_changes(sets text, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    one jsonb;
    changes jsonb;
BEGIN
    FOR one IN SELECT value FROM jsonb_array_elements(sets::jsonb) LOOP
        changes := one -> 'changes';
        CASE one ->> 'table'
            WHEN 'workflow_runs' THEN PERFORM {schema}.apply_workflow_runs(changes, head, kept);
            WHEN 'agent_tasks' THEN PERFORM {schema}.apply_agent_tasks(changes, head, kept);
            WHEN 'agents' THEN PERFORM {schema}.apply_agents(changes, head, kept);
            WHEN 'workflows' THEN PERFORM {schema}.apply_workflows(changes, head, kept);
        END CASE;
    END LOOP;
END
$$;

CREATE FUNCTION {schema}.apply_agents(changes jsonb, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE {schema}.agents t
    SET
        updated_at = c.at,
        agent_type = CASE WHEN c.cells ? 'agent_type' THEN c.cells ->> 'agent_type' ELSE t.agent_type END,
        name = CASE WHEN c.cells ? 'name' THEN c.cells ->> 'name' ELSE t.name END,
        config = CASE WHEN c.cells ? 'config' THEN (c.cells ->> 'config')::json ELSE t.config END,
        status = CASE WHEN c.cells ? 'status' THEN c.cells ->> 'status' ELSE t.status END,
        last_seen_at = CASE WHEN c.cells ? 'last_seen_at' THEN (c.cells ->> 'last_seen_at')::timestamptz ELSE t.last_seen_at END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id;

    INSERT INTO {schema}.agents (
        id, external_id, created_at, updated_at, agent_type, name, config, status,
        last_seen_at, deleted_at
    )
    SELECT
        c.id, c.external_id, c.at, c.at,
        c.cells ->> 'agent_type',
        c.cells ->> 'name',
        (c.cells ->> 'config')::json,
        c.cells ->> 'status',
        (c.cells ->> 'last_seen_at')::timestamptz,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;

CREATE FUNCTION {schema}.apply_agent_tasks(changes jsonb, head bigint, kept integer[])
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
        failure = CASE WHEN c.cells ? 'failure' THEN (c.cells ->> 'failure')::json ELSE t.failure END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id;

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
        (c.cells ->> 'failure')::json,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;

CREATE FUNCTION {schema}.apply_workflows(changes jsonb, head bigint, kept integer[])
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE {schema}.workflows t
    SET
        updated_at = c.at,
        name = CASE WHEN c.cells ? 'name' THEN c.cells ->> 'name' ELSE t.name END,
        version = CASE WHEN c.cells ? 'version' THEN (c.cells ->> 'version')::bigint ELSE t.version END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id;

    INSERT INTO {schema}.workflows (
        id, external_id, created_at, updated_at, name, version, deleted_at
    )
    SELECT
        c.id, c.external_id, c.at, c.at,
        c.cells ->> 'name',
        (c.cells ->> 'version')::bigint,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;

CREATE FUNCTION {schema}.apply_workflow_runs(changes jsonb, head bigint, kept integer[])
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
        result = CASE WHEN c.cells ? 'result' THEN (c.cells ->> 'result')::json ELSE t.result END,
        failure = CASE WHEN c.cells ? 'failure' THEN (c.cells ->> 'failure')::json ELSE t.failure END,
        status_text = CASE WHEN c.cells ? 'status_text' THEN c.cells ->> 'status_text' ELSE t.status_text END,
        progress = CASE WHEN c.cells ? 'progress' THEN (c.cells ->> 'progress')::json ELSE t.progress END,
        position = CASE WHEN c.cells ? 'position' THEN (c.cells ->> 'position')::bigint ELSE t.position END,
        deleted_at = CASE WHEN c.cells ? 'deleted_at' THEN (c.cells ->> 'deleted_at')::timestamptz ELSE t.deleted_at END
    FROM {schema}.placed(changes, head, kept) c
    WHERE t.id = c.id;

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
        (c.cells ->> 'result')::json,
        (c.cells ->> 'failure')::json,
        c.cells ->> 'status_text',
        (c.cells ->> 'progress')::json,
        (c.cells ->> 'position')::bigint,
        (c.cells ->> 'deleted_at')::timestamptz
    FROM {schema}.placed(changes, head, kept) c
    WHERE c.creates
    ON CONFLICT DO NOTHING;
END
$$;
