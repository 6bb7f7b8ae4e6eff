-- Appends a batch to streams that the writer has cached, and returns the head of the log before the batch.
-- This is the fast call of a busy process. It returns null and changes nothing if streams have expired or
-- a shard has another epoch. The writer then calls `append`, which finds out the results.
--
-- The cached heads are trusted, as in `append`: a unique index refuses the batch if another process
-- appended to one of the streams, or if an id is already stored. Nothing is looked up: the writer passes
-- the ids of the streams and the versions of the events.
CREATE FUNCTION {schema}.append_known(
    in_stream_ids bigint[],
    in_versions bigint[],
    in_ids uuid[],
    in_external_ids text[],
    in_types integer[],
    in_sources integer[],
    in_timestamps bigint[],
    in_payloads text[],
    in_metadata text[],
    in_shards integer[],
    in_epochs bigint[],
    in_changes text,
    in_expirations bigint
)
RETURNS bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    head bigint;
BEGIN
    -- A snapshot from before the lock would not include the appends that committed in the meantime.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'aios appends under read committed, not %', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock({lock});

    SELECT coalesce((SELECT max(e.position) FROM {schema}.events e), 0)
    INTO head
    FROM {schema}.expirations x
    WHERE x.last_value = in_expirations
        AND NOT EXISTS (
            SELECT FROM unnest(in_shards, in_epochs) AS f (shard, epoch)
            LEFT JOIN {schema}.leases l ON l.shard = f.shard
            WHERE l.epoch IS DISTINCT FROM f.epoch
        );
    IF head IS NULL THEN
        RETURN NULL;
    END IF;

    INSERT INTO {schema}.events (
        id, position, stream_id, created_at, version, type_id, source_id, external_id, payload,
        metadata
    )
    SELECT
        unnest(in_ids), generate_series(head + 1, head + cardinality(in_ids)),
        unnest(in_stream_ids), unnest(in_timestamps), unnest(in_versions), unnest(in_types),
        unnest(in_sources), unnest(in_external_ids), unnest(in_payloads), unnest(in_metadata);

    IF in_changes IS NOT NULL THEN
        PERFORM {schema}.apply_changes(in_changes, head, NULL);
    END IF;
    RETURN head;
END
$$;
