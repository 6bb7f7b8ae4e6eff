use std::{
    path::Path,
    sync::{Arc, Mutex, RwLock, RwLockWriteGuard},
};

use aios_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{error::store_error, lock::DatabaseLock, schema};
use crate::sync;

/// A bounded pool of read-only connections, which are opened when needed. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct ReadPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Locked for reading while a connection is in use, and for writing while none may be open.
    gate: RwLock<()>,
    /// Held as long as a connection may be open.
    lock: Arc<DatabaseLock>,
}

impl ReadPool {
    pub(super) fn new(database: String, connections: usize, lock: Arc<DatabaseLock>) -> Self {
        Self(Arc::new(Inner {
            database,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
            gate: RwLock::default(),
            lock,
        }))
    }

    /// The path of the database.
    pub(super) fn path(&self) -> &Path {
        self.0.lock.path()
    }

    /// Closes every connection, and keeps new ones from being opened until the guard is dropped. Blocks
    /// until the reads in progress are done.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = sync::write(&self.0.gate);
        sync::lock(&self.0.idle).clear();
        gate
    }

    /// Runs a closure with a connection, on a blocking thread.
    pub(super) async fn read<T, F>(&self, operation: &'static str, read: F) -> Result<T, StoreError>
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
    fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let _gate = sync::read(&self.gate);
        let idle = sync::lock(&self.idle).pop();
        let connection = idle.map_or_else(|| self.open(operation), Ok)?;
        let result = read(&connection);
        sync::lock(&self.idle).push(connection);
        result.map_err(|error| store_error(operation, &self.database, error))
    }

    /// Opens a connection. Fails if the path now refers to another file.
    fn open(&self, operation: &'static str) -> Result<Connection, StoreError> {
        let opened = schema::open_reader(self.lock.path());
        if !self.lock.is_in_place() {
            return Err(StoreError::Gone { database: self.database.clone() });
        }
        opened.map_err(|error| store_error(operation, &self.database, error))
    }
}
