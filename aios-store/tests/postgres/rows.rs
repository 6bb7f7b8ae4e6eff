//! Rows that this version would not write, and texts that PostgreSQL cannot store.

use aios_core::store::{Append, EventStoreExt, StreamId};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

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

/// Two schemas of one database are two stores.
#[tokio::test(flavor = "multi_thread")]
async fn should_have_different_ids_for_two_schemas_of_one_database() {
    let Some(server) = PostgresServer::shared() else { return };
    let ((one, _), (two, _)) = (open(server).await, open(server).await);
    assert_ne!(one.id().await.unwrap(), two.id().await.unwrap());
}
