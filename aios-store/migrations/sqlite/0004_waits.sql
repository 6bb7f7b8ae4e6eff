-- Runs that do nothing before an event is appended to their journal or a moment has come, as the owner
-- of their shard noted it when they left its memory. No fact of the log: a run without a row is read
-- by the next owner.

CREATE TABLE run_waits (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    stream_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    wake_at INTEGER,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_run_waits_wake_at ON run_waits (wake_at, id) WHERE wake_at IS NOT NULL;
