//! Appends while the server or the connection to it fails.

use std::{sync::Arc, time::Duration};

use aios_core::store::{Append, EventStore, EventStoreExt, Expected, StreamId};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

use super::{event, options, proxy::Proxy};

fn append(stream: &str, expected: Expected) -> Append {
    Append::new(StreamId::new(stream).unwrap(), vec![event()]).with_expected(expected)
}

/// A store that connects through a proxy, except for its listening connection.
async fn behind_proxy(server: &PostgresServer) -> (PostgresStore, Proxy) {
    let proxy = Proxy::start(server.port()).await;
    let options = proxied(&proxy, server);
    (PostgresStore::connect_with(options).await.unwrap(), proxy)
}

fn proxied(proxy: &Proxy, server: &PostgresServer) -> PostgresOptions {
    let options = PostgresOptions::new(&proxy.url(server));
    let options = options.with_listen_url(&server.url());
    options.with_schema(&server.new_name())
}

/// Waits longer than the pause between hints, so that the next statement on the proxy is an append.
async fn after_hints() {
    tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_return_the_right_result_when_the_answer_to_a_commit_is_lost() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, proxy) = behind_proxy(server).await;
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    for round in 1..=5 {
        after_hints().await;
        proxy.lose_answers(1);
        let batch = vec![
            append("a", Expected::Exact(round)),
            append("b", Expected::Exact(77)),
            append("c", Expected::Any),
        ];
        let results = store.append(batch).await;
        let versions: Vec<Option<u64>> =
            results.iter().map(|result| Some(result.as_ref().ok()?.version)).collect();
        assert_eq!(versions, [Some(round + 1), None, Some(round)]);
        assert_eq!(results[1].as_ref().unwrap_err().code(), "CONFLICT");
    }
    let log = store.read_log(0, 100).await.unwrap();
    let positions: Vec<u64> = log.iter().map(|recorded| recorded.position).collect();
    assert_eq!(positions, (1..=11).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_a_timeout_if_the_result_is_unknown() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let options = proxied(&proxy, server).with_append_timeout(Duration::from_millis(200));
    let store = PostgresStore::connect_with(options).await.unwrap();
    let lost = append("a", Expected::Empty);
    store.append_one(append("b", Expected::Empty)).await.unwrap();
    proxy.lose_answers(u32::MAX);
    let error = store.append_one(lost.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_TIMEOUT", true));
    proxy.lose_answers(0);
    let appended = store.append_one(lost).await.unwrap();
    assert_eq!((appended.version, appended.position), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_report_a_later_error_for_an_append_that_may_be_stored() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let options = proxied(&proxy, server).with_append_timeout(Duration::from_secs(1));
    let store = PostgresStore::connect_with(options).await.unwrap();
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    after_hints().await;
    proxy.refuse(true);
    proxy.lose_answers(u32::MAX);
    let lost = append("a", Expected::Exact(1));
    let error = store.append_one(lost.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_TIMEOUT", true));
    assert!(error.to_string().contains("learn what became"), "{error}");
    let refused = store.append_one(append("a", Expected::Any)).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_retryable()), ("STORE_BACKEND", false));
    proxy.lose_answers(0);
    proxy.refuse(false);
    let appended = store.append_one(lost).await.unwrap();
    assert_eq!((appended.version, appended.position), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_find_out_the_result_of_an_append_once_it_can_connect_again() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, proxy) = behind_proxy(server).await;
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    after_hints().await;
    proxy.refuse(true);
    proxy.lose_answers(u32::MAX);
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append_one(append("a", Expected::Exact(1))).await }
    });
    while proxy.refused() == 0 {
        tokio::task::yield_now().await;
    }
    proxy.lose_answers(0);
    proxy.refuse(false);
    assert_eq!(appending.await.unwrap().unwrap().position, 2);
    assert_eq!(store.head().await.unwrap(), 2);
}

/// Simulates a failover to a server that lost the last commits.
#[tokio::test(flavor = "multi_thread")]
async fn should_clear_the_cached_names_after_a_lost_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let url = format!("{}&application_name={schema}", server.url());
    let options = PostgresOptions::new(&url).with_schema(&schema);
    let store = PostgresStore::connect_with(options.clone()).await.unwrap();
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    server.sql(&format!(
        "TRUNCATE {schema}.events, {schema}.streams, {schema}.event_types, {schema}.event_sources; \
         INSERT INTO {schema}.event_types OVERRIDING SYSTEM VALUE VALUES (1, 'other.type.came'); \
         INSERT INTO {schema}.event_sources OVERRIDING SYSTEM VALUE VALUES (1, 'other'); \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{schema}'"
    ));
    let connected =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'");
    while server.sql(&connected) != "0" {}
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    // The process that knows a lost event reads nothing any more.
    let other = PostgresStore::connect_with(options).await.unwrap();
    let log = other.read_log(0, 10).await.unwrap();
    assert_eq!(log[0].event.event_type.as_str(), "orders.order.placed");
    assert_eq!(&*log[0].event.source, "test");
}

