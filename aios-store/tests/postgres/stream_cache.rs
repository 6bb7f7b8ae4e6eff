//! A writer uses the fast calls for batches whose streams are cached. Its results are right even if the cache
//! is outdated.
//!
//! The tests run on one thread, so that each call of `append` is one batch.

use std::time::Duration;

use aios_core::{
    event::Event,
    store::{
        Append, Appended, EventStore, EventStoreExt, Expected, Fence, Leases, OwnerId, PageRequest,
        ReadModels, RunFilter, RunStatus, Shard, StreamId,
    },
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use super::event;

/// Two stores. The first one has appended to the streams `a` and `b`.
struct Setup {
    server: &'static PostgresServer,
    schema: String,
    first: PostgresStore,
    second: PostgresStore,
}

impl Setup {
    async fn new() -> Option<Self> {
        let server = PostgresServer::shared()?;
        let schema = server.new_name();
        let options = PostgresOptions::new(&server.url()).with_schema(&schema);
        let first = PostgresStore::connect_with(options.clone()).await.unwrap();
        let second = PostgresStore::connect_with(options).await.unwrap();
        let setup = Self { server, schema, first, second };
        assert_eq!(setup.append(vec![append("a"), append("b")]).await, [at(1, 1), at(1, 2)]);
        Some(setup)
    }

    /// Appends with the first store. Returns the codes of errors.
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, &'static str>> {
        let results = self.first.append(batch).await.into_iter();
        results.map(|result| result.map_err(|error| error.code())).collect()
    }

    /// Leaves only the fast calls.
    fn disable_append(&self) {
        let sql = format!("ALTER FUNCTION {}.append RENAME TO unused", self.schema);
        assert_eq!(self.server.sql(&sql), "");
    }
}

fn append(stream: &str) -> Append {
    Append::new(StreamId::new(stream).unwrap(), vec![event()])
}

fn at(version: u64, position: u64) -> Result<Appended, &'static str> {
    Ok(Appended { version, position, repeated: false })
}

fn run_event(action: &str, data: &Value) -> Event {
    Event::new(format!("workflows.deploy.{action}").parse().unwrap(), "test", data).unwrap()
}

#[tokio::test]
async fn should_not_look_up_cached_streams() {
    let Some(setup) = Setup::new().await else { return };
    setup.disable_append();
    let mut foreign = event();
    foreign.id = "order-7".parse().unwrap();
    foreign.metadata_mut().user_id = Some("ä".into());
    let pair = Append::new(StreamId::new("a").unwrap(), vec![event(), foreign]);
    let batch = vec![append("b"), pair.clone().with_expected(Expected::Exact(1)), append("a")];
    assert_eq!(setup.append(batch).await, [at(2, 3), at(3, 5), at(4, 6)]);
    let stored = setup.second.read_stream(&pair.stream, 1, 2).await.unwrap();
    let stored: Vec<Event> = stored.into_iter().map(|recorded| recorded.event).collect();
    assert_eq!(stored, pair.events);
}

#[tokio::test]
async fn should_update_read_models_by_the_fast_calls() {
    let Some(setup) = Setup::new().await else { return };
    let stream = StreamId::of_run("r1").unwrap();
    let started = run_event("started", &json!({"version": 1, "input": null}));
    setup.append(vec![Append::new(stream.clone(), vec![started])]).await;
    setup.disable_append();
    let completed = Append::new(stream, vec![run_event("completed", &json!({"result": 1}))]);
    assert_eq!(setup.append(vec![append("a"), completed]).await, [at(2, 4), at(2, 5)]);
    let page = PageRequest::first(10);
    let runs = setup.second.runs(&RunFilter::default(), &page).await.unwrap().rows;
    assert_eq!((runs.len(), runs[0].status, runs[0].position), (1, RunStatus::Completed, 5));
}

#[tokio::test]
async fn should_look_up_a_stream_after_another_process_appended() {
    let Some(setup) = Setup::new().await else { return };
    setup.second.append_one(append("a")).await.unwrap();
    let stale = append("a").with_expected(Expected::Exact(1));
    assert_eq!(setup.append(vec![stale, append("b")]).await, [Err("CONFLICT"), at(2, 4)]);
    assert_eq!(setup.append(vec![append("a"), append("b")]).await, [at(3, 5), at(3, 6)]);
}

#[tokio::test]
async fn should_find_stored_events() {
    let Some(setup) = Setup::new().await else { return };
    let once = append("a");
    assert_eq!(setup.append(vec![once.clone(), append("b")]).await, [at(2, 3), at(2, 4)]);
    let elsewhere = Append::new(StreamId::new("b").unwrap(), once.events.clone());
    let repeated = Appended { repeated: true, ..at(2, 3).unwrap() };
    assert_eq!(setup.append(vec![once, append("b")]).await, [Ok(repeated), at(3, 5)]);
    let results = setup.append(vec![elsewhere, append("a")]).await;
    assert_eq!(results, [Err("DUPLICATE_EVENT"), at(3, 6)]);
}

#[tokio::test]
async fn should_refuse_only_the_append_whose_shard_was_taken() {
    let Some(setup) = Setup::new().await else { return };
    let minute = Duration::from_secs(60);
    let old = OwnerId::new("old");
    let leases = setup
        .first
        .acquire(&[Shard::new(1).unwrap(), Shard::new(2).unwrap()], &old, minute)
        .await
        .unwrap();
    let fences: Vec<Fence> = leases.iter().map(|lease| lease.fence()).collect();
    let batch = || vec![append("a").with_fence(fences[0]), append("b").with_fence(fences[1])];
    assert_eq!(setup.append(batch()).await, [at(2, 3), at(2, 4)]);
    setup.first.release(&leases[..1]).await.unwrap();
    setup.second.acquire(&[Shard::new(1).unwrap()], &OwnerId::new("new"), minute).await.unwrap();
    assert_eq!(setup.append(batch()).await, [Err("FENCED"), at(3, 5)]);
    assert_eq!(setup.append(vec![append("a"), append("b")]).await, [at(3, 6), at(4, 7)]);
}

#[tokio::test]
async fn should_clear_the_cache_after_streams_were_removed() {
    let Some(setup) = Setup::new().await else { return };
    let sql = format!(
        "DELETE FROM {0}.events WHERE version = 1 AND position = 1; \
         DELETE FROM {0}.streams WHERE name = 'a'; SELECT nextval('{0}.expirations') > 0",
        setup.schema
    );
    assert_eq!(setup.server.sql(&sql), "t");
    assert_eq!(setup.append(vec![append("a"), append("b")]).await, [at(1, 3), at(2, 4)]);
    let stream = setup.second.read_stream(&StreamId::new("a").unwrap(), 0, 9).await;
    assert_eq!(stream.unwrap().len(), 1);
}
