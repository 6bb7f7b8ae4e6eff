-- Runs that wait for an event in their journal or for a point in time. The owner of the shard records a
-- wait when it evicts the run from memory. The rows are not derived from the log: a run without a row is
-- loaded by the next owner. `wake_at` is in microseconds since the Unix epoch.
CREATE TABLE {schema}.run_waits (
    shard integer NOT NULL,
    id uuid NOT NULL,
    stream_id bigint NOT NULL,
    version integer NOT NULL,
    wake_at bigint,
    PRIMARY KEY (shard, id)
);

CREATE INDEX idx_run_waits_wake_at ON {schema}.run_waits (wake_at, id) WHERE wake_at IS NOT NULL;

-- Records waits. The leases are locked, so that no shard changes its owner before the commit.
CREATE FUNCTION {schema}.note_waits(
    in_ids uuid[],
    in_streams text[],
    in_shards integer[],
    in_epochs bigint[],
    in_versions integer[],
    in_wakes bigint[]
)
RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    PERFORM FROM {schema}.leases l WHERE l.shard = ANY (in_shards) ORDER BY l.shard FOR SHARE;
    INSERT INTO {schema}.run_waits AS w (shard, id, stream_id, version, wake_at)
    SELECT DISTINCT ON (n.shard, n.id) n.shard, n.id, s.id, n.version, n.wake_at
    FROM unnest(in_ids, in_streams, in_shards, in_epochs, in_versions, in_wakes)
        AS n (id, stream, shard, epoch, version, wake_at)
    JOIN {schema}.leases l ON l.shard = n.shard AND l.epoch = n.epoch
    JOIN {schema}.streams s ON s.name = n.stream
    ORDER BY n.shard, n.id, n.version DESC
    ON CONFLICT (shard, id) DO UPDATE
    SET stream_id = excluded.stream_id, version = excluded.version, wake_at = excluded.wake_at
    WHERE w.stream_id <> excluded.stream_id OR w.version <= excluded.version;
END
$$;

CREATE FUNCTION {schema}.forget_waits(in_ids uuid[], in_shards integer[], in_epochs bigint[])
RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    PERFORM FROM {schema}.leases l WHERE l.shard = ANY (in_shards) ORDER BY l.shard FOR SHARE;
    DELETE FROM {schema}.run_waits w
    USING unnest(in_ids, in_shards, in_epochs) AS n (id, shard, epoch), {schema}.leases l
    WHERE w.shard = n.shard AND w.id = n.id AND l.shard = n.shard AND l.epoch = n.epoch;
END
$$;

-- The following three functions also have to be fast before statistics are gathered. The look-ups for each
-- run are therefore subqueries that the planner cannot turn into a join.

-- Returns the runs that are due, earliest first. The sum keeps the planner from sorting rows that the index
-- on the time returns in order.
CREATE FUNCTION {schema}.due_runs(
    in_shards integer[], in_after bigint, in_after_id uuid, in_up_to bigint, in_limit bigint
)
RETURNS TABLE (wake_at bigint, id uuid, external_id text)
LANGUAGE sql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
    SELECT w.wake_at, w.id, r.external_id
    FROM {schema}.run_waits w
    CROSS JOIN LATERAL (
        SELECT o.external_id
        FROM {schema}.workflow_runs o
        WHERE o.id = w.id AND o.status IN ('running', 'paused', 'blocked', 'cancelling')
        OFFSET 0
    ) r
    WHERE (w.wake_at, w.id) > (in_after, in_after_id) AND w.wake_at <= in_up_to
        AND w.shard + 0 = ANY (in_shards)
    ORDER BY w.wake_at, w.id
    LIMIT in_limit
$$;

