mod chaos;
mod failover;
mod failure;
mod fence;
mod hints;
mod limits;
mod opening;
mod pooler;
mod proxy;
mod read_only;
mod retention;
mod rows;
mod silence;
mod stream_cache;
mod tail;
mod tls;
mod upgrade;
mod waits;

use std::{sync::Arc, time::Duration};

use aios_core::{
    conformance::store::{Capability, StoreFixture},
    event::Event,
    store::{Store, StoreError},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use async_trait::async_trait;

/// Size of an event that exceeds the limit of the fixture's store.
const TOO_MANY_BYTES: usize = 5 * 1024 * 1024;

/// Options for a new schema on the server that all tests of this binary share. `None` if PostgreSQL is not
/// installed.
fn options() -> Option<PostgresOptions> {
    let server = PostgresServer::shared()?;
    let options = PostgresOptions::new(&server.url());
    Some(options.with_schema(&server.new_name()).with_max_connections(4))
}

fn event() -> Event {
    Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap()
}

/// A new schema on the server that all tests of this binary share.
pub(crate) struct PostgresFixture {
    server: &'static PostgresServer,
    schema: String,
    options: PostgresOptions,
}

impl PostgresFixture {
    /// `None` if PostgreSQL is not installed.
    pub(crate) fn new() -> Option<Self> {
        let server = PostgresServer::shared()?;
        Some(Self::through(server, PostgresOptions::new(&server.url())))
    }

    /// Connects to the server with these options.
    pub(crate) fn through(server: &'static PostgresServer, options: PostgresOptions) -> Self {
        Self { server, schema: server.new_name(), options }
    }
}

#[async_trait]
impl StoreFixture for PostgresFixture {
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError> {
        let options = self.options.clone().with_schema(&self.schema);
        let options = options.with_max_connections(4).with_max_event_bytes(TOO_MANY_BYTES - 1);
        Ok(Arc::new(PostgresStore::connect_with(options).await?))
    }

    /// Moves the expiry of the leases, because the clock of the server cannot be moved.
    async fn pass(&self, duration: Duration) {
        let (schema, micros) = (&self.schema, duration.as_micros());
        let sql = format!(
            "UPDATE {schema}.leases SET expires_at = expires_at - interval '{micros} microseconds'"
        );
        assert_eq!(self.server.sql(&sql), "");
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(60)
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
