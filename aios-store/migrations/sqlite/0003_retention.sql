-- A run that continues another run has the id of the first run of its chain. Retention can remove finished
-- runs from the log.

ALTER TABLE workflow_runs ADD COLUMN first_run_id TEXT;

CREATE INDEX idx_workflow_runs_first_run_id ON workflow_runs (first_run_id)
WHERE first_run_id IS NOT NULL;

-- Finds the finished runs for retention, oldest first.
CREATE INDEX idx_workflow_runs_updated_at ON workflow_runs (updated_at)
WHERE status IN ('completed', 'failed', 'cancelled', 'continued');

-- Events that retention removed from the log, with names instead of references. `incarnation` is the id
-- of the stream's first event.
CREATE TABLE archived_events (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    stream TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    external_id TEXT,
    payload TEXT NOT NULL,
    metadata TEXT,
    incarnation BLOB NOT NULL,
    archived_at INTEGER NOT NULL
) STRICT;

CREATE INDEX idx_archived_events_stream ON archived_events (stream, version);
