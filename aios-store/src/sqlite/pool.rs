use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard},
};

use aios_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{error::store_error, lock::DatabaseLock, schema};

/// A bounded number of connections that can only read; opened when first needed. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct ReadPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Read while a connection is in use; written while there may be none.
    gate: RwLock<()>,
    /// Held for as long as a connection may be open.
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

    /// Closes every connection, and lets none be opened until the guard is dropped. Blocks until the
    /// reads that are under way are done.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = self.0.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        gate
    }

    /// Runs a closure on a thread that may block.
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
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let fail = |error| store_error(operation, &self.database, error);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.open(operation), Ok)?;
        let result = read(&connection).map_err(fail);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// Opens a connection, unless another file has the name by now.
    fn open(&self, operation: &'static str) -> Result<Connection, StoreError> {
        let opened = schema::open_reader(self.lock.path());
        if !self.lock.is_in_place() {
            return Err(StoreError::Gone { database: self.database.clone() });
        }
        opened.map_err(|error| store_error(operation, &self.database, error))
    }
}
