//! Rows that this version would not write, and texts that PostgreSQL cannot store.

use aios_core::{
    event::Event,
    store::{Append, EventStoreExt, PageRequest, ReadModels, RunFilter, RunStatus, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use serde_json::json;

use super::event;
use crate::fixture::{bad_rows, old_log};

async fn open(server: &PostgresServer) -> (PostgresStore, String) {
    let schema = server.new_name();
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    (PostgresStore::connect_with(options).await.unwrap(), schema)
}

fn change(server: &PostgresServer, schema: &str, sql: &str) {
    assert_eq!(server.sql(&format!("SET search_path = {schema}; {sql}")), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_rebuild_from_journals_with_events_after_the_end() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, schema) = open(server).await;
    old_log::write(&store).await;
    change(server, &schema, old_log::RENAME);
    old_log::assert_healed(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_list_other_rows_beside_an_unreadable_one() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, schema) = open(server).await;
    bad_rows::write(&store).await;
    bad_rows::BREAK.iter().for_each(|sql| change(server, &schema, sql));
    bad_rows::assert_contained(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_text_with_a_nul() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, _) = open(server).await;
    let (mut source, id) = (event(), event().with_id("a\0b".parse().unwrap()));
    source.source = "a\0b".into();
    for (stream, event, part) in
        [("s", id, "id"), ("s", source, "source"), ("a\0b", event(), "stream")]
    {
        let append = Append::new(StreamId::new(stream).unwrap(), vec![event.clone()]);
        let error = store.append_one(append).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("INVALID_TEXT", false));
        let expected = format!("event {} has the character NUL in its {part}", event.id);
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

/// An end of a run whose result has that many bytes.
fn end(run: &str, bytes: usize) -> Append {
    let data = json!({ "result": "x".repeat(bytes) });
    let event = Event::new("workflows.deploy.completed".parse().unwrap(), "test", &data).unwrap();
    let stream = StreamId::of_run(run).unwrap();
    Append::new(stream, vec![started(), event])
}

fn started() -> Event {
    let data = json!({ "version": 1 });
    Event::new("workflows.deploy.started".parse().unwrap(), "test", &data).unwrap()
}

const MIB: usize = 1024 * 1024;

/// The changes of all events of a page are more than one value of PostgreSQL's `jsonb` can have.
#[tokio::test(flavor = "multi_thread")]
async fn should_rebuild_from_large_events() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, schema) = open(server).await;
    for run in 0..18 {
        store.append_one(end(&format!("r{run}"), 1)).await.unwrap();
    }
    // Faster than such appends.
    let large = "UPDATE events SET payload = replace(payload, 'x', repeat('x', 15728640))";
    change(server, &schema, &format!("{large} WHERE version = 2"));
    store.rebuild().await.unwrap();
    let page = PageRequest::first(100);
    let rows = store.run_summaries(&RunFilter::default(), &page).await.unwrap().rows;
    assert!(rows.len() == 18 && rows.iter().all(|row| row.status == RunStatus::Completed));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_event_that_the_read_models_cannot_take() {
    let Some(server) = PostgresServer::shared() else { return };
    let options = PostgresOptions::new(&server.url()).with_schema(&server.new_name());
    let options = options.with_max_event_bytes(300 * MIB);
    let store = PostgresStore::connect_with(options).await.unwrap();
    let large = end("r", 257 * MIB);
    let id = large.events[1].id.to_string();
    let error = store.append_one(large).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("EVENT_TOO_LARGE", false), "{error:?}");
    assert!(error.to_string().contains(&id), "{error}");
    assert_eq!(store.append_one(end("r", 10)).await.unwrap().position, 2);
}

/// Two schemas of one database are two stores.
#[tokio::test(flavor = "multi_thread")]
async fn should_have_different_ids_for_two_schemas_of_one_database() {
    let Some(server) = PostgresServer::shared() else { return };
    let ((one, _), (two, _)) = (open(server).await, open(server).await);
    assert_ne!(one.id().await.unwrap(), two.id().await.unwrap());
}