/// The server refuses a prepared statement once its columns have other types.
#[tokio::test(flavor = "multi_thread")]
async fn should_prepare_statements_again_after_a_change_of_the_schema() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    let store = PostgresStore::connect_with(options).await.unwrap();
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    let stream = StreamId::new("a").unwrap();
    assert_eq!(store.read_stream(&stream, 0, 10).await.unwrap().len(), 1);
    server.sql(&format!(
        "DROP VIEW {schema}.event_log;
         ALTER TABLE {schema}.event_types ALTER COLUMN name TYPE varchar COLLATE \"C\";
         ALTER TABLE {schema}.streams ALTER COLUMN name TYPE varchar COLLATE \"C\""
    ));
    assert_eq!(store.read_stream(&stream, 0, 10).await.unwrap().len(), 1);
    let mut other = event();
    other.event_type = "orders.order.paid".parse().unwrap();
    store.append_one(Append::new(stream.clone(), vec![other])).await.unwrap();
    assert_eq!(store.read_stream(&stream, 0, 10).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_every_caller_within_the_append_timeout() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let options = proxied(&proxy, server).with_append_timeout(Duration::from_millis(500));
    let options = options.with_statement_timeout(Duration::from_millis(200));
    let store = PostgresStore::connect_with(options).await.unwrap();
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    after_hints().await;
    proxy.silence();
    let batch = vec![append("a", Expected::Exact(1)), append("a", Expected::Exact(2))];
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append(batch).await }
    });
    after_hints().await;
    tokio::time::timeout(Duration::from_secs(10), store.close()).await.unwrap().unwrap();
    let errors = appending.await.unwrap();
    let messages = errors.into_iter().map(|result| result.unwrap_err().to_string());
    assert_eq!(
        messages.collect::<Vec<String>>(),
        [
            "the store did not learn what became of an append within 500ms",
            "the store did not append within 500ms",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_only_the_append_with_bad_data() {
    let Some(fixture) = options() else { return };
    let store = Arc::new(PostgresStore::connect_with(fixture).await.unwrap());
    let mut bad_event = event();
    bad_event.source = "a\0b".into();
    let bad = Append::new(StreamId::new("bad").unwrap(), vec![bad_event]);
    let batch = vec![append("a", Expected::Any), bad, append("b", Expected::Any)];
    let results = store.append(batch).await;
    let positions: Vec<Option<u64>> =
        results.iter().map(|result| Some(result.as_ref().ok()?.position)).collect();
    assert_eq!(positions, [Some(1), None, Some(2)]);
    let error = results[1].as_ref().unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("INVALID_TEXT", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_survive_the_death_of_the_server() {
    let Some(server) = PostgresServer::start() else { return };
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    server.kill();
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append_one(append("a", Expected::Exact(1))).await }
    });
    let server = tokio::task::spawn_blocking(move || {
        server.revive();
        server
    });
    let server = server.await.unwrap();
    assert_eq!(appending.await.unwrap().unwrap().position, 2);
    assert_eq!(store.head().await.unwrap(), 2);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_appends_once_closed() {
    let Some(fixture) = options() else { return };
    let store = PostgresStore::connect_with(fixture).await.unwrap();
    let appended = store.append_one(append("a", Expected::Empty)).await.unwrap();
    assert_eq!(appended.position, 1);
    store.close().await.unwrap();
    let error = store.append_one(append("a", Expected::Any)).await.unwrap_err();
    assert_eq!(error.code(), "STORE_CLOSED");
    assert_eq!(store.head().await.unwrap_err().code(), "STORE_CLOSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_waits_after_close() {
    let Some(fixture) = options() else { return };
    let store = PostgresStore::connect_with(fixture).await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(0).await }
    });
    after_hints().await;
    store.close().await.unwrap();
    for result in [waiting.await.unwrap(), store.wait_for(0).await] {
        assert_eq!(result.unwrap_err().code(), "STORE_CLOSED");
    }
}
