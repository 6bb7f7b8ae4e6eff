-- Takes the shards that are free, that are expired, or that the owner already holds. The epoch is
-- incremented when the owner changes. This holds the lock of `append`, so that no append under an older
-- epoch can commit after this returns. Leases expire by the clock of the server.
CREATE FUNCTION {schema}.acquire(in_shards integer[], in_owner text, in_micros bigint)
RETURNS SETOF {schema}.leases
LANGUAGE plpgsql
AS $$
DECLARE
    changes_hands boolean;
BEGIN
    changes_hands := EXISTS (
        SELECT FROM unnest(in_shards) AS w (shard)
        LEFT JOIN {schema}.leases l USING (shard)
        WHERE l.shard IS NULL OR (l.owner <> in_owner AND l.expires_at <= clock_timestamp())
    );
    IF changes_hands THEN
        PERFORM pg_advisory_xact_lock({lock});
    END IF;
    RETURN QUERY
    INSERT INTO {schema}.leases AS l (shard, epoch, owner, expires_at)
    SELECT w.shard, 1, in_owner, clock_timestamp() + in_micros * interval '1 microsecond'
    FROM (SELECT DISTINCT u.shard FROM unnest(in_shards) AS u (shard)) w
    ORDER BY w.shard
    ON CONFLICT (shard) DO UPDATE
    SET
        epoch = l.epoch + (l.owner <> excluded.owner)::integer,
        owner = excluded.owner,
        expires_at = excluded.expires_at
    WHERE l.owner = excluded.owner OR (changes_hands AND l.expires_at <= clock_timestamp())
    RETURNING l.*;
END
$$;
