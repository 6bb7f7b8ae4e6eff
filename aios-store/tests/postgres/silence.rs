//! Connections that died unseen.

use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::VirtualClock,
    store::{EventStore, Leases, Owner, Shard},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;

use super::proxy::Proxy;

/// Has the pool open its connections.
async fn warm_up(store: &PostgresStore) {
    join_all((0..8).map(|_| store.head())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_and_renew_as_soon_as_the_server_is_back() {
    let Some(server) = PostgresServer::start() else { return };
    let options = PostgresOptions::new(&server.url()).unwrap().with_max_connections(8);
    let store = PostgresStore::connect_with(options).await.unwrap();
    let minute = Duration::from_secs(60);
    let leases = store.acquire(&[Shard(1)], &Owner::new("me"), minute).await.unwrap();
    warm_up(&store).await;
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.revive();
        server
    });
    let server = server.await.unwrap();
    assert_eq!(store.renew(&leases, minute).await.unwrap().len(), 1);
    for answer in join_all((0..8).map(|_| store.head())).await {
        assert_eq!(answer.unwrap(), 0);
    }
    drop(server);
}

/// Has connections fall silent this long after they were used, and calls given up on them.
async fn get_over_silence(rest: Duration) {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let options = PostgresOptions::new(&proxy.url(server)).unwrap().with_max_connections(4);
    let options = options.with_schema(&server.new_name()).unwrap();
    let store = PostgresStore::connect_with(options).await.unwrap();
    warm_up(&store).await;
    pause(rest).await;
    proxy.silence();
    for _ in 0..8 {
        tokio::time::timeout(Duration::from_millis(100), store.head()).await.ok();
    }
    assert_eq!(store.head().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_get_over_connections_that_fell_silent_at_work() {
    get_over_silence(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_get_over_connections_that_fell_silent_on_their_way_to_the_pool() {
    get_over_silence(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_listen_anew_when_the_connection_fell_silent() {
    let Some(server) = PostgresServer::shared() else { return };
    let (proxy, clock) = (Proxy::start(server.port()).await, VirtualClock::default());
    let options = PostgresOptions::new(&server.url()).unwrap().with_clock(Arc::new(clock.clone()));
    let schema = server.new_name();
    let options = options.with_schema(&schema).unwrap().with_listen_url(&proxy.url(server));
    let _store = PostgresStore::connect_with(options.unwrap()).await.unwrap();
    let listens = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE state = 'idle' AND query = 'LISTEN \"{schema}_events\"'"
    );
    while server.sql(&listens) == "0" {
        pause(Duration::from_millis(10)).await;
    }
    pause(Duration::from_millis(200)).await;
    proxy.silence();
    while proxy.accepted() < 2 {
        clock.advance(Duration::from_secs(1));
        pause(Duration::from_millis(10)).await;
    }
}

async fn pause(duration: Duration) {
    tokio::time::timeout(duration, std::future::pending::<()>()).await.ok();
}
