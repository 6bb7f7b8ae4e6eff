-- Raises an error if the log does not have the last event that a process knows: it ends before that position, or
-- has another event there. A server has lost commits then, as in a failover to a standby that lagged behind. The
-- id may be null, and the event may have been removed by retention, which keeps the last event of the log.
--
-- Every read of events calls this, so that a process notices the loss with the statement that would skip the
-- events that got the positions of the lost ones. The code is one that PostgreSQL does not use.
CREATE FUNCTION {schema}.require_event(in_position bigint, in_id uuid)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
BEGIN
    IF in_position > coalesce((SELECT max(e.position) FROM {schema}.events e), 0)
        OR in_id <> (SELECT e.id FROM {schema}.events e WHERE e.position = in_position)
    THEN
        RAISE 'the log has lost the event at position %', in_position USING ERRCODE = 'ZA001';
    END IF;
    RETURN {schema}.require_primary();
END
$$;
