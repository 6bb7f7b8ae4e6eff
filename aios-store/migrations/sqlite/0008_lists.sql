-- What a process reports late no longer brings a deleted agent back.
UPDATE agents SET status = 'stopped' WHERE deleted_at IS NOT NULL AND status <> 'stopped';

-- Lists of the rows of a workflow, of a time and of one agent, each in its order. The other columns are
-- there so that a filter does not read the rows that it leaves out.
CREATE INDEX idx_workflow_runs_workflow ON workflow_runs (workflow, id, status);
CREATE INDEX idx_workflow_runs_created_at ON workflow_runs (created_at, id, status, workflow);
CREATE INDEX idx_agent_tasks_created_at ON agent_tasks (created_at, id, status, agent_type);
CREATE INDEX idx_agent_tasks_agent_id ON agent_tasks (agent_id, id)
WHERE agent_id IS NOT NULL;
