-- Repairs the rows of finished runs with another status. Earlier versions accepted commands after the end
-- of a run. The result is that of a rebuild, but only the journals of these runs are read.

CREATE TEMPORARY TABLE ended_runs AS
SELECT
    r.id AS id, substr(t.name, length('workflows.' || r.workflow || '.') + 1) AS status, e.payload,
    e.created_at, e.position, min(e.version) AS version
FROM workflow_runs AS r
JOIN streams AS s ON s.name = 'runs/' || coalesce(r.external_id, lower(
    substr(hex(r.id), 1, 8) || '-' || substr(hex(r.id), 9, 4) || '-' || substr(hex(r.id), 13, 4)
    || '-' || substr(hex(r.id), 17, 4) || '-' || substr(hex(r.id), 21)
))
JOIN events AS e ON e.stream_id = s.id
JOIN event_types AS t ON t.id = e.type_id
WHERE (r.status = 'blocked' OR r.status = 'cancelling' OR r.status = 'paused' OR r.status = 'running')
    AND t.name IN (
        'workflows.' || r.workflow || '.completed', 'workflows.' || r.workflow || '.failed',
        'workflows.' || r.workflow || '.cancelled', 'workflows.' || r.workflow || '.continued'
    )
GROUP BY r.id;

UPDATE workflow_runs
SET
    status = e.status,
    result = CASE
        WHEN substr(e.payload, 1, 10) = '{"result":' THEN substr(e.payload, 11, length(e.payload) - 11)
        ELSE result
    END,
    failure = CASE
        WHEN substr(e.payload, 1, 11) = '{"failure":' THEN substr(e.payload, 12, length(e.payload) - 12)
        ELSE failure
    END,
    position = e.position,
    updated_at = e.created_at
FROM ended_runs AS e
WHERE e.id = workflow_runs.id;

DROP TABLE ended_runs;
