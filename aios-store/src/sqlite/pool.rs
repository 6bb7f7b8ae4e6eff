use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use aios_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{error::store_error, lock::DatabaseLock, schema};

/// A bounded number of connections that can only read; opened when first needed.
#[derive(Debug)]
pub(super) struct ReadPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    database: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Held for as long as a connection may be open.
    _lock: Arc<DatabaseLock>,
}

impl ReadPool {
    pub(super) fn new(path: PathBuf, connections: usize, lock: Arc<DatabaseLock>) -> Self {
        Self(Arc::new(Inner {
            database: path.display().to_string(),
            path,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
            _lock: lock,
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
            let result = inner.read(read);
            drop(permit);
            result.map_err(|error| store_error(operation, &inner.database, error))
        });
        reading.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Inner {
    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| schema::open_reader(&self.path), Ok)?;
        let result = read(&connection);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}
