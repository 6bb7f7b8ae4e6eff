-- Runs that wait for an event in their journal or for a point in time. The owner of the shard records a
-- wait when it evicts the run from memory. The rows are not derived from the log: a run without a row is
-- loaded by the next owner.

CREATE TABLE run_waits (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    stream_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    wake_at INTEGER,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_run_waits_wake_at ON run_waits (wake_at, id) WHERE wake_at IS NOT NULL;
