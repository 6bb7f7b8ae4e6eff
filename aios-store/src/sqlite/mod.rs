//! A store in one SQLite file, for one process without a server.
//!
//! One thread owns the only writing connection. It commits all queued calls together as one
//! transaction. A pool of connections reads at the same time. Only one process can have the
//! database open.
//!
//! # Threads and locks
//!
//! | what | owns | blocks on |
//! |---|---|---|
//! | caller's task | validates and encodes its appends | its reply |
//! | thread `aios-sqlite` | the writing connection, and copies of leases, head and ends of streams | the queue, then the disk |
//! | thread `aios-replies` | nothing | the queue of committed batches |
//! | blocking threads of tokio | one reading connection each, at most `readers` | the disk |
//!
//! SQLite in WAL mode lets readers continue during a commit. Only the writing connection writes, so
//! a transaction never waits for another one and never fails because of a conflict, and what the
//! writer remembers of the database is correct until a rollback.
//!
//! # Failures
//!
//! - **The process is killed.** The operating system releases the lock of the file. SQLite replays
//!   the write-ahead log when the file is opened again; a transaction that was not committed is
//!   gone, and its callers got no reply.
//! - **A transaction fails**, for example because the disk can't be written. It is rolled back, every call
//!   of the batch gets the error, and the writer reads its copies again before the next batch.
//! - **A call fails**, for example because a row is invalid, or the disk or the memory is full. The
//!   transaction is rolled back, and each call of the batch is run again in a transaction of its own.
//! - **The file is deleted, moved or replaced.** The writer compares the names with the files that
//!   it has open after every commit. From then on, every call of the writer fails with `Gone`: a
//!   commit into a file without a name would be lost.

mod checkpoint;
mod error;
mod event_store;
mod file;
mod lease;
mod models;
mod options;
mod read;
mod schema;
mod writer;

use std::{fmt, sync::Arc};

use aios_core::{clock::Clock, store::StoreError};
use rusqlite::Connection;
use tokio::sync::watch;

#[cfg(unix)]
pub use self::file::release_inherited_locks;
pub(crate) use self::file::schema_version;
use self::{
    error::store_error, file::DatabaseLock, options::Location, read::ReadPool, writer::WriterHandle,
};
pub use self::{
    file::backup,
    options::{SqliteOptions, Synchronous},
};
use crate::measure;
pub use crate::retention::{ExpiredEvents, Retention};

/// A store in one SQLite file.
///
/// Dropping the store blocks until all queued calls are committed and the file is closed. Then another
/// store can open the file.
///
/// # Guarantees
///
/// - With [`Synchronous::Full`], the default, an append survives the loss of power once its result was
///   returned.
/// - The database is open only once. A second store gets [`StoreError::Locked`], even if it uses a
///   symbolic link or (on Linux) a hard link.
/// - Opening expires all leases, because no earlier owner can be alive.
/// - After the file was deleted, moved or replaced, every append fails with [`StoreError::Gone`].
///
/// The file has to be on a local disk. The locks of a network file system, such as NFS, SMB or 9p, may be unknown
/// to other machines, so two processes could write the file at the same time and damage it. Processes of
/// several machines share a store on PostgreSQL.
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
    /// The name of the database in errors.
    database: String,
    /// Limit of payload and metadata together.
    max_event_bytes: usize,
    clock: Arc<dyn Clock>,
    /// The position of the last event. The writer owns the sender and drops it when it has closed
    /// the database.
    head: watch::Receiver<u64>,
    /// Number of lease releases so far, or [`CLOSED`](lease::CLOSED); wakes `wait_for_release`.
    releases: watch::Sender<u64>,
    /// `None` for a database in memory, which only the writer's connection can see.
    readers: Option<ReadPool>,
    /// The last field: SQLite removes the write-ahead log when the writer closes the last connection.
    writer: WriterHandle,
}

impl SqliteStore {
    /// Opens the database that a URL names: `sqlite:path`, `sqlite://path` (so an absolute path has
    /// three slashes) or `sqlite::memory:`. Creates the file if it does not exist, but not its folder.
    /// In the path, `%3F` stands for `?`, `%23` for `#`, `%25` for `%` and `%20` for a space.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the URL is invalid. Otherwise the same as
    /// [`connect_with`](Self::connect_with).
    ///
    /// # Cancel safety
    ///
    /// The same as [`connect_with`](Self::connect_with).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(url.parse()?).await
    }

    /// Opens the database and migrates its schema.
    ///
    /// The file is locked before it is opened, and the lock is kept until the store is closed or dropped.
    /// The wait for the lock is limited by [`with_lock_wait`](SqliteOptions::with_lock_wait).
    ///
    /// # Examples
    ///
    /// A process that is replaced by its successor waits until the old one has closed the file. Without the
    /// wait, the second store is refused at once:
    ///
    /// ```
    /// use aios_core::store::StoreError;
    /// use aios_store::sqlite::{SqliteOptions, SqliteStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let options = SqliteOptions::file(folder.path().join("orders.db"));
    /// let store = SqliteStore::connect_with(options.clone()).await?;
    /// let second = SqliteStore::connect_with(options.clone()).await;
    /// assert!(matches!(second, Err(StoreError::Locked { .. })));
    ///
    /// drop(store);
    /// SqliteStore::connect_with(options).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`StoreError::Locked`] if the database is already open, in this process or another one, by any
    ///   name
    /// - [`StoreError::InvalidConfiguration`] if an option is invalid, if the folder does not exist, if its file
    ///   system does not support locks, or if the process that had the database open by another hard link has
    ///   left its write-ahead log behind
    /// - [`StoreError::NewerSchema`] if a newer version of aios wrote the database
    /// - [`StoreError::Corrupt`] if the file is not a database
    /// - otherwise the error that SQLite reports
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the database. The writer thread may keep it open for a moment longer.
    pub async fn connect_with(options: SqliteOptions) -> Result<Self, StoreError> {
        options.check()?;
        let database = options.database();
        let max_event_bytes = options.max_event_bytes;
        let clock = Arc::clone(&options.clock);
        let readers = match &options.location {
            Location::Memory => None,
            Location::File(path) => {
                let lock = DatabaseLock::take(path, options.lock_wait, &*clock).await?;
                Some(ReadPool::new(database.clone(), options.readers, lock))
            }
        };
        let (published, head) = watch::channel(0);
        let writer = WriterHandle::start(options, readers.clone(), published).await?;
        measure::opened();
        let releases = watch::Sender::new(0);
        Ok(Self { database, max_event_bytes, clock, head, releases, readers, writer })
    }

    /// Runs a read on a connection of the pool, or on the writing one if the database is in memory.
    ///
    /// The error of a read in memory is passed through the writer as a value, because an `Err` of a
    /// job would undo the batch.
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
