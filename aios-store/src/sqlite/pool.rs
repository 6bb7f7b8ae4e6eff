use std::sync::{Arc, Mutex, PoisonError};

use aios_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{error::store_error, lock::DatabaseLock, schema};

/// A bounded number of connections that can only read; opened when first needed.
#[derive(Debug)]
pub(super) struct ReadPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Held for as long as a connection may be open.
    lock: Arc<DatabaseLock>,
}

impl ReadPool {
    pub(super) fn new(database: String, connections: usize, lock: Arc<DatabaseLock>) -> Self {
        Self(Arc::new(Inner {
            database,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
            lock,
        }))
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
