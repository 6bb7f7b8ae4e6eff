//! Everything in a PostgreSQL database, 13 to 18: for teams, and for many processes at once.
//!
//! Appends that are called at the same time share one transaction and one round trip. An advisory
//! lock, held from before positions are given out until the commit, makes them dense and puts them in
//! commit order, so that whoever has read up to a position has missed nothing.
//!
//! Who follows the log right behind the appends of the same process gets full pages from memory, for a
//! second; whatever may be incomplete is read from the database.
//!
//! # What it asks of the server
//!
//! A role that may create a schema, or owns an empty one of the right name, and the isolation level
//! `read committed`, which is PostgreSQL's default; an append under another one is refused. Text with
//! the character NUL is what PostgreSQL can't keep, so an event that has one in its id, source or
//! stream is refused by itself, with [`StoreError::InvalidText`]. In a text that becomes a column of a
//! read model it is written as U+001A and `0`.
//!
//! An idle store with somebody waiting in [`wait_for`](aios_core::store::EventStore::wait_for) asks
//! 6 times a minute for the end of the log, or 60 times where it can't listen for hints; with nobody
//! waiting it asks nothing, except that the listening connection shows once a minute that it lives.
//!
//! # Through PgBouncer
//!
//! In transaction mode, [`Pooler`] says what it can, and
//! [`with_listen_url`](PostgresOptions::with_listen_url) leads past it for hints. Nothing then has to
//! stand in `ignore_startup_parameters`. With [`Pooler::Session`] the limits of statements and locks
//! are sent as the startup parameter `options`, which PgBouncer does not take: either ignore it there,
//! and set `statement_timeout` and `lock_timeout` for the role, or hand in a pool. After a failover to
//! a server that lost commits, behind a pooler that keeps its clients through it, restart the clients:
//! they can't see that what they know of names and streams is gone.

mod append;
mod checkpoint;
mod connection;
mod error;
mod lease;
mod models;
mod nul;
mod options;
mod read;
mod schema;
mod timestamp;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_core::{
    event::Pattern,
    store::{Append, Appended, EventStore, MAX_PAGE, RecordedEvent, StoreError, StreamId},
};
use async_trait::async_trait;
use sqlx::PgPool;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use self::{
    append::{Pending, QUEUE, Writer},
    connection::Database,
    read::{Head, Tail},
};
pub use self::{
    connection::Tls,
    options::{Pooler, PostgresOptions},
};
pub use crate::retention::{ExpiredEvents, Retention};

/// A store in a PostgreSQL database. Clones share the connections and the one writer.
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

struct Inner {
    database: Database,
    head: Head,
    tail: Tail,
    max_event_bytes: usize,
    /// `None` once closed.
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    append_timeout: Duration,
    helpers: Vec<AbortHandle>,
}

impl PostgresStore {
    /// Connects to the database that a URL names, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the URL makes no sense, [`StoreError::NewerSchema`] if
    /// a newer version of aios was here, otherwise what the server reports.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(PostgresOptions::new(url)?).await
    }

    /// Uses an existing pool; see [`PostgresOptions::from_pool`].
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::connect_with(PostgresOptions::from_pool(pool)).await
    }

    /// Connects as the options say, and brings the schema up to date. Has to be called on a tokio
    /// runtime, which then runs the writer.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(options: PostgresOptions) -> Result<Self, StoreError> {
        let (max_event_bytes, append_timeout) = (options.max_event_bytes, options.append_timeout);
        let database = Database::open(options).await?;
        let head = Head::new(read::head(&database).await?);
        let (queue, appends) = mpsc::channel(QUEUE);
        let tail = Tail::default();
        let writer =
            Writer::new(database.clone(), appends, head.clone(), tail.clone(), append_timeout);
        Ok(Self(Arc::new(Inner {
            max_event_bytes,
            append_timeout,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            helpers: helpers(&database, &head),
            database,
            head,
            tail,
        })))
    }

    /// Commits what is queued, then lets go of the connections. Later calls are answered with
    /// [`StoreError::Closed`], and so is who waits for the log to grow; a pool that was handed in
    /// stays open. Takes little longer than the longest append under way may.
    ///
    /// # Cancel safety
    ///
    /// The store is closed to new appends even if this is cancelled.
    pub async fn close(&self) {
        drop(self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.0.head.close();
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            self.finish(writer).await;
        }
        self.0.helpers.iter().for_each(AbortHandle::abort);
        self.0.tail.clear();
        self.0.database.close().await;
    }

    /// Waits for the writer, but not longer than anybody waits for it.
    async fn finish(&self, mut writer: JoinHandle<()>) {
        let database = &self.0.database;
        let attempt = database.connect_timeout().saturating_add(database.limit());
        let limit = self.0.append_timeout.saturating_add(attempt).saturating_add(attempt);
        // Only a panic would be an error, and then nothing is left to wait for.
        if database.within(limit, &mut writer).await.is_none() {
            writer.abort();
        }
    }

    fn queue(&self) -> Option<mpsc::Sender<Pending>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn helpers(database: &Database, head: &Head) -> Vec<AbortHandle> {
    let poll = tokio::spawn(read::poll(database.clone(), head.clone()));
    let notify = tokio::spawn(read::notify(database.clone(), head.clone()));
    let listen = tokio::spawn(read::listen(database.clone(), head.clone()));
    vec![poll.abort_handle(), notify.abort_handle(), listen.abort_handle()]
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.helpers.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresStore")
            .field("database", &self.0.database.name())
            .field("head", &self.0.head.known())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.append_all(batch).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        read::read_stream(&self.0.database, stream, after, limit).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        read::read_streams(&self.0.database, streams, limit).await
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let now = self.0.database.clock().now();
        match self.0.tail.page(after, limit.min(MAX_PAGE), now) {
            Some(page) => Ok(page),
            None => read::read_log(&self.0.database, after, limit).await,
        }
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        read::read_log_except(&self.0.database, after, up_to, except).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        read::head(&self.0.database).await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.0.head.wait_for(after).await
    }
}
