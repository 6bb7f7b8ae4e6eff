use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerError, Group},
    conformance::broker::{BrokerFixture, Capability},
};
use aios_tests::rabbitmq::RabbitMqServer;
use async_trait::async_trait;

/// Small, so that the suite need not publish megabytes to have an event refused.
const MAX_EVENT_BYTES: usize = 2 << 20;

/// Cases share the server. Each has a prefix of its own.
struct RabbitMqFixture {
    server: Option<&'static RabbitMqServer>,
    prefix: String,
}

impl RabbitMqFixture {
    fn new() -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("case{}", CASES.fetch_add(1, Ordering::Relaxed));
        Self { server: RabbitMqServer::shared(), prefix }
    }
}

#[async_trait]
impl BrokerFixture for RabbitMqFixture {
    fn is_there(&self) -> bool {
        self.server.is_some()
    }

    async fn connect(&self) -> Result<Arc<dyn Broker>, BrokerError> {
        let url = self.server.map(RabbitMqServer::url).unwrap();
        let options = RabbitMqOptions::new(url)
            .with_prefix(&self.prefix)
            .with_max_event_bytes(MAX_EVENT_BYTES)
            .with_operation_timeout(Duration::from_secs(45));
        Ok(Arc::new(RabbitMqBroker::connect_with(options).await?))
    }

    #[allow(clippy::disallowed_methods, reason = "the server has a clock of its own")]
    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn quiet(&self) {
        self.pass(Duration::from_millis(300)).await;
    }

    async fn overdue(&self) {
        self.pass(Duration::from_secs(60)).await;
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn too_many_bytes(&self) -> usize {
        MAX_EVENT_BYTES + 1
    }

    async fn limited(&self, group: &Group, events: u32) -> Option<Arc<dyn Broker>> {
        let name = format!("{}.group.{group}", self.prefix);
        let (pattern, limit) = (format!("^{name}$"), format!(r#"{{"max-length": {events}}}"#));
        let server = self.server?;
        let set = move || {
            let queues = ["--apply-to", "queues"];
            server.ctl(&["set_policy", &name, &pattern, &limit, queues[0], queues[1]])
        };
        let _ = tokio::task::spawn_blocking(set).await.unwrap();
        Some(self.connect().await.unwrap())
    }

    fn lacks(&self) -> &[Capability] {
        &[]
    }
}

aios_core::broker_conformance!(RabbitMqFixture::new());
