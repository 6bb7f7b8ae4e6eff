-- Examines a page of the streams of requests to the HTTP API, `system/requests/…`, in the order of their
-- names, and removes those whose last event is old enough. Returns the number of removed streams and the
-- name of the last examined stream; null if there is none. The conditions are those of `expire`.
CREATE FUNCTION {schema}.expire_requests(
    in_after text, in_micros bigint, in_limit integer, OUT out_removed bigint, OUT out_last text
)
LANGUAGE plpgsql
SET jit = off
AS $$
DECLARE
    stream_ids bigint[];
BEGIN
    out_removed := 0;
    SELECT max(x.name) INTO out_last FROM (
        SELECT s.name FROM {schema}.streams s
        WHERE s.name > in_after AND s.name < 'system/requests0'
        ORDER BY s.name
        LIMIT in_limit
    ) x;
    IF out_last IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock({lock});
    SELECT array_agg(s.id) INTO stream_ids
    FROM {schema}.streams s
    CROSS JOIN LATERAL (
        SELECT e.created_at, e.position FROM {schema}.events e
        WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1
    ) l
    WHERE s.name > in_after AND s.name <= out_last
        AND l.created_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - in_micros
        AND l.position <= (
            SELECT least(max(e.position) - 1, (SELECT min(c.position) FROM {schema}.checkpoints c))
            FROM {schema}.events e
        );
    IF stream_ids IS NULL THEN
        RETURN;
    END IF;
    PERFORM nextval('{schema}.expirations');
    DELETE FROM {schema}.events e WHERE e.stream_id = ANY (stream_ids);
    DELETE FROM {schema}.streams s WHERE s.id = ANY (stream_ids);
    out_removed := cardinality(stream_ids);
END
$$;
