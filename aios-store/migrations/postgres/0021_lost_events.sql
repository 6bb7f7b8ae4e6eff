-- Raises an error if the log does not have the last event that a process knows: it ends before that position, or
-- has another event there. The server has lost commits then, as in a failover to a standby that lagged behind. The
-- condition is part of every read of events, so that a process notices the loss with the statement that would skip
-- the events that got the positions of the lost ones. The code is one that PostgreSQL does not use.
CREATE FUNCTION {schema}.refuse_log(in_position bigint)
RETURNS boolean
LANGUAGE plpgsql PARALLEL SAFE
AS $$
BEGIN
    RAISE 'the log has lost the event at position %', in_position USING ERRCODE = 'ZA001';
END
$$;
