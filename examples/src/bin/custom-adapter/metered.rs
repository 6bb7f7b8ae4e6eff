use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_core::broker::{
    Address, Broker, BrokerError, DeadLetters, Deliveries, HealthWatch, Publish, Subscription,
};
use async_trait::async_trait;

/// Counts the events that a broker has accepted, by type, for example to bill a tenant for them.
#[derive(Clone, Debug)]
pub(crate) struct MeteredBroker {
    broker: Arc<dyn Broker>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl MeteredBroker {
    /// Wraps a broker. Clones share the counts.
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, counts: Arc::default() }
    }

    /// The events that were published, by type.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, event_type: String) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(event_type).or_default() += 1;
    }
}

// A wrapper forwards every method, including those with a default implementation. Otherwise, it
// loses the optimisations of the inner broker. The lint reports missing methods when the trait
// gains new ones.
#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards everything")]
#[async_trait]
impl Broker for MeteredBroker {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let types: Vec<String> =
            batch.iter().map(|publish| publish.event.event_type.to_string()).collect();
        let answers = self.broker.publish(batch).await;
        // The results are in the order of the batch.
        for (event_type, answer) in types.into_iter().zip(&answers) {
            if answer.is_ok() {
                self.count(event_type);
            }
        }
        answers
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        self.broker.subscribe(subscription).await
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        self.broker.dead_letters(address).await
    }

    fn health(&self) -> HealthWatch {
        self.broker.health()
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.broker.close(deadline).await
    }
}
