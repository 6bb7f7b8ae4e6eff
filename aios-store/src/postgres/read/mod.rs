//! Reads of the log and of streams.
//!
//! Every read is one statement without a transaction, so it may be repeated on another connection. It fails
//! if the log lacks the last event that this process knows; see `known`.
//!
//! `READ` joins the names to the events of a page, and the page selects the events through one of
//! two unique indexes: on the position, or on stream and version.

mod known;
mod notifications;
mod tail;

use std::collections::{BTreeSet, HashMap};

use aios_core::{
    event::Pattern,
    store::{MAX_PAGE, RecordedEvent, StoreError, StreamId},
};
use sqlx::{Row, postgres::PgRow};

pub(crate) use self::{
    known::{LAST_EVENT, LastEvent},
    notifications::{Head, listen, notify, notify_release, poll},
    tail::Tail,
};
use super::{
    connection::{Database, Sql, Statement},
    schema::Schema,
};
use crate::rows::{Previous, StoredEvent};

/// Reads the events of a page. Names are looked up by subqueries: the planner does not know how small a
/// page is, and would read the whole table of streams for a join.
const READ: &str = "\
    SELECT e.position, e.id, e.external_id,
        (SELECT s.name FROM {schema}.streams s WHERE s.id = e.stream_id),
        e.version,
        (SELECT t.name FROM {schema}.event_types t WHERE t.id = e.type_id),
        (SELECT c.name FROM {schema}.event_sources c WHERE c.id = e.source_id),
        e.created_at, e.payload,
        CASE WHEN e.metadata IS NULL AND e.is_bare THEN '{}' ELSE e.metadata END
    FROM ({page}) e
    WHERE {known}
    ORDER BY e.position";

/// A page of the log.
const LOG_PAGE: &str =
    "SELECT * FROM {schema}.events WHERE position > $3 ORDER BY position LIMIT $4";

/// Excluded types are matched with a full stop appended to their names; see [`excluded`].
const LOG_RANGE: &str = "\
    SELECT * FROM {schema}.events
    WHERE position > $3 AND position <= $4 AND type_id <> ALL (
        ARRAY(SELECT id FROM {schema}.event_types WHERE name || '.' ~ $5))
    ORDER BY position";

/// A page of a stream.
const STREAM_PAGE: &str = "\
    SELECT * FROM {schema}.events
    WHERE stream_id = (SELECT id FROM {schema}.streams WHERE name = $5) AND version > $3
    ORDER BY version LIMIT $4";

/// The first `$4` events of each of the streams `$3`.
///
/// `OFFSET 0` keeps the planner from merging the subquery, so that each stream is looked up once.
const STREAM_STARTS: &str = "\
    SELECT b.* FROM (
        SELECT (SELECT s.id FROM {schema}.streams s WHERE s.name = n.name) AS id
        FROM unnest($3::text[]) AS n (name)
        OFFSET 0
    ) n
    CROSS JOIN LATERAL (
        SELECT * FROM {schema}.events
        WHERE stream_id = n.id
        ORDER BY version LIMIT $4
    ) b";

/// Returns the statement that reads a page of the log: at most `$4` events after position `$3`.
pub(crate) fn log_page(schema: &Schema) -> Sql {
    schema.fill(&READ.replace("{page}", LOG_PAGE))
}

/// Returns the statement that reads the first `$4` events of each of the streams `$3`, ordered by stream.
fn stream_starts(schema: &Schema) -> Sql {
    let read = READ.replace("ORDER BY e.position", "ORDER BY e.stream_id, e.version");
    schema.fill(&read.replace("{page}", STREAM_STARTS))
}

/// Returns the statement that reads the log after `$3` up to `$4`, without the types that match `$5`.
fn log_range(schema: &Schema) -> Sql {
    schema.fill(&READ.replace("{page}", LOG_RANGE))
}

/// Returns the statement that reads a page of the stream `$5`: at most `$4` events after version `$3`.
pub(crate) fn stream_page(schema: &Schema) -> Sql {
    schema.fill(&READ.replace("{page}", STREAM_PAGE))
}

/// Returns the statement that reads the last event.
fn last(schema: &Schema) -> Sql {
    schema.fill(&format!("SELECT {LAST_EVENT} WHERE {{known}}"))
}

/// Reads a page of the log after a position.
pub(crate) async fn read_log(
    database: &Database,
    head: &Head,
    after: u64,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let sql = log_page(database.schema());
    events(database, head, "read the log", sql, |query| page(query, after, limit)).await
}

/// Reads a range of the log without the events of some types.
pub(crate) async fn read_log_except(
    database: &Database,
    head: &Head,
    after: u64,
    up_to: u64,
    except: &[Pattern],
) -> Result<Vec<RecordedEvent>, StoreError> {
    let bind =
        |query: Statement| query.bind(signed(after)).bind(signed(up_to)).bind(excluded(except));
    events(database, head, "read the log", log_range(database.schema()), bind).await
}

