-- No epoch is issued twice, not even after a failover to a server that has lost the commit of a lease. Its last
-- owner may still be running, and would not be fenced under the epoch of the next one.

-- One row: the server that issued the last epoch, and an epoch that no earlier server has issued or exceeded.
-- It has a key, without which a row of a published table can't be updated.
CREATE TABLE {schema}.epochs (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    server_started_at timestamptz NOT NULL,
    base bigint NOT NULL
);
INSERT INTO {schema}.epochs (server_started_at, base) VALUES (pg_postmaster_start_time(), 0);

-- As before, but another server than the one that issued the last epoch first skips a random number of epochs. It
-- can't know how many were issued that it does not have, by the former server or by another standby that was
-- promoted. A server that was restarted counts as another one.
CREATE OR REPLACE FUNCTION {schema}.acquire(in_shards integer[], in_owner text, in_micros bigint)
RETURNS SETOF {schema}.leases
LANGUAGE plpgsql
AS $$
DECLARE
    changes_hands boolean;
    issued bigint := 0;
BEGIN
    changes_hands := EXISTS (
        SELECT FROM unnest(in_shards) AS w (shard)
        LEFT JOIN {schema}.leases l USING (shard)
        WHERE l.shard IS NULL OR (l.owner <> in_owner AND l.expires_at <= clock_timestamp())
    );
    IF changes_hands THEN
        PERFORM pg_advisory_xact_lock({lock});
        UPDATE {schema}.epochs e
        SET
            server_started_at = pg_postmaster_start_time(),
            base = greatest(e.base, (SELECT max(l.epoch) FROM {schema}.leases l))
                + 1 + floor(random() * 2147483648)::bigint
        WHERE e.server_started_at <> pg_postmaster_start_time();
        SELECT e.base INTO STRICT issued FROM {schema}.epochs e;
    END IF;
    RETURN QUERY
    INSERT INTO {schema}.leases AS l (shard, epoch, owner, expires_at)
    SELECT w.shard, issued + 1, in_owner, clock_timestamp() + in_micros * interval '1 microsecond'
    FROM (SELECT DISTINCT u.shard FROM unnest(in_shards) AS u (shard)) w
    ORDER BY w.shard
    ON CONFLICT (shard) DO UPDATE
    SET
        epoch = CASE WHEN l.owner = excluded.owner THEN l.epoch ELSE greatest(l.epoch, issued) + 1 END,
        owner = excluded.owner,
        expires_at = excluded.expires_at
    WHERE l.owner = excluded.owner OR (changes_hands AND l.expires_at <= clock_timestamp())
    RETURNING l.*;
END
$$;
