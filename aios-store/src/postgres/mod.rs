//! A store in a PostgreSQL database (versions 13 to 18), for any number of processes.
//!
//! Concurrent appends of a process share one transaction and one round trip. The transaction takes an
//! advisory lock before it assigns positions and holds it until the commit. Positions are therefore dense
//! and in commit order, so a reader that tracks its position never skips an event.
//!
//! A reader that follows this process's own appends closely is served full pages from memory for up to a
//! second. A page that may be incomplete is read from the database.
//!
//! # Requirements
//!
//! The role needs the privilege to create a schema, or has to own an empty schema with the configured
//! name. The isolation level has to be `read committed`, PostgreSQL's default; appends at another level
//! are refused.
//!
//! PostgreSQL cannot store the character NUL in text. An append whose event has NUL in its id, source or
//! stream fails with [`StoreError::InvalidText`]; other appends are not affected. In columns of read
//! models, NUL is written as U+001A followed by `0`.
//!
//! # Idle load
//!
//! While a task waits in [`wait_for`](aios_core::store::EventStore::wait_for), an idle store queries the
//! head of the log 6 times a minute, or 60 times a minute if it cannot listen for notifications. While no
//! task waits, it sends nothing, except one keepalive a minute on the listening connection.
//!
//! # Failover
//!
//! Calls are repeated on new connections. Nothing is read from a standby, which may lack the newest events: calls
//! fail with a retryable error until it is promoted, and so does [`connect`](PostgresStore::connect).
//!
//! A failover may lose commits if the new server lagged behind, as with asynchronous replication. The
//! positions of lost events are then given to others, which a process that has passed them would never
//! read. So a process keeps the last event that it has read or appended. Once the log ends before that
//! event, or has another event at its position, and a new connection leads to the same log, every call that
//! reads events, waits for them, or loads or saves a checkpoint fails with [`StoreError::LostEvents`], and
//! the engine stops. Restart the process. Readers then continue from their checkpoints, none of which is
//! after the end of the log.
//!
//! After a cut-over by logical replication, which does not copy sequences, connect once as the owner of the
//! schema. This corrects the sequences; until then, [`connect`](PostgresStore::connect) fails for other roles.
//!
//! A position that was kept elsewhere, for example by a client of the HTTP API or in the database of a
//! projection, can be after the end of the log, or have another event there. The first is detected by comparing it
//! with the [`head`](aios_core::store::EventStore::head); the second is not detected.
//!
//! # PgBouncer
//!
//! In transaction mode, set [`Pooler`] to what PgBouncer supports, and set
//! [`with_listen_url`](PostgresOptions::with_listen_url) to a URL that bypasses it.
//! `ignore_startup_parameters` is not needed then.
//!
//! With [`Pooler::Session`], the timeouts of statements and locks are sent as the startup parameter
//! `options`, which PgBouncer refuses. Either add `options` to `ignore_startup_parameters` and set
//! `statement_timeout` and `lock_timeout` for the role, or pass in a pool.
//!
//! If PgBouncer keeps its clients connected through a failover to a server that lost commits, restart the
//! clients. They cannot detect that their caches of names and streams are outdated.

mod append;
mod checkpoint;
mod connection;
mod error;
mod event_store;
mod lease;
mod models;
mod nul_escape;
mod options;
mod read;
mod schema;
mod sequences;
mod timestamp;

use std::{fmt, sync::Arc, time::Duration};

use aios_core::store::StoreError;
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::task::{AbortHandle, JoinHandle};

use self::{
    append::{Pending, Writer},
    connection::Database,
    read::{Head, LastEvent, Tail},
};
pub use self::{
    connection::Tls,
    options::{Pooler, PostgresOptions},
};
pub use crate::retention::{ExpiredEvents, Retention};
use crate::{
    job_queue::{JobQueue, job_queue},
    measure,
    schema_version::SchemaVersion,
};

/// A store in a PostgreSQL database. Clones share the connections and the writer.
///
/// # Examples
///
/// ```no_run
/// use aios_core::{event::Event, store::{Append, EventStoreExt, StreamId}};
/// use aios_store::postgres::PostgresStore;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect("postgres://me:secret@localhost/orders").await?;
/// let event = Event::new("orders.order.placed".parse()?, "shop", &["tea"])?;
/// let appended = store.append_one(Append::new(StreamId::new("orders/1")?, vec![event])).await?;
/// assert_eq!(appended.version, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