/// Converts patterns to one regular expression that matches what any of them matches: the server
/// keeps 32 compiled expressions, and compiles each of a longer list again for every event type.
/// Without patterns it matches nothing.
///
/// It matches names in which a full stop follows every segment, the last one too, so that each
/// segment can be matched in the same way.
fn excluded(patterns: &[Pattern]) -> String {
    let alternatives: Vec<String> = patterns.iter().map(segments).collect();
    format!("^(?:{})$", alternatives.join("|"))
}

/// Converts a pattern. Names of segments have no character with a meaning in regular expressions.
fn segments(pattern: &Pattern) -> String {
    let segments = pattern.as_str().split('.').map(|segment| match segment {
        "#" => r"(?:[^.]+\.)*".to_owned(),
        "*" => r"[^.]+\.".to_owned(),
        name => format!(r"{name}\."),
    });
    segments.collect()
}

/// Reads a page of a stream after a version. A name with NUL can't be sent and has no events.
pub(crate) async fn read_stream(
    database: &Database,
    head: &Head,
    stream: &StreamId,
    after: u64,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    if stream.as_str().contains('\0') {
        return Ok(Vec::new());
    }
    let bind = |query| page(query, after, limit).bind(stream.as_str());
    events(database, head, "read a stream", stream_page(database.schema()), bind).await
}

/// Reads the first events of several streams in one round trip, and returns them in the order of
/// `streams`. A name with NUL can't be sent and has no events.
pub(crate) async fn read_streams(
    database: &Database,
    head: &Head,
    streams: &[StreamId],
    limit: usize,
) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
    let names: BTreeSet<&str> = streams.iter().map(StreamId::as_str).collect();
    let names: Vec<_> = names.into_iter().filter(|name| !name.contains('\0')).collect();
    let bind = |query: Statement| query.bind(names).bind(page_limit(limit));
    let found =
        events(database, head, "read streams", stream_starts(database.schema()), bind).await?;
    let mut by_stream: HashMap<StreamId, Vec<RecordedEvent>> = HashMap::new();
    for event in found {
        by_stream.entry(event.stream.clone()).or_default().push(event);
    }
    Ok(streams.iter().map(|stream| by_stream.get(stream).cloned().unwrap_or_default()).collect())
}

/// Runs a statement with the condition `{known}`, whose first two parameters are the last known event. `bind`
/// adds the others. If the log lacks that event, this and all later reads fail with
/// [`StoreError::LostEvents`].
pub(crate) async fn fetch_known(
    database: &Database,
    head: &Head,
    operation: &'static str,
    sql: Sql,
    bind: impl FnOnce(Statement) -> Statement,
) -> Result<Vec<PgRow>, StoreError> {
    // Committed before the statement, so that it must see it.
    let known = head.known()?;
    let rows = database.fetch_all(operation, bind(known.statement(sql))).await;
    if matches!(rows, Err(StoreError::LostEvents { .. })) {
        head.on_loss(database.name(), known.position, None);
    }
    rows
}

/// Reads the last event.
pub(crate) async fn last_event(database: &Database, head: &Head) -> Result<LastEvent, StoreError> {
    let operation = "read the head of the log";
    let rows = fetch_known(database, head, operation, last(database.schema()), |it| it).await?;
    let last = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(LastEvent::read);
    let last = last.map_err(|error| database.error(operation, error))?;
    head.advance(last);
    Ok(last)
}

/// Runs a read of events, and records that this process knows them.
async fn events(
    database: &Database,
    head: &Head,
    operation: &'static str,
    sql: Sql,
    bind: impl FnOnce(Statement) -> Statement,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let events = recorded(database, &fetch_known(database, head, operation, sql, bind).await?)?;
    if let Some(last) = LastEvent::of(&events) {
        head.advance(last);
    }
    Ok(events)
}

/// Binds the parameters that all pages have.
fn page(query: Statement, after: u64, limit: usize) -> Statement {
    query.bind(signed(after)).bind(page_limit(limit))
}

/// The number of events of a page, at most `MAX_PAGE`.
fn page_limit(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}

