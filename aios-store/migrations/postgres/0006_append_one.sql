-- Appends one event to a stream that the writer has cached, and returns its position. This is the fast call
-- of a process that is not busy. It returns null and changes nothing if streams have expired or the shard
-- has another epoch. The writer then calls `append`, which finds out the result.
--
-- The cached head is trusted, as in `append`: a unique index refuses the event if another process appended
-- to the stream, or if the id is already stored. A null shard means no fence.
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
    -- A snapshot from before the lock would not include the appends that committed in the meantime.
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
