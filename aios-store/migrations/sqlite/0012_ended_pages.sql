-- Retention examines the runs that have ended in pages, in the order of this index.
CREATE INDEX idx_workflow_runs_ended ON workflow_runs (updated_at, id)
WHERE (status = 'completed' OR status = 'failed' OR status = 'cancelled' OR status = 'continued');
DROP INDEX idx_workflow_runs_updated_at;
