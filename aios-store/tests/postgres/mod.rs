mod failure;
mod fence;
mod opening;
mod proxy;
mod retention;

use std::{sync::Arc, time::Duration};

use aios_core::{
    conformance::store::{Capability, StoreFixture},
    event::Event,
    store::{Store, StoreError},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use async_trait::async_trait;

/// Size of an event that the store of a fixture refuses.
const TOO_MANY_BYTES: usize = 5 * 1024 * 1024;

/// Options that name a schema of its own on the server that all tests of this binary share.
fn options() -> Option<PostgresOptions> {
    let server = PostgresServer::shared()?;
    let options = PostgresOptions::new(&server.url()).unwrap();
    Some(options.with_schema(&server.new_name()).unwrap().with_max_connections(4))
}

fn event() -> Event {
    Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap()
}

/// A schema of its own on the server that all tests of this binary share.
pub(crate) struct PostgresFixture {
    options: PostgresOptions,
}

impl PostgresFixture {
    /// `None` where PostgreSQL is not installed.
    pub(crate) fn new() -> Option<Self> {
        Some(Self { options: options()?.with_max_event_bytes(TOO_MANY_BYTES - 1) })
    }
}

#[async_trait]
impl StoreFixture for PostgresFixture {
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(PostgresStore::connect_with(self.options.clone()).await?))
    }

    /// Leases expire by the server's clock, which nobody can move.
    async fn pass(&self, duration: Duration) {
        tokio::time::timeout(duration, std::future::pending::<()>()).await.unwrap_err();
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn overdue(&self) {
        crate::fixture::overdue().await;
    }

    fn too_many_bytes(&self) -> usize {
        TOO_MANY_BYTES
    }

    fn lacks(&self) -> &[Capability] {
        &[]
    }
}

mod conformance {
    use super::PostgresFixture;

    aios_core::store_conformance!(match PostgresFixture::new() {
        Some(fixture) => fixture,
        None => return,
    });
}
