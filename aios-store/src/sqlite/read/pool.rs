//! The reading connections.
//!
//! A read takes a permit, runs on a blocking thread of tokio, and takes an idle connection or opens
//! one. Permits are what bounds both the connections and the blocking threads; a read that finds
//! none waits in order.
//!
//! The lock of the database file lives in this pool, because SQLite's locks would be lost if it
//! were released while a connection is open. It is behind a reader-writer lock that works as a
//! gate: every read holds it for reading, and the writer thread takes it for writing when no
//! reading connection may exist. Locks are taken in the order `lock`, then `idle`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aios_core::store::StoreError;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::sqlite::{error::store_error, file::DatabaseLock, schema};

/// A bounded pool of read-only connections, which are opened when needed. Clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct ReadPool(Arc<Inner>);

/// The shared part of the clones of a pool.
#[derive(Debug)]
struct Inner {
    /// The name of the database in errors.
    database: String,
    /// As many as there may be connections.
    permits: Arc<Semaphore>,
    /// Open connections that no read uses. Locked only to push or pop.
    idle: Mutex<Vec<Connection>>,
    /// Canonical.
    path: PathBuf,
    /// The lock of the database, held as long as a connection may be open; none if the pool is closed.
    /// Locked for reading while a connection is in use, and for writing while none may be open.
    lock: RwLock<Option<DatabaseLock>>,
}

impl ReadPool {
    /// A pool without open connections, which owns the lock of the database.
    pub(crate) fn new(database: String, connections: usize, lock: DatabaseLock) -> Self {
        Self(Arc::new(Inner {
            database,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
            path: lock.path().to_owned(),
            lock: RwLock::new(Some(lock)),
        }))
    }

    /// The path of the database.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Closes every connection, and keeps new ones from being opened until the guard is dropped, or for
    /// ever if the lock is taken out of it. Blocks until the reads in progress are done.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, Option<DatabaseLock>> {
        let lock = self.0.lock.write();
        self.0.idle.lock().clear();
        lock
    }

    /// Runs a closure with a connection, on a blocking thread.
    pub(crate) async fn read<T, F>(&self, operation: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let inner = Arc::clone(&self.0);
        let reading = tokio::task::spawn_blocking(move || {
            let result = inner.read(operation, read);
            drop(permit);
            result
        });
        reading.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Inner {
    /// Runs a read. After an error the connection is kept too: a failed read leaves no transaction
    /// open.
    fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let lock = self.lock.read();
        let lock = lock.as_ref().ok_or(StoreError::Closed)?;
        let idle = self.idle.lock().pop();
        let connection = idle.map_or_else(|| self.open(operation, lock), Ok)?;
        let result = read(&connection);
        self.idle.lock().push(connection);
        result.map_err(|error| store_error(operation, &self.database, error))
    }

    /// Opens a connection. Fails if the path now refers to another file.
    fn open(&self, operation: &'static str, lock: &DatabaseLock) -> Result<Connection, StoreError> {
        let opened = schema::open_reader(&self.path);
        if !lock.is_in_place() {
            return Err(StoreError::Gone { database: self.database.clone() });
        }
        opened.map_err(|error| store_error(operation, &self.database, error))
    }
}
