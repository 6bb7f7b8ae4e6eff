-- The same indexes, with conditions that SQLite evaluates without a temporary table. It builds one for
-- every `IN` with more than two values, in every statement that changes a row. Queries have to write the
-- conditions in the same way, with the values in alphabetical order.

DROP INDEX idx_workflow_runs_shard;
CREATE INDEX idx_workflow_runs_shard ON workflow_runs (shard)
WHERE (status = 'blocked' OR status = 'cancelling' OR status = 'paused' OR status = 'running');

DROP INDEX idx_workflow_runs_updated_at;
CREATE INDEX idx_workflow_runs_updated_at ON workflow_runs (updated_at)
WHERE (status = 'completed' OR status = 'failed' OR status = 'cancelled' OR status = 'continued');
