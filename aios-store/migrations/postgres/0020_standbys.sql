-- A standby lags behind its primary, so nothing is read from one. Raises an error on a standby, with the code of
-- a write. Every statement that only reads calls this once, so that the server that reads is the one that is
-- checked, whatever is between it and the process.
CREATE FUNCTION {schema}.require_primary()
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE 'the server is a standby' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    RETURN true;
END
$$;
