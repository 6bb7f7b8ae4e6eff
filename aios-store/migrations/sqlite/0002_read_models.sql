-- The read models: tables derived from the log. They can be rebuilt at any time.

CREATE TABLE agents (
    id BLOB NOT NULL PRIMARY KEY,
    external_id TEXT,
    agent_type TEXT NOT NULL,
    name TEXT NOT NULL,
    config TEXT,
    status TEXT NOT NULL,
    last_seen_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE INDEX idx_agents_agent_type ON agents (agent_type);

CREATE TABLE agent_tasks (
    id BLOB NOT NULL PRIMARY KEY,
    external_id TEXT,
    run_id TEXT,
    agent_type TEXT NOT NULL,
    agent_id TEXT,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    failure TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE INDEX idx_agent_tasks_run_id ON agent_tasks (run_id);

CREATE TABLE workflows (
    id BLOB NOT NULL PRIMARY KEY,
    external_id TEXT,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE TABLE workflow_runs (
    id BLOB NOT NULL PRIMARY KEY,
    external_id TEXT,
    workflow TEXT NOT NULL,
    workflow_version INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    status TEXT NOT NULL,
    parent_run_id TEXT,
    result TEXT,
    failure TEXT,
    status_text TEXT,
    progress TEXT,
    position INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE INDEX idx_workflow_runs_position ON workflow_runs (position);

-- Finds the runs that have not ended, when an engine takes a shard.
CREATE INDEX idx_workflow_runs_shard ON workflow_runs (shard)
WHERE status IN ('running', 'paused', 'blocked', 'cancelling');
