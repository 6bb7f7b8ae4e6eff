-- A standby lags behind its primary, so nothing is read from one. Raises an error with the code of a write on a
-- standby. The condition is part of every statement that only reads, so that the server that reads is the one that
-- is checked, whatever is between it and the process.
CREATE FUNCTION {schema}.refuse_standby()
RETURNS boolean
LANGUAGE plpgsql PARALLEL SAFE
AS $$
BEGIN
    RAISE 'the server is a standby' USING ERRCODE = 'read_only_sql_transaction';
END
$$;
