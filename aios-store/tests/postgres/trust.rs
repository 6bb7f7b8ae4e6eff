//! A writer that knows the streams of a batch takes the short way, and is right also where what it
//! remembers no longer holds.
//!
//! The tests run on one thread, so that what one call appends is one batch.

use std::{sync::Arc, time::Duration};

use aios_core::{
    event::Event,
    store::{
        Append, Appended, EventStore, EventStoreExt, Expected, Fence, Leases, Owner, PageRequest,
        ReadModels, RunFilter, RunStatus, Shard, StoreError, StreamId,
    },
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use super::event;

/// Two processes, the first of which has appended to the streams `a` and `b`.
struct Scene {
    server: &'static PostgresServer,
    schema: String,
    first: PostgresStore,
    second: PostgresStore,
}

impl Scene {
    async fn new() -> Option<Self> {
        let server = PostgresServer::shared()?;
        let schema = server.new_name();
        let options = PostgresOptions::new(&server.url()).unwrap().with_schema(&schema).unwrap();
        let first = PostgresStore::connect_with(options.clone()).await.unwrap();
        let second = PostgresStore::connect_with(options).await.unwrap();
        let scene = Self { server, schema, first, second };
        assert_eq!(scene.append(vec![append("a"), append("b")]).await, [at(1, 1), at(1, 2)]);
        Some(scene)
    }

    /// Appends from the first process; what was refused is named by its code.
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, &'static str>> {
        let code = |answer: Result<_, StoreError>| answer.map_err(|error| error.code());
        self.first.append(batch).await.into_iter().map(code).collect()
    }

    /// Leaves nothing but the short way.
    fn close_the_long_way(&self) {
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
async fn should_look_nothing_up_that_it_knows() {
    let Some(scene) = Scene::new().await else { return };
    scene.close_the_long_way();
    let mut foreign = event();
    foreign.id = "order-7".parse().unwrap();
    foreign.metadata.user_id = Some("ä".into());
    let pair = Append::new(StreamId::new("a").unwrap(), vec![event(), foreign]);
    let batch = vec![append("b"), pair.clone().with_expected(Expected::Exact(1)), append("a")];
    assert_eq!(scene.append(batch).await, [at(2, 3), at(3, 5), at(4, 6)]);
    let stored = scene.second.read_stream(&pair.stream, 1, 2).await.unwrap();
    let stored: Vec<Event> = stored.into_iter().map(|recorded| recorded.event).collect();
    assert_eq!(stored, pair.events);
}

#[tokio::test]
async fn should_change_read_models_on_the_short_way() {
    let Some(scene) = Scene::new().await else { return };
    let stream = StreamId::of_run("r1").unwrap();
    let started = run_event("started", &json!({"version": 1, "input": null}));
    scene.append(vec![Append::new(stream.clone(), vec![started])]).await;
    scene.close_the_long_way();
    let completed = Append::new(stream, vec![run_event("completed", &json!({"result": 1}))]);
    assert_eq!(scene.append(vec![append("a"), completed]).await, [at(2, 4), at(2, 5)]);
    let page = PageRequest::first(10);
    let runs = scene.second.runs(&RunFilter::default(), &page).await.unwrap().rows;
    assert_eq!((runs.len(), runs[0].status, runs[0].position), (1, RunStatus::Completed, 5));
}

#[tokio::test]
async fn should_look_again_where_another_process_appended() {
    let Some(scene) = Scene::new().await else { return };
    scene.second.append_one(append("a")).await.unwrap();
    let stale = append("a").with_expected(Expected::Exact(1));
    assert_eq!(scene.append(vec![stale, append("b")]).await, [Err("CONFLICT"), at(2, 4)]);
    assert_eq!(scene.append(vec![append("a"), append("b")]).await, [at(3, 5), at(3, 6)]);
}

#[tokio::test]
async fn should_tell_what_is_stored_already() {
    let Some(scene) = Scene::new().await else { return };
    let once = append("a");
    assert_eq!(scene.append(vec![once.clone(), append("b")]).await, [at(2, 3), at(2, 4)]);
    let elsewhere = Append::new(StreamId::new("b").unwrap(), once.events.clone());
    let repeated = Appended { repeated: true, ..at(2, 3).unwrap() };
    assert_eq!(scene.append(vec![once, append("b")]).await, [Ok(repeated), at(3, 5)]);
    let answers = scene.append(vec![elsewhere, append("a")]).await;
    assert_eq!(answers, [Err("DUPLICATE_EVENT"), at(3, 6)]);
}

#[tokio::test]
async fn should_refuse_alone_whose_shard_was_taken() {
    let Some(scene) = Scene::new().await else { return };
    let long = Duration::from_secs(60);
    let owner = |name| Owner::new(name);
    let leases = scene.first.acquire(&[Shard(1), Shard(2)], &owner("old"), long).await.unwrap();
    let fences: Vec<Fence> = leases.iter().map(|lease| lease.fence()).collect();
    let batch = || vec![append("a").with_fence(fences[0]), append("b").with_fence(fences[1])];
    assert_eq!(scene.append(batch()).await, [at(2, 3), at(2, 4)]);
    scene.first.release(&leases[..1]).await.unwrap();
    scene.second.acquire(&[Shard(1)], &owner("new"), long).await.unwrap();
    assert_eq!(scene.append(batch()).await, [Err("FENCED"), at(3, 5)]);
    assert_eq!(scene.append(vec![append("a"), append("b")]).await, [at(3, 6), at(4, 7)]);
}

#[tokio::test]
async fn should_not_trust_what_it_knew_before_streams_were_taken_out() {
    let Some(scene) = Scene::new().await else { return };
    let sql = format!(
        "DELETE FROM {0}.events WHERE version = 1 AND position = 1; \
         DELETE FROM {0}.streams WHERE name = 'a'; SELECT nextval('{0}.expirations') > 0",
        scene.schema
    );
    assert_eq!(scene.server.sql(&sql), "t");
    assert_eq!(scene.append(vec![append("a"), append("b")]).await, [at(1, 3), at(2, 4)]);
    let named = Arc::new(scene.second).read_stream(&StreamId::new("a").unwrap(), 0, 9).await;
    assert_eq!(named.unwrap().len(), 1);
}
