//! A reader of events that subscribes again after transient errors of the broker.

use std::sync::Arc;

use aios_core::{
    Chain,
    broker::{Address, Broker, BrokerError, Deliveries, Delivery, Subscription},
    clock::Clock,
    retry::Backoff,
};

use super::backoff::BackoffTimer;

/// Reads the events of one subscription for as long as the broker accepts it.
///
/// For subscriptions that stay the same. A reader whose subscription depends on its state, such as the
/// number of tasks that it can take, has a loop of its own.
pub(crate) struct Subscriber {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    subscription: Subscription,
    /// The events, as log lines name them.
    what: &'static str,
    backoff: BackoffTimer,
    /// `None` until it has subscribed, and again after an error.
    deliveries: Option<Deliveries>,
}

impl Subscriber {
    /// A reader that has not subscribed. `what` names the events in log lines.
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        subscription: Subscription,
        what: &'static str,
    ) -> Self {
        let backoff = BackoffTimer::new(Backoff::default());
        Self { broker, clock, subscription, what, backoff, deliveries: None }
    }

    /// Sets the pauses between attempts to subscribe.
    pub(crate) fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = BackoffTimer::new(backoff);
        self
    }

    /// The address that it reads.
    pub(crate) fn address(&self) -> &Address {
        &self.subscription.address
    }

    /// Subscribes. Does nothing if it has subscribed.
    pub(crate) async fn subscribe(&mut self) -> Result<(), BrokerError> {
        if self.deliveries.is_none() {
            self.deliveries = Some(self.broker.subscribe(self.subscription.clone()).await?);
        }
        Ok(())
    }

    /// Returns the next event. Waits for it, and for the broker to accept the subscription again. An event
    /// is not lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Closed`] once the broker is closed, and other permanent errors.
    pub(crate) async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            let error = match self.attempt().await {
                Ok(delivery) => return Ok(delivery),
                Err(error) => error,
            };
            self.deliveries = None;
            if !error.is_retryable() {
                return Err(error);
            }
            tracing::warn!(
                code = error.code(), error = %Chain(&error), address = %self.subscription.address,
                "failed to receive {}; subscribing again", self.what
            );
            self.backoff.wait(&*self.clock).await;
        }
    }

    /// Subscribes if necessary, and waits for one event.
    async fn attempt(&mut self) -> Result<Delivery, BrokerError> {
        self.subscribe().await?;
        let next = match &mut self.deliveries {
            Some(deliveries) => deliveries.next().await,
            None => None,
        };
        let delivery = next.unwrap_or(Err(BrokerError::Closed))?;
        self.backoff.reset();
        Ok(delivery)
    }
}
