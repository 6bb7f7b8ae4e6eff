//! A fenced-out writer is refused in whatever order the server comes to its append, and whichever way
//! that takes.

use std::time::Duration;

use aios_core::store::{
    Append, Appended, EventStore, EventStoreExt, Lease, Leases, Owner, Shard, StoreError, StreamId,
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection, Row};

use super::event;

/// How long a writer may take to come to the lock.
const OVERDUE: Duration = Duration::from_secs(60);

/// The SQL functions that append.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `append`, which looks everything up.
    Whole,
    /// `append_one`, for one event of a stream that the writer knows.
    One,
    /// `append_known`, for several.
    Known,
}

const WAYS: [Way; 3] = [Way::Whole, Way::One, Way::Known];

/// Two engines, the first of which held the shard until now, and somebody who can hold everybody up.
struct Scene {
    server: &'static PostgresServer,
    schema: String,
    old: PostgresStore,
    new: PostgresStore,
    lease: Lease,
    way: Way,
    /// Where the log ends.
    head: u64,
}

impl Scene {
    async fn new(way: Way) -> Option<Self> {
        let server = PostgresServer::shared()?;
        let schema = server.new_name();
        let options = PostgresOptions::new(&server.url()).unwrap().with_schema(&schema).unwrap();
        let old = PostgresStore::connect_with(options.clone()).await.unwrap();
        let new = PostgresStore::connect_with(options).await.unwrap();
        let owner = Owner::new("old");
        let mut leases = old.acquire(&[Shard(1)], &owner, Duration::from_secs(60)).await.unwrap();
        let lease = leases.pop().unwrap();
        let mut scene = Self { server, schema, old, new, lease, way, head: 0 };
        if !matches!(way, Way::Whole) {
            scene.head = scene.append().await.unwrap().unwrap().position;
            // Nothing is left but the short way.
            let sql = format!("ALTER FUNCTION {}.append RENAME TO whole_append", scene.schema);
            assert_eq!(scene.server.sql(&sql), "");
        }
        Some(scene)
    }

    /// Lets the refused append be looked at again.
    fn open_the_whole_way(&self) {
        if !matches!(self.way, Way::Whole) {
            let sql = format!("ALTER FUNCTION {}.whole_append RENAME TO append", self.schema);
            assert_eq!(self.server.sql(&sql), "");
        }
    }

    /// So many events has one append.
    fn length(&self) -> u64 {
        if matches!(self.way, Way::Known) { 2 } else { 1 }
    }

    /// Lets the lease of the old engine expire, without its knowing.
    fn expire(&self) {
        let sql = format!("UPDATE {}.leases SET expires_at = now() - interval '1 s'", self.schema);
        assert_eq!(self.server.sql(&sql), "");
    }

    fn append(&self) -> tokio::task::JoinHandle<Result<Appended, StoreError>> {
        let events = (0..self.length()).map(|_| event()).collect();
        let append = Append::new(StreamId::new("runs/r1").unwrap(), events);
        let (store, append) = (self.old.clone(), append.with_fence(self.lease.fence()));
        tokio::spawn(async move { store.append_one(append).await })
    }

    fn take_over(&self) -> tokio::task::JoinHandle<Vec<Lease>> {
        let store = self.new.clone();
        tokio::spawn(async move {
            let owner = Owner::new("new");
            store.acquire(&[Shard(1)], &owner, Duration::from_secs(60)).await.unwrap()
        })
    }

    /// Takes the lock of appends, as a slow writer would.
    async fn hold_up(&self) -> Lock<'_> {
        let mut connection = PgConnection::connect(&self.server.url()).await.unwrap();
        let lock = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(substring(pg_get_functiondef(oid) \
             FROM 'pg_advisory_xact_lock\\((-?\\d+)\\)')::bigint), pg_backend_pid()::text \
             FROM pg_proc WHERE oid = '{}.acquire'::regproc",
            self.schema
        );
        let row = sqlx::raw_sql(&lock).fetch_one(&mut connection).await.unwrap();
        Lock { server: self.server, connection, holder: row.get(1) }
    }
}

/// The lock of appends, held.
struct Lock<'a> {
    server: &'a PostgresServer,
    connection: PgConnection,
    holder: String,
}

impl Lock<'_> {
    /// Waits until this many wait for it.
    async fn until_waiting(&self, count: usize) {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND (classid, objid) IN \
             (SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND pid = {})",
            self.holder
        );
        let waiting = async {
            while self.server.sql(&sql) != count.to_string() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(OVERDUE, waiting).await.expect("somebody did not wait for the lock");
    }

    async fn release(self) {
        self.connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_append_that_was_sent_before_the_take_over() {
    for way in WAYS {
        let Some(scene) = Scene::new(way).await else { return };
        let lock = scene.hold_up().await;
        scene.expire();
        let taking = scene.take_over();
        lock.until_waiting(1).await;
        let appending = scene.append();
        lock.until_waiting(2).await;
        scene.open_the_whole_way();
        lock.release().await;
        assert_eq!(taking.await.unwrap()[0].epoch.0, 2);
        assert_eq!(appending.await.unwrap().unwrap_err().code(), "FENCED");
        assert_eq!(scene.new.head().await.unwrap(), scene.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_hand_over_before_an_append_under_way_is_in() {
    for way in WAYS {
        let Some(scene) = Scene::new(way).await else { return };
        let lock = scene.hold_up().await;
        scene.expire();
        let appending = scene.append();
        lock.until_waiting(1).await;
        let taking = scene.take_over();
        lock.until_waiting(2).await;
        lock.release().await;
        assert_eq!(taking.await.unwrap()[0].epoch.0, 2);
        // Whoever took over sees everything that was appended before.
        assert_eq!(scene.new.head().await.unwrap(), scene.head + scene.length());
        assert_eq!(appending.await.unwrap().unwrap().position, scene.head + scene.length());
        scene.open_the_whole_way();
        assert_eq!(scene.append().await.unwrap().unwrap_err().code(), "FENCED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_hand_over_between_the_check_and_the_commit() {
    for way in WAYS {
        let Some(scene) = Scene::new(way).await else { return };
        let pause = format!(
            "CREATE FUNCTION {0}.pause() RETURNS trigger LANGUAGE plpgsql \
             AS 'BEGIN PERFORM pg_sleep(0.5); RETURN new; END'; \
             CREATE TRIGGER pause BEFORE INSERT ON {0}.events FOR EACH ROW EXECUTE FUNCTION {0}.pause()",
            scene.schema
        );
        assert_eq!(scene.server.sql(&pause), "");
        let appending = scene.append();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while scene.server.sql(sql) != "1" {
            tokio::task::yield_now().await;
        }
        scene.expire();
        assert_eq!(scene.take_over().await.unwrap()[0].epoch.0, 2);
        assert_eq!(scene.new.head().await.unwrap(), scene.head + scene.length());
        assert_eq!(appending.await.unwrap().unwrap().position, scene.head + scene.length());
        scene.open_the_whole_way();
        assert_eq!(scene.append().await.unwrap().unwrap_err().code(), "FENCED");
    }
}
