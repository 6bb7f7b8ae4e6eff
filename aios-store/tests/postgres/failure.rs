//! What becomes of appends when the server or the way to it fails.

use std::{sync::Arc, time::Duration};

use aios_core::store::{Append, EventStore, EventStoreExt, Expected, StreamId};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

use super::{event, options, proxy::Proxy};

fn append(stream: &str, expected: Expected) -> Append {
    Append::new(StreamId::new(stream).unwrap(), vec![event()]).with_expected(expected)
}

/// A store that reaches the server through a proxy, for everything but listening.
async fn behind_proxy(server: &PostgresServer) -> (PostgresStore, Proxy) {
    let proxy = Proxy::start(server.port()).await;
    let url = server.url().replace(&server.port().to_string(), &proxy.port().to_string());
    let options = PostgresOptions::new(&url).unwrap().with_listen_url(&server.url()).unwrap();
    let options = options.with_schema(&server.new_name()).unwrap();
    (PostgresStore::connect_with(options).await.unwrap(), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_truthfully_when_the_answer_to_a_commit_is_lost() {
    let Some(server) = PostgresServer::shared() else { return };
    let (store, proxy) = behind_proxy(server).await;
    store.append_one(append("a", Expected::Empty)).await.unwrap();
    for round in 1..=5 {
        // Longer than the pause between hints, so that it is the append whose answer is lost.
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.ok();
        proxy.lose_answers(1);
        let batch = vec![
            append("a", Expected::Exact(round)),
            append("b", Expected::Exact(77)),
            append("c", Expected::Any),
        ];
        let answers = store.append(batch).await;
        let versions: Vec<Option<u64>> =
            answers.iter().map(|answer| Some(answer.as_ref().ok()?.version)).collect();
        assert_eq!(versions, [Some(round + 1), None, Some(round)]);
        assert_eq!(answers[1].as_ref().unwrap_err().code(), "CONFLICT");
    }
    let log = store.read_log(0, 100).await.unwrap();
    let positions: Vec<u64> = log.iter().map(|recorded| recorded.position).collect();
    assert_eq!(positions, (1..=11).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_it_does_not_know_when_the_time_is_up() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let url = server.url().replace(&server.port().to_string(), &proxy.port().to_string());
    let options = PostgresOptions::new(&url).unwrap().with_listen_url(&server.url()).unwrap();
    let options = options
        .with_schema(&server.new_name())
        .unwrap()
        .with_append_timeout(Duration::from_millis(200));
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
async fn should_refuse_what_the_server_does_not_take_alone() {
    let Some(fixture) = options() else { return };
    let store = Arc::new(PostgresStore::connect_with(fixture).await.unwrap());
    let mut poison = event();
    poison.source = "a\0b".into();
    let poison = Append::new(StreamId::new("poison").unwrap(), vec![poison]);
    let batch = vec![append("a", Expected::Any), poison, append("b", Expected::Any)];
    let answers = store.append(batch).await;
    let positions: Vec<Option<u64>> =
        answers.iter().map(|answer| Some(answer.as_ref().ok()?.position)).collect();
    assert_eq!(positions, [Some(1), None, Some(2)]);
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_BACKEND", false));
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
    store.close().await;
    let error = store.append_one(append("a", Expected::Any)).await.unwrap_err();
    assert_eq!(error.code(), "STORE_CLOSED");
    assert_eq!(store.head().await.unwrap_err().code(), "STORE_CLOSED");
}
