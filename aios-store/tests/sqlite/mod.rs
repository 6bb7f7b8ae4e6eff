mod failure;
mod file;
mod opening;
mod retention;
mod rows;
mod upgrade;
mod verify;

use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::VirtualClock,
    conformance::store::{Capability, StoreFixture},
    store::{Store, StoreError},
};
use aios_store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use async_trait::async_trait;
use tempfile::TempDir;

/// Size of an event that exceeds the limit of the fixture's store.
const TOO_MANY_BYTES: usize = 5 * 1024 * 1024;

struct SqliteFixture {
    options: SqliteOptions,
    clock: VirtualClock,
    /// Has the file, if there is one.
    folder: Option<TempDir>,
}

impl SqliteFixture {
    fn file() -> Self {
        let folder = TempDir::new().unwrap();
        let options = SqliteOptions::file(folder.path().join("aios.db"));
        Self::new(options.with_synchronous(Synchronous::Normal), Some(folder))
    }

    fn memory() -> Self {
        Self::new(SqliteOptions::memory(), None)
    }

    fn new(options: SqliteOptions, folder: Option<TempDir>) -> Self {
        let clock = VirtualClock::default();
        let options =
            options.with_clock(Arc::new(clock.clone())).with_max_event_bytes(TOO_MANY_BYTES - 1);
        Self { options, clock, folder }
    }
}

#[async_trait]
impl StoreFixture for SqliteFixture {
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(SqliteStore::connect_with(self.options.clone()).await?))
    }

    async fn pass(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn overdue(&self) {
        crate::fixture::overdue().await;
    }

    fn too_many_bytes(&self) -> usize {
        TOO_MANY_BYTES
    }

    fn lacks(&self) -> &[Capability] {
        match self.folder {
            Some(_) => &[Capability::SecondHandle],
            None => &[Capability::SecondHandle, Capability::Durability],
        }
    }
}

mod conformance_of_a_file {
    aios_core::store_conformance!(super::SqliteFixture::file());
}

mod conformance_in_memory {
    aios_core::store_conformance!(super::SqliteFixture::memory());
}
