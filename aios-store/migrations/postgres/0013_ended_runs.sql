-- Repairs the rows of finished runs with another status. Earlier versions accepted commands after the end
-- of a run. The result is that of a rebuild, but only the journals of these runs are read.
UPDATE {schema}.workflow_runs r
SET
    status = split_part(e.type, '.', 3),
    result = CASE
        WHEN starts_with(e.payload, '{"result":') THEN substr(e.payload, 11, length(e.payload) - 11)
        ELSE r.result
    END,
    failure = CASE
        WHEN starts_with(e.payload, '{"failure":') THEN substr(e.payload, 12, length(e.payload) - 12)
        ELSE r.failure
    END,
    position = e.position,
    updated_at = to_timestamp(e.created_at / 1000000.0)
FROM (
    SELECT u.id, l.*
    FROM {schema}.workflow_runs u
    JOIN {schema}.streams s ON s.name = 'runs/' || coalesce(u.external_id, u.id::text)
    CROSS JOIN LATERAL (
        SELECT t.name AS type, v.position, v.payload, v.created_at
        FROM {schema}.events v
        JOIN {schema}.event_types t ON t.id = v.type_id
        WHERE v.stream_id = s.id AND t.name IN (
            'workflows.' || u.workflow || '.completed', 'workflows.' || u.workflow || '.failed',
            'workflows.' || u.workflow || '.cancelled', 'workflows.' || u.workflow || '.continued'
        )
        ORDER BY v.version
        LIMIT 1
    ) l
    WHERE u.status IN ('running', 'paused', 'blocked', 'cancelling')
) e
WHERE e.id = r.id;
