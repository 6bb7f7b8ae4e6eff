use std::{sync::Arc, time::Duration};

use aios_core::broker::{Acknowledger, BrokerError, OnExhausted, Settlement, Subscription};
use async_trait::async_trait;
use lapin::{message::Delivery, types::FieldTable};

use super::{
    delay_queues::DelayQueues, headers::DeliveryHistory, health::Reporter, link::Link,
    outgoing::Outgoing, publish::Publisher, session::Session, topology,
};
use crate::rng::SplitMix64;

/// Delay before an event that could not be settled is requeued.
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The shared state for the settlements of one subscription.
#[derive(Debug)]
pub(super) struct SettlementContext {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) delay_queues: Arc<DelayQueues>,
    pub(super) rng: SplitMix64,
    pub(super) subscription: Subscription,
    pub(super) reporter: Arc<Reporter>,
}

impl SettlementContext {
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        self.reporter.check_publishing()?;
        self.publisher.publish_one(outgoing).await
    }
}

/// A delivery that a handler has not settled yet.
#[derive(Debug)]
pub(super) struct UnsettledDelivery {
    context: Arc<SettlementContext>,
    session: Arc<Session>,
    raw: RawDelivery,
    settled: bool,
}

/// The event as the server sent it.
#[derive(Debug)]
pub(super) struct RawDelivery {
    pub(super) tag: u64,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) history: DeliveryHistory,
}

impl RawDelivery {
    pub(super) fn new(delivery: Delivery) -> Self {
        let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        let mut history = DeliveryHistory::read(&delivery.properties);
        history.delivered |= delivery.redelivered || history.returns > 0;
        Self {
            tag: delivery.delivery_tag,
            id: id.unwrap_or_default(),
            history,
            body: delivery.data,
        }
    }
}

impl UnsettledDelivery {
    pub(super) fn new(
        context: Arc<SettlementContext>,
        session: Arc<Session>,
        raw: RawDelivery,
    ) -> Self {
        session.add_unsettled();
        Self { context, session, raw, settled: false }
    }

    async fn apply(&mut self, settlement: Settlement) -> Result<(), BrokerError> {
        match settlement {
            Settlement::Ack => self.session.ack(self.raw.tag),
            Settlement::Release if self.is_returned_too_often() => self.requeue_fresh().await,
            Settlement::Release => self.session.nack(self.raw.tag),
            Settlement::DeadLetter { reason } => self.dead_letter(reason).await,
            Settlement::Retry { after, reason } => {
                let attempt = self.raw.history.failures.saturating_add(1);
                let jitter = self.context.rng.next();
                match self.context.subscription.retry.delay_after(attempt, jitter) {
                    Some(delay) => self.retry(after.unwrap_or(delay)).await,
                    None => self.dead_letter(reason).await,
                }
            }
        }
    }

    /// Whether the server would soon count the event as poison although nothing failed: before
    /// RabbitMQ 4.3, releases count as unsuccessful deliveries.
    fn is_returned_too_often(&self) -> bool {
        self.raw.history.returns.saturating_mul(2) >= self.context.link.options.delivery_limit
    }

    /// Publishes a copy, with a delivery count of 0, to the end of the queue.
    async fn requeue_fresh(&mut self) -> Result<(), BrokerError> {
        self.replace(String::new(), self.session.queue.clone()).await
    }

    async fn retry(&mut self, delay: Duration) -> Result<(), BrokerError> {
        let now = self.context.link.options.clock.now();
        self.raw.history.failures = self.raw.history.failures.saturating_add(1);
        self.raw.history.first_failure.get_or_insert(now);
        let SettlementContext { delay_queues, link, subscription, .. } = &*self.context;
        match delay_queues.exchange(link, delay, subscription.lifetime).await {
            Ok(exchange) => {
                let replaced = self.replace(exchange, self.session.queue.clone()).await;
                if replaced.is_err() {
                    // The exchange may have been deleted.
                    self.context.delay_queues.forget();
                }
                replaced
            }
            Err(error) => self.requeue(error).await,
        }
    }

    async fn dead_letter(&mut self, reason: String) -> Result<(), BrokerError> {
        if self.context.subscription.on_exhausted == OnExhausted::Discard {
            return self.session.ack(self.raw.tag);
        }
        let now = self.context.link.options.clock.now();
        self.raw.history.failures = self.raw.history.failures.saturating_add(1);
        self.raw.history.first_failure.get_or_insert(now);
        self.raw.history.reason = Some(reason);
        let context = Arc::clone(&self.context);
        let SettlementContext { link, subscription, .. } = &*context;
        let dead = topology::dead_queue(&link.options.prefix, &subscription.address);
        let dead_lettered = self.replace(String::new(), dead).await;
        if matches!(dead_lettered, Err(BrokerError::Unroutable { .. })) {
            // The queue was deleted or has expired. Declare it before the event is redelivered.
            topology::restore_dead_queue(link, subscription).await?;
        }
        if dead_lettered.is_ok() {
            metrics::counter!("aios_dead_letters_total").increment(1);
        }
        dead_lettered
    }

    /// Publishes a copy elsewhere, and acknowledges the original once the server has confirmed the
    /// copy. A crash in between leaves both.
    async fn replace(&mut self, exchange: String, key: String) -> Result<(), BrokerError> {
        let mut headers = FieldTable::default();
        self.raw.history.delivered = true;
        self.raw.history.write(&mut headers);
        let body = std::mem::take(&mut self.raw.body);
        let mut outgoing = Outgoing::to_queue(&key, body, &self.raw.id, headers);
        outgoing.exchange = exchange;
        match self.context.publish(outgoing).await {
            Ok(()) => self.session.ack(self.raw.tag),
            Err(error) => self.requeue(error).await,
        }
    }

    /// Requeues an event that could not be settled, after a delay.
    async fn requeue(&self, cause: BrokerError) -> Result<(), BrokerError> {
        self.context.link.options.clock.sleep(SETTLE_RETRY_DELAY).await;
        self.session.nack(self.raw.tag)?;
        Err(cause)
    }
}

#[async_trait]
impl Acknowledger for UnsettledDelivery {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        let settled = self.apply(settlement).await;
        self.settled = true;
        settled
    }

    fn release(self: Box<Self>) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.is_returned_too_often() => {
                runtime.spawn(self.settle(Settlement::Release));
            }
            _ => drop(self),
        }
    }
}

/// Returns the deliveries that were not settled, or only partly.
impl Drop for UnsettledDelivery {
    fn drop(&mut self) {
        if !self.settled {
            // If the channel is dead, the server has taken the event back already.
            self.session.nack(self.raw.tag).unwrap_or_default();
        }
        self.session.remove_unsettled();
    }
}
