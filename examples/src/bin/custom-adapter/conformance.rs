use std::{sync::Arc, time::Duration};

use aios_broker::memory::{MemoryBroker, MemoryOptions};
use aios_core::{
    broker::{Broker, BrokerError},
    clock::VirtualClock,
    conformance::broker::{BrokerFixture, Capability},
};
use async_trait::async_trait;

use super::metered::MeteredBroker;

/// One broker that is empty at first, with a clock that the suite advances.
struct Fixture {
    clock: VirtualClock,
    broker: MemoryBroker,
}

impl Fixture {
    fn new() -> Self {
        let clock = VirtualClock::default();
        let options =
            MemoryOptions::new().with_clock(Arc::new(clock.clone())).with_max_event_bytes(2 << 20);
        Self { clock, broker: MemoryBroker::connect_with(options).unwrap() }
    }
}

#[async_trait]
impl BrokerFixture for Fixture {
    fn is_there(&self) -> bool {
        true
    }

    async fn connect(&self) -> Result<Arc<dyn Broker>, BrokerError> {
        Ok(Arc::new(MeteredBroker::new(Arc::new(self.broker.new_connection()))))
    }

    async fn pass(&self, duration: Duration) {
        self.quiet().await;
        self.clock.advance(duration);
    }

    async fn quiet(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a hanging case fails in real time")]
    async fn overdue(&self) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn too_many_bytes(&self) -> usize {
        (2 << 20) + 1
    }

    fn lacks(&self) -> &[Capability] {
        &[]
    }
}

mod suite {
    aios_core::broker_conformance!(super::Fixture::new());
}
