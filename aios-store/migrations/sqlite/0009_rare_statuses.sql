-- Lists of the rows in rare statuses, in the orders of lists. By far most rows are completed or on the way
-- there, and no change of those touches these indexes. Queries have to write the conditions in the same
-- way. The other columns are there so that a filter does not read the rows that it leaves out.
CREATE INDEX idx_workflow_runs_rare ON workflow_runs (id, status, workflow)
WHERE (status = 'blocked' OR status = 'cancelled' OR status = 'cancelling' OR status = 'continued'
    OR status = 'failed' OR status = 'paused');
CREATE INDEX idx_workflow_runs_rare_created_at ON workflow_runs (created_at, id, status, workflow)
WHERE (status = 'blocked' OR status = 'cancelled' OR status = 'cancelling' OR status = 'continued'
    OR status = 'failed' OR status = 'paused');
CREATE INDEX idx_agent_tasks_rare ON agent_tasks (id, status, agent_type)
WHERE (status = 'cancelled' OR status = 'failed');
CREATE INDEX idx_agent_tasks_rare_created_at ON agent_tasks (created_at, id, status, agent_type)
WHERE (status = 'cancelled' OR status = 'failed');

-- Finds the open tasks of a type, which autoscalers count.
CREATE INDEX idx_agent_tasks_assigned ON agent_tasks (agent_type, id)
WHERE (status = 'assigned');
