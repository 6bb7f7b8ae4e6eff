//! A writer that lost its shard is refused, in whatever order the server processes its append and the
//! take-over, and by each of the SQL functions that append.

use std::time::Duration;

use aios_core::store::{
    Append, Appended, EventStore, EventStoreExt, Lease, Leases, OwnerId, Shard, StoreError,
    StreamId,
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection, Row};

use super::event;

/// Time limit for a writer to reach the lock.
const OVERDUE: Duration = Duration::from_secs(60);

/// The SQL functions that append.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// `append`, which looks everything up.
    Append,
    /// `append_one`, for one event of a cached stream.
    AppendOne,
    /// `append_known`, for several events of cached streams.
    AppendKnown,
}

const CALLS: [Call; 3] = [Call::Append, Call::AppendOne, Call::AppendKnown];

/// Two engines. The old one holds the shard at first.
struct Setup {
    server: &'static PostgresServer,
    schema: String,
    old: PostgresStore,
    new: PostgresStore,
    lease: Lease,
    call: Call,
    /// The head of the log.
    head: u64,
}

impl Setup {
    async fn new(call: Call) -> Option<Self> {
        let server = PostgresServer::shared()?;
        let schema = server.new_name();
        let options = PostgresOptions::new(&server.url()).with_schema(&schema);
        let old = PostgresStore::connect_with(options.clone()).await.unwrap();
        let new = PostgresStore::connect_with(options).await.unwrap();
        let owner = OwnerId::new("old");
        let mut leases =
            old.acquire(&[Shard::new(1).unwrap()], &owner, Duration::from_secs(60)).await.unwrap();
        let lease = leases.pop().unwrap();
        let mut setup = Self { server, schema, old, new, lease, call, head: 0 };
        if !matches!(call, Call::Append) {
            setup.head = setup.append().await.unwrap().unwrap().position;
            // Leaves only the fast calls.
            let sql = format!("ALTER FUNCTION {}.append RENAME TO disabled", setup.schema);
            assert_eq!(setup.server.sql(&sql), "");
        }
        Some(setup)
    }

    /// Makes `append` available again, which finds out the result of a refused append.
    fn enable_append(&self) {
        if !matches!(self.call, Call::Append) {
            let sql = format!("ALTER FUNCTION {}.disabled RENAME TO append", self.schema);
            assert_eq!(self.server.sql(&sql), "");
        }
    }

    /// Number of events in an append.
    fn length(&self) -> u64 {
        if matches!(self.call, Call::AppendKnown) { 2 } else { 1 }
    }

    /// Expires the lease of the old engine without its knowledge.
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
            let owner = OwnerId::new("new");
            store.acquire(&[Shard::new(1).unwrap()], &owner, Duration::from_secs(60)).await.unwrap()
        })
    }

    /// Takes the append lock, as a slow writer would.
    async fn hold_lock(&self) -> Lock<'_> {
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

/// The append lock, held.
struct Lock<'a> {
    server: &'a PostgresServer,
    connection: PgConnection,
    holder: String,
}

impl Lock<'_> {
    /// Waits until `count` connections wait for the lock.
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
        tokio::time::timeout(OVERDUE, waiting).await.expect("a writer did not wait for the lock");
    }

    async fn release(self) {
        self.connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_append_that_was_sent_before_the_take_over() {
    for call in CALLS {
        let Some(setup) = Setup::new(call).await else { return };
        let lock = setup.hold_lock().await;
        setup.expire();
        let taking = setup.take_over();
        lock.until_waiting(1).await;
        let appending = setup.append();
        lock.until_waiting(2).await;
        setup.enable_append();
        lock.release().await;
        assert_eq!(taking.await.unwrap()[0].epoch.0, 2);
        assert_eq!(appending.await.unwrap().unwrap_err().code(), "FENCED");
        assert_eq!(setup.new.head().await.unwrap(), setup.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_hand_over_before_an_append_in_progress_commits() {
    for call in CALLS {
        let Some(setup) = Setup::new(call).await else { return };
        let lock = setup.hold_lock().await;
        setup.expire();
        let appending = setup.append();
        lock.until_waiting(1).await;
        let taking = setup.take_over();
        lock.until_waiting(2).await;
        lock.release().await;
        assert_eq!(taking.await.unwrap()[0].epoch.0, 2);
        // The new owner sees every earlier append.
        assert_eq!(setup.new.head().await.unwrap(), setup.head + setup.length());
        assert_eq!(appending.await.unwrap().unwrap().position, setup.head + setup.length());
        setup.enable_append();
        assert_eq!(setup.append().await.unwrap().unwrap_err().code(), "FENCED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_hand_over_between_the_check_and_the_commit() {
    for call in CALLS {
        let Some(setup) = Setup::new(call).await else { return };
        let pause = format!(
            "CREATE FUNCTION {0}.pause() RETURNS trigger LANGUAGE plpgsql \
             AS 'BEGIN PERFORM pg_sleep(0.5); RETURN new; END'; \
             CREATE TRIGGER pause BEFORE INSERT ON {0}.events FOR EACH ROW EXECUTE FUNCTION {0}.pause()",
            setup.schema
        );
        assert_eq!(setup.server.sql(&pause), "");
        let appending = setup.append();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while setup.server.sql(sql) != "1" {
            tokio::task::yield_now().await;
        }
        setup.expire();
        assert_eq!(setup.take_over().await.unwrap()[0].epoch.0, 2);
        assert_eq!(setup.new.head().await.unwrap(), setup.head + setup.length());
        assert_eq!(appending.await.unwrap().unwrap().position, setup.head + setup.length());
        setup.enable_append();
        assert_eq!(setup.append().await.unwrap().unwrap_err().code(), "FENCED");
    }
}
