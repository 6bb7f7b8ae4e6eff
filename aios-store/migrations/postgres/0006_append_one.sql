-- Appends one event to a stream that the writer knows, and returns its position: the short way for a
-- process that is not busy. Null if the log is not as the writer believes, because streams expired or
-- the shard has another epoch; then nothing was done, and `append` finds out what to answer.
--
-- As there, what the writer remembers is taken on trust: a unique index refuses the event if another
-- process appended to the stream, or if the id is stored already. No shard means no fence.
CREATE FUNCTION {schema}.append_one(
    in_stream_id bigint,
    in_head bigint,
    in_expirations bigint,
    in_shard integer,
    in_epoch bigint,
    in_id uuid,
    in_external_id text,
    in_type integer,
    in_source integer,
    in_timestamp bigint,
    in_payload text,
    in_metadata text
)
RETURNS bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    appended bigint;
BEGIN
    -- A snapshot from before the lock would not show what was appended meanwhile.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'aios appends under read committed, not %', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock({lock});

    INSERT INTO {schema}.events (
        id, position, stream_id, created_at, version, type_id, source_id, external_id, payload,
        metadata
    )
    SELECT
        in_id, coalesce((SELECT max(e.position) FROM {schema}.events e), 0) + 1, in_stream_id,
        in_timestamp, in_head + 1, in_type, in_source, in_external_id, in_payload, in_metadata
    FROM {schema}.expirations x
    WHERE x.last_value = in_expirations
        AND (
            in_shard IS NULL
            OR in_epoch = (SELECT l.epoch FROM {schema}.leases l WHERE l.shard = in_shard)
        )
    RETURNING position INTO appended;
    RETURN appended;
END
$$;
