//! Failovers: to a standby that is not promoted yet, and to a server that has lost the last commits.
//!
//! Most tests delete the last events, which is what a process sees of such a failover.

use std::{sync::Arc, time::Duration};

use aios_core::{
    event::Timestamp,
    store::{
        Append, Checkpoints, EventStore, EventStoreExt, Leases, OwnerId, PageRequest, ReadModels,
        RunFilter, Shard, StoreError, StreamId, Unsettled, Waits,
    },
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use futures_util::{FutureExt, future::join_all};
use sqlx::postgres::PgPoolOptions;

use super::{event, options, proxy::Proxy};

fn stream() -> StreamId {
    StreamId::new("a").unwrap()
}

async fn append(store: &PostgresStore, events: usize) -> u64 {
    let events = (0..events).map(|_| event()).collect();
    store.append_one(Append::new(stream(), events)).await.unwrap().position
}

/// A log of three events in a new schema of the shared server, and options to connect to it.
struct Log {
    server: &'static PostgresServer,
    schema: String,
    options: PostgresOptions,
}

impl Log {
    async fn new() -> Option<Self> {
        let server = PostgresServer::shared()?;
        let schema = server.new_name();
        let options = options()?.with_schema(&schema);
        let log = Self { server, schema, options };
        append(&log.connect().await, 3).await;
        Some(log)
    }

    /// Another process.
    async fn connect(&self) -> PostgresStore {
        PostgresStore::connect_with(self.options.clone()).await.unwrap()
    }

    /// Removes what a server does not have that got nothing after the first event.
    fn lose_events(&self) {
        let Self { server, schema, .. } = self;
        server.sql(&format!(
            "DELETE FROM {schema}.events WHERE position > 1; \
             UPDATE {schema}.checkpoints SET position = 1 WHERE position > 1"
        ));
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, StoreError>) -> &'static str {
    result.unwrap_err().code()
}

/// A reader that has passed the lost events must not pass the ones that get their positions.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_save_a_checkpoint_after_lost_events() {
    let Some(log) = Log::new().await else { return };
    for grows_by in [0, 1, 2, 10] {
        let reader = log.connect().await;
        let head = reader.head().await.unwrap();
        assert_eq!(reader.read_log(0, 100).await.unwrap().len() as u64, head);
        log.lose_events();
        let other = log.connect().await;
        if grows_by > 0 {
            append(&other, grows_by).await;
        }
        assert_eq!(
            code(reader.save_checkpoint("reader", head).await),
            "STORE_LOST_EVENTS",
            "{grows_by}"
        );
        assert_eq!(other.load_checkpoint("reader").await.unwrap(), 0);
        append(&other, 1).await;
    }
}

/// The positions that a process knows come from reads, whatever was read, and from appends.
#[tokio::test(flavor = "multi_thread")]
async fn should_fail_reads_after_lost_events() {
    let Some(log) = Log::new().await else { return };
    for grows_by in [0, 1, 2, 10] {
        for (known, read) in (0..6).zip([3, 4, 5, 0, 1, 2]) {
            let store = log.connect().await;
            let other = log.connect().await;
            let head = append(&other, 3).await;
            match known {
                0 => drop(store.read_log(head - 1, 10).await.unwrap()),
                1 => drop(store.read_log_except(head - 1, head, &[]).await.unwrap()),
                2 => drop(store.read_stream(&stream(), 0, 100).await.unwrap()),
                3 => drop(store.read_streams(&[stream()], 100).await.unwrap()),
                4 => assert_eq!(store.head().await.unwrap(), head),
                _ => {
                    other.save_checkpoint("reader", head).await.unwrap();
                    assert_eq!(store.load_checkpoint("reader").await.unwrap(), head);
                }
            }
            log.lose_events();
            let other = log.connect().await;
            if grows_by > 0 {
                append(&other, grows_by).await;
            }
            let failed = match read {
                0 => code(store.read_log(head, 10).await),
                1 => code(store.read_log_except(head, head + 100, &[]).await),
                2 => code(store.read_stream(&stream(), 0, 100).await),
                3 => code(store.read_streams(&[stream()], 100).await),
                4 => code(store.head().await),
                _ => code(store.load_checkpoint("reader").await),
            };
            assert_eq!(failed, "STORE_LOST_EVENTS", "{known} {read} {grows_by}");
            // Positions that belong to the other log may be known by now.
            append(&store, 20).await;
            assert_eq!(code(store.read_log(head, 10).await), "STORE_LOST_EVENTS");
            assert_eq!(code(store.wait_for(0).await), "STORE_LOST_EVENTS");
            assert_eq!(other.read_log(0, 1).await.unwrap().len(), 1);
        }
    }
}

/// Retention removes events, also the last one that a process knows. The log still is the same.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_on_after_a_known_event_was_removed() {
    let Some(log) = Log::new().await else { return };
    let store = log.connect().await;
    assert_eq!(store.head().await.unwrap(), 3);
    append(&log.connect().await, 1).await;
    log.server.sql(&format!("DELETE FROM {}.events WHERE position <= 3", log.schema));
    assert_eq!(store.read_log(3, 10).await.unwrap().len(), 1);
    store.save_checkpoint("reader", 4).await.unwrap();
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), 4);
}

