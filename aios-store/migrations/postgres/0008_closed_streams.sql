-- A run's stream accepts no event after the one that ended the run. A stream that is looked up is checked
-- by its last event. A cached stream needs no check: it was open after the writer's last append, and if
-- another process closed it since, the unique index on versions refuses the batch, which is then sent again
-- and looked up.

-- Whether an event of type `last` closes the stream of a run that began with one of type `first`: the
-- rule of `aios_core::store::closes`.
CREATE FUNCTION {schema}.closes(first text, last text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $$
    SELECT last ~ '^workflows\.[^.]+\.(completed|failed|cancelled|continued)$'
        AND first = regexp_replace(last, '[^.]+$', 'started')
$$;

-- The same as the first version, with the additional verdict 5: the stream is closed.
CREATE OR REPLACE FUNCTION {schema}.append(
    in_streams text[],
    in_expected bigint[],
    in_shards integer[],
    in_epochs bigint[],
    in_append_streams integer[],
    in_append_sizes integer[],
    in_append_fences integer[],
    in_event_streams integer[],
    in_offsets integer[],
    in_ids uuid[],
    in_external_ids text[],
    in_types integer[],
    in_sources integer[],
    in_timestamps bigint[],
    in_payloads text[],
    in_metadata text[],
    in_changes text,
    in_known_ids bigint[],
    in_known_heads bigint[],
    in_expirations bigint,
    in_checked boolean,
    OUT head bigint,
    OUT heads bigint[],
    OUT stream_ids bigint[],
    OUT expirations bigint,
    OUT verdicts smallint[],
    OUT versions bigint[],
    OUT positions bigint[],
    OUT doubles uuid[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    fresh boolean[];
    refused boolean;
    kept integer[];
    closed boolean[];
BEGIN
    -- A snapshot from before the lock would not include the appends that committed in the meantime.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'aios appends under read committed, not %', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock({lock});

    SELECT
        coalesce((SELECT max(e.position) FROM {schema}.events e), 0),
        x.last_value,
        EXISTS (
            SELECT FROM unnest(in_shards, in_epochs) AS f (shard, epoch)
            LEFT JOIN {schema}.leases l ON l.shard = f.shard
            WHERE l.epoch IS DISTINCT FROM f.epoch
        )
    INTO head, expirations, refused
    FROM {schema}.expirations x;

    IF in_checked OR in_expirations <> expirations THEN
        in_known_ids := NULL;
    END IF;
    IF array_position(in_known_ids, NULL) IS NULL AND in_known_ids IS NOT NULL THEN
        stream_ids := in_known_ids;
        heads := in_known_heads;
    ELSE
        SELECT
            array_agg(s.id), array_agg(s.version), array_agg(s.fresh), array_agg(s.closed),
            refused OR coalesce(bool_or(s.closed OR s.expected <> s.version), false)
                OR (in_checked AND EXISTS (
                    SELECT FROM unnest(in_ids) AS u (id)
                    WHERE EXISTS (SELECT FROM {schema}.events e WHERE e.id = u.id)
                ))
        INTO stream_ids, heads, fresh, closed, refused
        FROM (
            SELECT
                coalesce(w.known_id, t.id, nextval('{schema}.streams_id_seq')) AS id,
                CASE WHEN w.known_id IS NULL THEN coalesce(h.version, 0) ELSE w.known_head END
                    AS version,
                w.known_id IS NULL AND t.id IS NULL AS fresh,
                CASE
                    WHEN w.name LIKE 'runs/%' AND l.name LIKE 'workflows.%' THEN {schema}.closes(
                        (
                            SELECT b.name FROM {schema}.events e
                            JOIN {schema}.event_types b ON b.id = e.type_id
                            WHERE e.stream_id = t.id AND e.version = 1
                        ),
                        l.name
                    )
                    ELSE false
                END AS closed,
                w.expected
            FROM unnest(in_streams, in_expected, in_known_ids, in_known_heads)
                WITH ORDINALITY AS w (name, expected, known_id, known_head, i)
            LEFT JOIN {schema}.streams t
                ON t.name = CASE WHEN w.known_id IS NULL THEN w.name END
            LEFT JOIN LATERAL (
                SELECT e.version, e.type_id FROM {schema}.events e
                WHERE e.stream_id = t.id ORDER BY e.version DESC LIMIT 1
            ) h ON true
            LEFT JOIN {schema}.event_types l ON l.id = h.type_id
            ORDER BY w.i
        ) s;
    END IF;

    IF refused THEN
        SELECT j.verdicts, j.versions, j.positions, j.doubles
        INTO verdicts, versions, positions, doubles
        FROM {schema}.judge(
            stream_ids, heads, closed, in_expected, in_shards, in_epochs,
            in_append_streams, in_append_sizes, in_append_fences, in_ids
        ) j;
        SELECT
            array_agg(k.e::integer ORDER BY k.e), array_agg(k.stream ORDER BY k.e),
            array_agg(k.nth ORDER BY k.e), array_agg(in_ids[k.e] ORDER BY k.e),
            array_agg(in_external_ids[k.e] ORDER BY k.e), array_agg(in_types[k.e] ORDER BY k.e),
            array_agg(in_sources[k.e] ORDER BY k.e), array_agg(in_timestamps[k.e] ORDER BY k.e),
            array_agg(in_payloads[k.e] ORDER BY k.e), array_agg(in_metadata[k.e] ORDER BY k.e)
        INTO
            kept, in_event_streams,
            in_offsets, in_ids,
            in_external_ids, in_types,
            in_sources, in_timestamps,
            in_payloads, in_metadata
        FROM (
            SELECT m.e, m.stream, (row_number() OVER (PARTITION BY m.stream ORDER BY m.e))::integer AS nth
            FROM {schema}.members(in_append_streams, in_append_sizes) m
            WHERE verdicts[m.append] = 0
        ) k;
        IF kept IS NULL THEN
            RETURN;
        END IF;
    END IF;

    IF true = ANY (fresh) THEN
        INSERT INTO {schema}.streams (id, name)
        SELECT w.id, w.name
        FROM unnest(stream_ids, in_streams, fresh) WITH ORDINALITY AS w (id, name, fresh, i)
        WHERE w.fresh AND (kept IS NULL OR w.i = ANY (in_event_streams));
    END IF;

    INSERT INTO {schema}.events (
        id, position, stream_id, created_at, version, type_id, source_id, external_id, payload,
        metadata
    )
    SELECT
        unnest(in_ids), generate_series(head + 1, head + cardinality(in_ids)),
        stream_ids[unnest(in_event_streams)], unnest(in_timestamps),
        heads[unnest(in_event_streams)] + unnest(in_offsets), unnest(in_types),
        unnest(in_sources), unnest(in_external_ids), unnest(in_payloads), unnest(in_metadata);

    IF in_changes IS NOT NULL THEN
        PERFORM {schema}.apply_changes(in_changes, head, kept);
    END IF;
END
$$;

DROP FUNCTION {schema}.judge(
    bigint[], bigint[], bigint[], integer[], bigint[], integer[], integer[], integer[], uuid[]
);

-- Judges each append of a batch in which at least one has to be refused. An append whose events are all
-- stored in its stream with consecutive versions counts as already stored, regardless of its expected
-- version and its fence.
CREATE FUNCTION {schema}.judge(
    stream_ids bigint[],
    heads bigint[],
    closed boolean[],
    expected bigint[],
    shards integer[],
    epochs bigint[],
    append_streams integer[],
    append_sizes integer[],
    append_fences integer[],
    ids uuid[],
    OUT verdicts smallint[],
    OUT versions bigint[],
    OUT positions bigint[],
    OUT doubles uuid[]
)
LANGUAGE sql STABLE
AS $$
    WITH stored AS (
        SELECT
            m.append,
            count(*) AS events,
            bool_and(e.stream_id = stream_ids[m.stream])
                AND max(e.version - m.nth) = min(e.version - m.nth) AS in_one_piece,
            max(e.version)::bigint AS version,
            max(e.position) AS position,
            (array_agg(e.id ORDER BY m.nth))[1] AS id
        FROM {schema}.members(append_streams, append_sizes) m
        JOIN {schema}.events e ON e.id = ids[m.e]
        GROUP BY m.append
    ),
    appends AS (
        SELECT
            a.*,
            row_number() OVER (PARTITION BY a.stream ORDER BY a.i) = 1 AS is_first
        FROM unnest(append_streams, append_sizes, append_fences)
            WITH ORDINALITY AS a (stream, size, fence, i)
    )
    SELECT
        array_agg((CASE
            WHEN s.events = a.size AND s.in_one_piece THEN 1
            WHEN s.events > 0 THEN 4
            WHEN a.fence > 0 AND l.epoch IS DISTINCT FROM epochs[a.fence] THEN 3
            WHEN a.is_first AND expected[a.stream] <> heads[a.stream] THEN 2
            WHEN closed[a.stream] THEN 5
            ELSE 0
        END)::smallint ORDER BY a.i),
        array_agg(s.version ORDER BY a.i),
        array_agg(s.position ORDER BY a.i),
        array_agg(s.id ORDER BY a.i)
    FROM appends a
    LEFT JOIN stored s ON s.append = a.i
    LEFT JOIN {schema}.leases l ON l.shard = shards[a.fence]
$$;
