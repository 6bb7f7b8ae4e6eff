//! Half-open connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_core::{
    BoxFuture,
    clock::{Clock, VirtualClock},
    event::Timestamp,
    store::{Append, EventStore, EventStoreExt, Leases, OwnerId, Shard, StreamId},
};
use aios_store::postgres::{Pooler, PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;
use sqlx::postgres::PgPoolOptions;

use super::{event, proxy::Proxy};

/// Makes the pool open its connections.
async fn warm_up(store: &PostgresStore) {
    join_all((0..8).map(|_| store.head())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_and_renew_as_soon_as_the_server_is_back() {
    let Some(server) = PostgresServer::start() else { return };
    let options = PostgresOptions::new(&server.url()).with_max_connections(8);
    let store = PostgresStore::connect_with(options).await.unwrap();
    let minute = Duration::from_secs(60);
    let leases =
        store.acquire(&[Shard::new(1).unwrap()], &OwnerId::new("me"), minute).await.unwrap();
    warm_up(&store).await;
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.revive();
        server
    });
    let server = server.await.unwrap();
    assert_eq!(store.renew(&leases, minute).await.unwrap().len(), 1);
    for result in join_all((0..8).map(|_| store.head())).await {
        assert_eq!(result.unwrap(), 0);
    }
    drop(server);
}

/// Makes connections silent after a pause, and cancels calls on them.
async fn survive_silence(rest: Duration) {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let options = PostgresOptions::new(&proxy.url(server)).with_max_connections(4);
    let options = options.with_schema(&server.new_name());
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
async fn should_replace_connections_that_became_silent_in_use() {
    survive_silence(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replace_connections_that_became_silent_while_returning_to_the_pool() {
    survive_silence(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replace_a_silent_listening_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let clock = VirtualClock::default();
    let options = PostgresOptions::new(&server.url()).with_clock(Arc::new(clock.clone()));
    let schema = server.new_name();
    let options = options.with_schema(&schema).with_listen_url(&proxy.url(server));
    let _store = PostgresStore::connect_with(options).await.unwrap();
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

/// A virtual clock that counts the waits of one length.
#[derive(Clone, Debug)]
struct CountingClock {
    clock: VirtualClock,
    counted: Duration,
    waits: Arc<AtomicU32>,
}

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = self.clock.sleep(duration);
        let waits = (duration == self.counted).then(|| Arc::clone(&self.waits));
        Box::pin(async move {
            if let Some(waits) = waits {
                waits.fetch_add(1, Ordering::SeqCst);
            }
            sleep.await;
        })
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(deadline)
    }
}

/// As after a failover to a server that does not reset the connections to the former one.
#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_only_one_of_the_connections_that_became_silent() {
    let Some(server) = PostgresServer::shared() else { return };
    let proxy = Proxy::start(server.port()).await;
    let pool = PgPoolOptions::new().max_connections(8).test_before_acquire(false);
    let pool = pool.connect_lazy(&proxy.url(server)).unwrap();
    let limit = Duration::from_secs(7);
    let clock =
        CountingClock { clock: VirtualClock::default(), counted: limit, waits: Arc::default() };
    let options = PostgresOptions::from_pool(pool.clone()).with_schema(&server.new_name());
    let options = options.with_connect_timeout(limit).with_clock(Arc::new(clock.clone()));
    // Without a listening connection, nothing but the append waits.
    let store =
        PostgresStore::connect_with(options.with_pooler(Pooler::Transaction)).await.unwrap();
    drop(join_all((0..8).map(|_| pool.acquire())).await);
    while pool.num_idle() < 8 {
        tokio::task::yield_now().await;
    }
    proxy.silence();
    clock.waits.store(0, Ordering::SeqCst);
    let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
    let appending = tokio::spawn(async move { store.append_one(append).await });
    while clock.waits.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    clock.clock.advance(limit);
    let appended = tokio::time::timeout(Duration::from_secs(30), appending).await;
    assert_eq!(appended.unwrap().unwrap().unwrap().position, 1);
}

async fn pause(duration: Duration) {
    tokio::time::timeout(duration, std::future::pending::<()>()).await.ok();
}