/// Every read of the store.
async fn reads(store: &PostgresStore) -> Vec<(&'static str, Option<StoreError>)> {
    let (all, page) = (RunFilter::default(), PageRequest::first(10));
    let shards = [Shard::new(1).unwrap()];
    let due = store.due_runs(&shards, None, Timestamp::UNIX_EPOCH, 10);
    vec![
        ("read_log", store.read_log(0, 10).await.err()),
        ("read_log_except", store.read_log_except(0, 10, &[]).await.err()),
        ("read_stream", store.read_stream(&stream(), 0, 10).await.err()),
        ("read_streams", store.read_streams(&[stream()], 10).await.err()),
        ("head", store.head().await.err()),
        ("load_checkpoint", store.load_checkpoint("reader").await.err()),
        ("load_checkpoint", store.load_checkpoint("other reader").await.err()),
        ("checkpoints", store.checkpoints().await.err()),
        ("leases", store.leases().await.err()),
        ("workflows", store.workflows(&page).await.err()),
        ("runs", store.runs(&all, &page).await.err()),
        ("due_runs", due.await.err()),
        ("unnoted", store.unsettled_runs(&shards, Unsettled::Unnoted, &page).await.err()),
        ("outdated", store.unsettled_runs(&shards, Unsettled::Outdated, &page).await.err()),
    ]
}

/// A standby may lag behind. The connections that lead to it are replaced once another server is there.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_nothing_from_a_standby() {
    let Some(server) = PostgresServer::start() else { return };
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    append(&store, 3).await;
    store.save_checkpoint("reader", 2).await.unwrap();
    let mut standby = server.standby();
    let passed_in = || PgPoolOptions::new().connect_lazy(&standby.url()).unwrap();
    for refused in [
        PostgresStore::connect(&standby.url()).boxed(),
        PostgresStore::from_pool(passed_in()).boxed(),
    ] {
        let error = refused.await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(format!("{error:?}").contains("the server is a standby"), "{error:?}");
    }
    server.kill();
    standby.take_place_of(&server);
    for (call, error) in reads(&store).await {
        let error = error.unwrap_or_else(|| panic!("{call} reads from a standby"));
        assert!(error.is_retryable(), "{call}: {error:?}");
        assert!(format!("{error:?}").contains("the server is a standby"), "{call}: {error:?}");
    }
    let waiting = store.wait_for(3).await.unwrap_err();
    assert!(waiting.is_retryable(), "{waiting:?}");
    standby.promote();
    for (call, error) in reads(&store).await {
        assert!(error.is_none(), "{call}: {error:?}");
    }
    assert_eq!(append(&store, 1).await, 4);
}

/// A standby is promoted while connections still lead to the former primary, which gets no more appends. No
/// event was lost. Reads on such a connection return nothing old once a newer event is known.
#[tokio::test(flavor = "multi_thread")]
async fn should_replace_connections_to_a_former_primary_that_lags_behind() {
    let Some(server) = PostgresServer::start() else { return };
    append(&PostgresStore::connect(&server.url()).await.unwrap(), 3).await;
    let standby = server.standby();
    let proxy = Proxy::start(server.port()).await;
    let options = PostgresOptions::new(&proxy.url(&server)).with_max_connections(8);
    let store = PostgresStore::connect_with(options).await.unwrap();
    join_all((0..4).map(|_| store.head())).await;
    standby.promote();
    proxy.lead_to(standby.port());
    append(&PostgresStore::connect(&standby.url()).await.unwrap(), 2).await;
    for _ in 0..4 {
        for head in join_all((0..16).map(|_| store.head())).await {
            assert!([3, 5].contains(&head.unwrap()));
        }
    }
    assert_eq!(store.head().await.unwrap(), 5);
    store.save_checkpoint("reader", 5).await.unwrap();
    for read in join_all((0..16).map(|_| store.load_checkpoint("reader"))).await {
        assert_eq!(read.unwrap(), 5);
    }
}

/// An asynchronous standby is promoted that lacks the last commits, among them that of a lease. The next
/// owner gets another epoch than the former one had, which is fenced therefore.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_issue_an_epoch_twice_after_a_failover_that_lost_it() {
    let Some(server) = PostgresServer::start() else { return };
    let zombie = PostgresStore::connect(&server.url()).await.unwrap();
    let mut standby = server.standby();
    append(&zombie, 1).await;
    let [old, new] = [1, 2].map(|number| Shard::new(number).unwrap());
    let owner = |name: &str| OwnerId::new(Arc::<str>::from(name));
    let moment = Duration::from_millis(1);
    zombie.acquire(&[old], &owner("first"), moment).await.unwrap();
    // From here, nothing reaches the standby.
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    standby.stop("fast");
    let hour = Duration::from_secs(3600);
    let lost = zombie.acquire(&[old, new], &owner("zombie"), hour).await.unwrap();
    assert_eq!(lost.len(), 2);
    append(&zombie, 5).await;
    server.kill();
    standby.take_place_of(&server);
    standby.promote();

    let store = PostgresStore::connect(&server.url()).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 1);
    let taken = store.acquire(&[old, new], &owner("next"), hour).await.unwrap();
    assert_eq!(taken.len(), 2);
    for (lost, taken) in lost.iter().zip(&taken) {
        assert!(taken.epoch.0 > lost.epoch.0, "{lost:?} {taken:?}");
        let append = || Append::new(stream(), vec![event()]);
        let fenced = zombie.append_one(append().with_fence(lost.fence())).await;
        assert_eq!(code(fenced), "FENCED");
        store.append_one(append().with_fence(taken.fence())).await.unwrap();
    }
    assert_eq!(zombie.renew(&lost, hour).await.unwrap(), []);
    // The epochs of one server follow each other.
    store.release(&taken).await.unwrap();
    let again = store.acquire(&[old], &owner("last"), hour).await.unwrap();
    assert_eq!(again[0].epoch.0, taken[0].epoch.0 + 1);
    assert_eq!(code(zombie.read_log(6, 10).await), "STORE_LOST_EVENTS");
}