/// Converts a position or version. No event is beyond `i64::MAX`.
fn signed(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

/// Decodes rows of `READ`.
pub(crate) fn recorded(
    database: &Database,
    rows: &[PgRow],
) -> Result<Vec<RecordedEvent>, StoreError> {
    let mut previous = Previous::default();
    rows.iter()
        .map(|row| {
            let stored = stored(row).map_err(|error| database.error("read events", error))?;
            stored.into_recorded(database.name(), &mut previous)
        })
        .collect()
}

/// Takes the columns of a row in the order of `READ`.
fn stored(row: &PgRow) -> sqlx::Result<StoredEvent> {
    Ok(StoredEvent {
        position: row.try_get(0)?,
        key: row.try_get(1)?,
        external_id: row.try_get(2)?,
        stream: row.try_get(3)?,
        version: row.try_get::<i32, _>(4)?.into(),
        event_type: row.try_get(5)?,
        source: row.try_get(6)?,
        created_at: row.try_get(7)?,
        payload: row.try_get(8)?,
        metadata: row.try_get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use aios_tests::postgres::PostgresServer;

    use super::*;
    use crate::postgres::{PostgresOptions, PostgresStore};

    /// Inserts 20,000 events in 1,000 streams.
    const FILL: &str = "\
        INSERT INTO {schema}.streams (name) SELECT 's/' || i FROM generate_series(1, 1000) i;
        INSERT INTO {schema}.event_types (name) VALUES ('a.b.c');
        INSERT INTO {schema}.event_sources (name) VALUES ('test');
        INSERT INTO {schema}.events
            (id, position, stream_id, created_at, version, type_id, source_id, payload)
        SELECT gen_random_uuid(), i, i % 1000 + 1, 0, i / 1000 + 1, 1, 1, '{}'
        FROM generate_series(0, 19999) i";

    fn plan(server: &PostgresServer, sql: &str, parameters: &str, arguments: &str) -> String {
        server.sql(&format!(
            "SET plan_cache_mode = force_generic_plan; \
             PREPARE page ({parameters}) AS {sql}; EXPLAIN EXECUTE page ({arguments})"
        ))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn should_read_events_by_index() {
        let Some(server) = PostgresServer::start() else { return };
        PostgresStore::connect_with(PostgresOptions::new(&server.url())).await.unwrap();
        let schema = Schema::default();
        server.sql(&schema.fill(FILL));
        server.sql("ANALYZE");
        let log =
            plan(&server, &log_page(&schema), "bigint, uuid, bigint, bigint", "0, NULL, 5, 10");
        let stream = plan(
            &server,
            &stream_page(&schema),
            "bigint, uuid, bigint, bigint, text",
            "0, NULL, 5, 10, 's/7'",
        );
        let range = plan(
            &server,
            &log_range(&schema),
            "bigint, uuid, bigint, bigint, text",
            "0, NULL, 5, 10, '^a'",
        );
        let starts = plan(
            &server,
            &stream_starts(&schema),
            "bigint, uuid, text[], bigint",
            "0, NULL, '{s/7,s/8}', 10",
        );
        let last = plan(&server, &last(&schema), "bigint, uuid", "0, NULL");
        for (plan, index) in [
            (&log, "idx_events_position"),
            (&range, "idx_events_position"),
            (&stream, "idx_events_stream_id_version"),
            (&starts, "idx_events_stream_id_version"),
            (&last, "idx_events_position"),
        ] {
            assert!(plan.contains(index) && !plan.contains("Seq Scan on events"), "{plan}");
            assert!(!plan.contains("Seq Scan on streams"), "{plan}");
        }
    }

    /// The parts of generated patterns and of the names that they are compared with.
    const PARTS: [&str; 6] = ["a", "ab", "b_1", "step", "*", "#"];

    /// The first parts in pseudo-random combinations of one to four.
    fn combinations(seed: u64, parts: usize, lengths: std::ops::Range<usize>) -> Vec<String> {
        let mut state = seed;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut combination = || {
            let length = lengths.start + next(lengths.len());
            let parts: Vec<&str> = (0..length).map(|_| PARTS[next(parts)]).collect();
            parts.join(".")
        };
        (0..60).map(|_| combination()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn should_exclude_exactly_the_types_that_a_pattern_matches() {
        let Some(server) = PostgresServer::start() else { return };
        for seed in 0..40 {
            let names = combinations(seed, 4, 3..4);
            let count = usize::try_from(seed).unwrap() % 45;
            let patterns: Vec<Pattern> = combinations(seed + 1000, 6, 1..5)
                .iter()
                .take(count)
                .map(|pattern| pattern.parse().unwrap())
                .collect();
            let expected: Vec<&String> = names
                .iter()
                .filter(|name| {
                    let event_type = name.parse().unwrap();
                    patterns.iter().any(|pattern| pattern.matches(&event_type))
                })
                .collect();
            let matched = server.sql(&format!(
                "SELECT name FROM unnest('{{{}}}'::text[]) WITH ORDINALITY AS n (name, place) \
                 WHERE name || '.' ~ '{}' ORDER BY place",
                names.join(","),
                excluded(&patterns)
            ));
            let matched: Vec<&str> = matched.lines().map(str::trim).collect();
            assert_eq!(matched, expected, "{patterns:?}");
        }
    }

    /// A list of expressions would be compiled again at every read.
    #[test]
    fn should_match_any_number_of_patterns_with_one_expression() {
        let patterns = |texts: &[&str]| -> Vec<Pattern> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(excluded(&[]), "^(?:)$");
        let expression = excluded(&patterns(&["a.*.c", "system.#"]));
        assert_eq!(expression, r"^(?:a\.[^.]+\.c\.|system\.(?:[^.]+\.)*)$");
    }
}
