//! The hand-written writer that is the ceiling of the PostgreSQL benchmarks, and the callers of
//! the measured store.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStore, EventStoreExt, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Key of the lock; any value will do, because each schema has its own lock.
const LOCK: i64 = 1;

/// Opens a store in a schema, with the options that users get by default.
pub async fn open(url: &str, schema: &str) -> Arc<PostgresStore> {
    let options = PostgresOptions::new(url).with_schema(schema);
    Arc::new(PostgresStore::connect_with(options).await.unwrap())
}

/// The events of each caller, with 200 bytes of data.
#[must_use]
pub fn appends(callers: usize, events: usize) -> Vec<Vec<Append>> {
    let data = json!({"operation": 1, "result": "x".repeat(170)});
    let event = || Event::new("workflows.bench.step_completed".parse().unwrap(), "bench", &data);
    (0..callers)
        .map(|_| {
            let stream = StreamId::of_run(&EventId::generate().to_string()).unwrap();
            (0..events).map(|_| Append::new(stream.clone(), vec![event().unwrap()])).collect()
        })
        .collect()
}

/// Every caller appends its events one at a time; returns how long all of them take.
#[allow(clippy::disallowed_methods, reason = "it measures real time")]
pub async fn callers(store: &Arc<PostgresStore>, appends: Vec<Vec<Append>>) -> Duration {
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for appends in appends {
        let store = Arc::clone(store);
        callers.spawn(async move {
            for append in appends {
                store.append_one(append).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    start.elapsed()
}

/// A hand-written writer without any checks.
#[derive(Debug)]
pub struct Bare {
    connection: PgConnection,
    insert: String,
    streams: usize,
    places: Range<usize>,
}

impl Bare {
    /// A connection to a fresh schema with the store's own tables and this many streams, to which
    /// the rows are distributed in turn.
    pub async fn open(url: &str, schema: &str, streams: usize) -> Self {
        open(url, schema).await.close().await.unwrap();
        let mut bare = Self::connect(url, schema, streams, 0..usize::MAX).await;
        for sql in [
            format!(
                "INSERT INTO {schema}.streams (name) SELECT 'runs/' || generate_series(1, {streams})"
            ),
            format!(
                "INSERT INTO {schema}.event_types (name) VALUES ('workflows.bench.step_completed')"
            ),
            format!("INSERT INTO {schema}.event_sources (name) VALUES ('bench')"),
        ] {
            sqlx::raw_sql(&sql).execute(&mut bare.connection).await.unwrap();
        }
        bare
    }

    /// Another connection to a schema that [`open`](Self::open) created, for the rows of these
    /// places.
    pub async fn connect(url: &str, schema: &str, streams: usize, places: Range<usize>) -> Self {
        let connection = PgConnection::connect(url).await.unwrap();
        let insert = format!(
            "INSERT INTO {schema}.events (id, position, stream_id, created_at, version, type_id, source_id, payload) \
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::text[])"
        );
        Self { connection, insert, streams, places }
    }

    /// Commits rows in one transaction, under a lock.
    pub async fn commit(&mut self, rows: &[&Append]) {
        sqlx::raw_sql("BEGIN").execute(&mut self.connection).await.unwrap();
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
        lock.execute(&mut self.connection).await.unwrap();
        self.insert(rows).await;
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await.unwrap();
    }

    /// Inserts rows; on its own this is one INSERT and its COMMIT.
    pub async fn insert(&mut self, rows: &[&Append]) {
        let events: Vec<&Event> = rows.iter().map(|append| &append.events[0]).collect();
        let places: Vec<usize> = self.places.by_ref().take(rows.len()).collect();
        let number = |number: usize| i64::try_from(number).unwrap();
        let (streams, ones) = (self.streams, vec![1_i32; rows.len()]);
        let versions = places.iter().map(|place| i32::try_from(place / streams + 1).unwrap());
        let versions: Vec<i32> = versions.collect();
        sqlx::query(&self.insert)
            .bind(events.iter().map(|event| event.id.key()).collect::<Vec<Uuid>>())
            .bind(places.iter().map(|place| number(place + 1)).collect::<Vec<i64>>())
            .bind(places.iter().map(|place| number(place % streams + 1)).collect::<Vec<i64>>())
            .bind(events.iter().map(|event| event.timestamp.as_micros()).collect::<Vec<i64>>())
            .bind(versions)
            .bind(&ones)
            .bind(&ones)
            .bind(events.iter().map(|event| event.payload.as_str()).collect::<Vec<&str>>())
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}
