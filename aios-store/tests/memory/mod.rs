mod plain;

use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::VirtualClock,
    conformance::store::{Capability, StoreFixture},
    store::{Store, StoreError},
};
use aios_store::memory::{MemoryOptions, MemoryStore};
use async_trait::async_trait;

/// Size of an event that exceeds the limit of the fixture's store.
const TOO_MANY_BYTES: usize = 5 * 1024 * 1024;

struct MemoryFixture {
    store: MemoryStore,
    clock: VirtualClock,
}

impl MemoryFixture {
    fn new() -> Self {
        let clock = VirtualClock::default();
        let options = MemoryOptions::new()
            .with_clock(Arc::new(clock.clone()))
            .with_max_event_bytes(TOO_MANY_BYTES - 1);
        Self { store: MemoryStore::connect_with(options).unwrap(), clock }
    }
}

#[async_trait]
impl StoreFixture for MemoryFixture {
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError> {
        // Behind two pointers, so that the suite also checks that pointers to stores are stores.
        Ok(Arc::new(Box::new(Arc::new(self.store.clone()))))
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
        &[Capability::Durability]
    }
}

mod conformance {
    aios_core::store_conformance!(super::MemoryFixture::new());
}

#[tokio::test]
async fn should_connect_by_url() {
    assert!(aios_store::connect("memory://").await.is_ok());
    for url in ["", "memory", "mysql://localhost/a", "://"] {
        let error = aios_store::connect(url).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{url}");
    }
}

#[cfg(not(feature = "sqlite"))]
#[tokio::test]
async fn should_name_the_missing_feature() {
    let error = aios_store::connect("sqlite::memory:").await.unwrap_err();
    assert!(error.to_string().contains("feature `sqlite`"), "{error}");
}

mod retention {
    use std::sync::Arc;

    use aios_store::memory::MemoryStore;

    use crate::fixture::retention::{self, PauseClock};

    retention::retention_cases!(MemoryStore::new());

    #[tokio::test]
    async fn should_examine_each_kept_run_once() {
        let clock = Arc::new(PauseClock::default());
        let store = MemoryStore::with_clock(Arc::clone(&clock) as _);
        retention::should_examine_each_kept_run_once(&store, clock).await;
    }
}