/// The state that the clones of a store share.
struct Inner {
    /// The pool, with a time limit on every wait.
    database: Database,
    /// The head of the log as far as this process knows, and what waits for it.
    head: Head,
    /// The last events that this process appended.
    tail: Tail,
    /// Limit of payload and metadata together.
    max_event_bytes: usize,
    /// `None` after the store was closed.
    queue: Mutex<Option<JobQueue<Pending>>>,
    /// The task that commits. Taken by the first `close` that waits for it.
    writer: Mutex<Option<JoinHandle<()>>>,
    /// How long an append may wait and be retried, counted from the call.
    append_timeout: Duration,
    /// The tasks of `read::notifications`. They never end by themselves.
    background_tasks: Vec<AbortHandle>,
}

impl PostgresStore {
    /// Connects to the database that a URL names, and migrates its schema.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the URL or an option is invalid,
    /// [`StoreError::NewerSchema`] if a newer version of aios migrated the schema, otherwise the error
    /// that the server reports.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections. The migration is one transaction, which commits or
    /// rolls back as a whole.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(PostgresOptions::new(url)).await
    }

    /// Reads the versions of the schema, without a migration.
    ///
    /// # Examples
    ///
    /// A deployment that migrates in a step of its own first checks whether the new version can start:
    ///
    /// ```no_run
    /// use aios_store::postgres::{PostgresOptions, PostgresStore};
    ///
    /// # async fn example() -> Result<(), aios_core::store::StoreError> {
    /// let options = PostgresOptions::new("postgres://shop:password@db.example/shop");
    /// let version = PostgresStore::schema_version(options).await?;
    /// if version.is_newer() {
    ///     println!("a newer version of aios has migrated the schema to {}", version.found);
    /// } else if version.is_outdated() {
    ///     println!("connecting migrates the schema from {} to {}", version.found, version.known);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if an option is invalid, otherwise the error that the server
    /// reports.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn schema_version(options: PostgresOptions) -> Result<SchemaVersion, StoreError> {
        Database::schema_version(options).await
    }

    /// Uses an existing pool; see [`PostgresOptions::from_pool`].
    ///
    /// # Errors
    ///
    /// The same as [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// The same as [`connect`](Self::connect).
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::connect_with(PostgresOptions::from_pool(pool)).await
    }

    /// Connects with these options, and migrates the schema. Has to be called on a tokio runtime, which
    /// then runs the writer and the background tasks.
    ///
    /// # Errors
    ///
    /// The same as [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// The same as [`connect`](Self::connect).
    pub async fn connect_with(options: PostgresOptions) -> Result<Self, StoreError> {
        let max_event_bytes = options.max_event_bytes;
        let append_timeout = options.append_timeout;
        let database = Database::open(options).await?;
        measure::opened();
        let head = Head::new(LastEvent::default());
        read::last_event(&database, &head).await?;
        let (queue, appends) = job_queue();
        let tail = Tail::default();
        let writer =
            Writer::new(database.clone(), appends, head.clone(), tail.clone(), append_timeout);
        Ok(Self(Arc::new(Inner {
            max_event_bytes,
            append_timeout,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            background_tasks: spawn_background_tasks(&database, &head),
            database,
            head,
            tail,
        })))
    }

    /// Waits for the writer, at most as long as an append can take. Then aborts it.
    async fn join_writer(&self, mut writer: JoinHandle<()>) {
        let database = &self.0.database;
        let attempt = database.connect_timeout().saturating_add(database.limit());
        let limit = self.0.append_timeout.saturating_add(attempt).saturating_add(attempt);
        // An error of the task is a panic, after which there is nothing to wait for.
        if database.within(limit, &mut writer).await.is_none() {
            writer.abort();
        }
    }

    /// The queue of the writer; `None` after the store was closed. The sender is cloned, so that
    /// the lock is not held while a caller waits for room.
    fn queue(&self) -> Option<JobQueue<Pending>> {
        self.0.queue.lock().clone()
    }
}

/// Starts the tasks that query the head, send hints, and receive hints. They share `Database` and
/// `Head` and not `Inner`, so they do not keep a dropped store alive.
fn spawn_background_tasks(database: &Database, head: &Head) -> Vec<AbortHandle> {
    let poll = tokio::spawn(read::poll(database.clone(), head.clone()));
    let notify = tokio::spawn(read::notify(database.clone(), head.clone()));
    let listen = tokio::spawn(read::listen(database.clone(), head.clone()));
    vec![poll.abort_handle(), notify.abort_handle(), listen.abort_handle()]
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.background_tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresStore")
            .field("database", &self.0.database.name())
            .field("head", &self.0.head.position())
            .finish_non_exhaustive()
    }
}