-- Returns the runs that have not ended and have no recorded wait. The subquery keeps the planner from
-- scanning all runs in the order of their keys.
CREATE FUNCTION {schema}.unnoted_runs(in_shards bigint[], in_after uuid, in_limit bigint)
RETURNS TABLE (id uuid, external_id text)
LANGUAGE sql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
    SELECT u.id, u.external_id
    FROM (
        SELECT r.id, r.external_id
        FROM {schema}.workflow_runs r
        WHERE r.shard = ANY (in_shards)
            AND r.status IN ('running', 'paused', 'blocked', 'cancelling')
            AND r.deleted_at IS NULL
            AND (
                SELECT w.version FROM {schema}.run_waits w WHERE w.shard = r.shard AND w.id = r.id
            ) IS NULL
        OFFSET 0
    ) u
    WHERE u.id > in_after
    ORDER BY u.id
    LIMIT in_limit
$$;

-- Returns the runs that have not ended and whose journal has an event after the recorded version.
CREATE FUNCTION {schema}.outdated_runs(in_shards integer[], in_after uuid, in_limit bigint)
RETURNS TABLE (id uuid, external_id text)
LANGUAGE sql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
    SELECT o.id, r.external_id
    FROM (
        SELECT w.id
        FROM {schema}.run_waits w
        WHERE w.shard = ANY (in_shards) AND w.id > in_after
            AND (
                SELECT e.version FROM {schema}.events e
                WHERE e.stream_id = w.stream_id AND e.version = w.version + 1
            ) IS NOT NULL
        OFFSET 0
    ) o
    CROSS JOIN LATERAL (
        SELECT r.external_id
        FROM {schema}.workflow_runs r
        WHERE r.id = o.id AND r.status IN ('running', 'paused', 'blocked', 'cancelling')
            AND r.deleted_at IS NULL
        OFFSET 0
    ) r
    ORDER BY o.id
    LIMIT in_limit
$$;

-- Removes a batch of finished runs that are old enough from the log and the read models, and returns their
-- number. The runs are searched before the lock of `append` is taken, and checked again under the lock, so
-- that no event is appended to a stream that is being removed. Their recorded waits are removed too.
CREATE OR REPLACE FUNCTION {schema}.expire(in_micros bigint, in_limit integer, in_archive boolean)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    run_keys uuid[];
    run_ids text[];
    stream_ids bigint[];
BEGIN
    SELECT array_agg(x.id) INTO run_keys FROM {schema}.expirable(in_micros, in_limit, NULL) x;
    IF run_keys IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock({lock});
    SELECT array_agg(x.id), array_agg(x.run_id), array_agg(x.stream_id)
    INTO run_keys, run_ids, stream_ids
    FROM {schema}.expirable(in_micros, in_limit, run_keys) x;
    IF run_keys IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM nextval('{schema}.expirations');

    IF in_archive THEN
        INSERT INTO {schema}.archived_events (
            id, position, stream, created_at, version, type, source, external_id, payload, metadata,
            incarnation
        )
        SELECT
            e.id, e.position, s.name, e.created_at, e.version, t.name, c.name, e.external_id,
            e.payload, e.metadata, f.id
        FROM {schema}.events e
        JOIN {schema}.streams s ON s.id = e.stream_id
        JOIN {schema}.event_types t ON t.id = e.type_id
        JOIN {schema}.event_sources c ON c.id = e.source_id
        JOIN {schema}.events f ON f.stream_id = e.stream_id AND f.version = 1
        WHERE e.stream_id = ANY (stream_ids);
    END IF;
    DELETE FROM {schema}.events e WHERE e.stream_id = ANY (stream_ids);
    DELETE FROM {schema}.streams s WHERE s.id = ANY (stream_ids);
    DELETE FROM {schema}.agent_tasks t WHERE t.run_id = ANY (run_ids);
    DELETE FROM {schema}.run_waits w USING {schema}.workflow_runs r
    WHERE r.id = ANY (run_keys) AND w.shard = r.shard AND w.id = r.id;
    DELETE FROM {schema}.workflow_runs w WHERE w.id = ANY (run_keys);
    RETURN cardinality(run_keys);
END
$$;
