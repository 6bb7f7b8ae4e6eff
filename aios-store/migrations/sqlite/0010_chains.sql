-- Finds the last run of a chain that was continued, without reading a long chain for each of its runs.
CREATE INDEX idx_workflow_runs_chain ON workflow_runs (first_run_id, position)
WHERE first_run_id IS NOT NULL;
DROP INDEX idx_workflow_runs_first_run_id;
