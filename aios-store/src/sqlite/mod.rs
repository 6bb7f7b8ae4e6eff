//! One SQLite file, no server: what one process needs to be durable.
//!
//! One thread owns the only writing connection and commits whatever has queued up as one
//! transaction; a few connections read beside it. The database belongs to one process at a time.

mod append;
mod checkpoint;
mod compact;
mod error;
mod file;
mod lease;
mod lock;
mod log;
mod options;
mod pool;
mod queue;
mod read;
mod read_model;
mod reply;
mod retention;
mod row;
mod schema;
mod wait;
mod writer;

use std::{fmt, sync::Arc};

use aios_core::{clock::Clock, store::StoreError};
use rusqlite::Connection;
use tokio::sync::watch;

pub use self::options::{SqliteOptions, Synchronous};
use self::{
    error::store_error, lock::DatabaseLock, options::Location, pool::ReadPool, writer::WriterHandle,
};
pub use crate::retention::{ExpiredEvents, Retention};

/// A store in one SQLite file.
///
/// Dropping the store waits until what was queued is committed and the file is closed; then another
/// store may open it.
///
/// # Guarantees
///
/// An append that was answered survives the loss of power ([`Synchronous::Full`], the default).
/// The database is open once at a time; a second store gets [`StoreError::Locked`], also through a
/// symbolic or (on Linux) a hard link. Because nobody else can be alive, opening ends all leases at once.
/// Once its file was deleted, moved or replaced, every append is refused with [`StoreError::Gone`].
///
/// # Examples
///
/// ```
/// use aios_core::{event::Event, store::{Append, EventStoreExt, StreamId}};
/// use aios_store::sqlite::SqliteStore;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = SqliteStore::connect("sqlite::memory:").await?;
/// let event = Event::new("orders.order.placed".parse()?, "shop", &["tea"])?;
/// let appended = store.append_one(Append::new(StreamId::new("orders/1")?, vec![event])).await?;
/// assert_eq!((appended.version, appended.position), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteStore {
    database: String,
    max_event_bytes: usize,
    clock: Arc<dyn Clock>,
    head: watch::Receiver<u64>,
    /// Counts the releases of leases.
    releases: watch::Sender<u64>,
    /// A database in memory has none: its only connection is the writer's.
    readers: Option<ReadPool>,
    /// Last, so that it is the last to close the database, and tidies up.
    writer: WriterHandle,
}

impl SqliteStore {
    /// Opens the database that a URL names: `sqlite:path`, `sqlite://path` (so an absolute path has
    /// three slashes) or `sqlite::memory:`. A file is created if it is not there, its folder is not.
    /// In the path, `%3F` stands for `?`, `%23` for `#`, `%25` for `%` and `%20` for a space.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] for another URL, else as
    /// [`connect_with`](Self::connect_with).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(url.parse()?).await
    }

    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if it is open already, here or in another process and under whatever
    /// name, [`StoreError::InvalidConfiguration`] if its folder does not exist, [`StoreError::NewerSchema`] if a newer
    /// aios wrote it, [`StoreError::Corrupt`] if the file is no database, and what SQLite reports.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may still open the database for a moment, and closes it again.
    pub async fn connect_with(options: SqliteOptions) -> Result<Self, StoreError> {
        options.check()?;
        let database = options.database();
        let (max_event_bytes, clock) = (options.max_event_bytes, Arc::clone(&options.clock));
        let readers = match &options.location {
            Location::Memory => None,
            Location::File(path) => {
                let lock = DatabaseLock::take(path, options.lock_wait, &*clock).await?;
                Some(ReadPool::new(database.clone(), options.readers, Arc::new(lock)))
            }
        };
        let (published, head) = watch::channel(0);
        let writer = WriterHandle::start(options, readers.clone(), published).await?;
        let releases = watch::Sender::new(0);
        Ok(Self { database, max_event_bytes, clock, head, releases, readers, writer })
    }

    async fn read<T, F>(&self, operation: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        if let Some(readers) = &self.readers {
            return readers.read(operation, read).await;
        }
        let outcome = self.writer.call(move |writer| Ok(read(writer.connection))).await?;
        outcome.map_err(|error| store_error(operation, &self.database, error))
    }

    fn writer(&self) -> &WriterHandle {
        &self.writer
    }

    fn database(&self) -> &str {
        &self.database
    }

    fn max_event_bytes(&self) -> usize {
        self.max_event_bytes
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    fn releases(&self) -> &watch::Sender<u64> {
        &self.releases
    }

    fn head_watch(&self) -> &watch::Receiver<u64> {
        &self.head
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SqliteStore")
            .field("database", &self.database)
            .field("head", &*self.head.borrow())
            .finish_non_exhaustive()
    }
}
