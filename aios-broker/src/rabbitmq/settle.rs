use std::{sync::Arc, time::Duration};

use aios_core::broker::{Acknowledger, BrokerError, OnExhausted, Settlement, Subscription};
use async_trait::async_trait;
use lapin::{message::Delivery, types::FieldTable};

use super::{
    headers::Trials,
    health::Reporter,
    hold::Hold,
    link::Link,
    publish::{Outgoing, Publisher},
    session::Session,
    topology,
};
use crate::chance::Chance;

/// How long an event that could not be settled rests before it comes again.
const MOMENT: Duration = Duration::from_millis(200);

/// The shared state for the settlements of one subscription.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) hold: Arc<Hold>,
    pub(super) chance: Chance,
    pub(super) subscription: Subscription,
    pub(super) reporter: Arc<Reporter>,
}

impl Settling {
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        self.reporter.check_publishing()?;
        self.publisher.publish_one(outgoing).await
    }
}

/// A delivery that a handler has.
#[derive(Debug)]
pub(super) struct InHand {
    settling: Arc<Settling>,
    session: Arc<Session>,
    copy: Copy,
    settled: bool,
}

/// The event as the server sent it.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) tag: u64,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) trials: Trials,
}

impl Copy {
    pub(super) fn new(delivery: Delivery) -> Self {
        let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        let mut trials = Trials::read(&delivery.properties);
        trials.delivered |= delivery.redelivered || trials.returns > 0;
        Self { tag: delivery.delivery_tag, id: id.unwrap_or_default(), trials, body: delivery.data }
    }
}

impl InHand {
    pub(super) fn new(settling: Arc<Settling>, session: Arc<Session>, copy: Copy) -> Self {
        session.enter();
        Self { settling, session, copy, settled: false }
    }

    async fn apply(&mut self, settlement: Settlement) -> Result<(), BrokerError> {
        match settlement {
            Settlement::Ack => self.session.ack(self.copy.tag),
            Settlement::Release if self.is_returned_too_often() => self.refresh().await,
            Settlement::Release => self.session.nack(self.copy.tag),
            Settlement::DeadLetter { reason } => self.give_up(reason).await,
            Settlement::Retry { after, reason } => {
                let attempt = self.copy.trials.failures.saturating_add(1);
                let chance = self.settling.chance.next();
                match self.settling.subscription.retry.delay_after(attempt, chance) {
                    Some(delay) => self.retry(after.unwrap_or(delay)).await,
                    None => self.give_up(reason).await,
                }
            }
        }
    }

    /// Whether the server would soon count the event as poison although nothing failed: before
    /// RabbitMQ 4.3, releases count as unsuccessful deliveries.
    fn is_returned_too_often(&self) -> bool {
        self.copy.trials.returns.saturating_mul(2) >= self.settling.link.options.delivery_limit
    }

    /// Puts a copy with a fresh count at the end of the queue.
    async fn refresh(&mut self) -> Result<(), BrokerError> {
        self.replace(String::new(), self.queue()).await
    }

    async fn retry(&mut self, delay: Duration) -> Result<(), BrokerError> {
        let now = self.settling.link.options.clock.now();
        self.copy.trials.failures = self.copy.trials.failures.saturating_add(1);
        self.copy.trials.first_failure.get_or_insert(now);
        let Settling { hold, link, subscription, .. } = &*self.settling;
        match hold.exchange(link, delay, subscription.lifetime).await {
            Ok(exchange) => {
                let replaced = self.replace(exchange, self.queue()).await;
                if replaced.is_err() {
                    // Somebody may have deleted it.
                    self.settling.hold.forget();
                }
                replaced
            }
            Err(error) => self.give_back(error).await,
        }
    }

    async fn give_up(&mut self, reason: String) -> Result<(), BrokerError> {
        if self.settling.subscription.on_exhausted == OnExhausted::Discard {
            return self.session.ack(self.copy.tag);
        }
        let now = self.settling.link.options.clock.now();
        self.copy.trials.failures = self.copy.trials.failures.saturating_add(1);
        self.copy.trials.first_failure.get_or_insert(now);
        self.copy.trials.reason = Some(reason);
        let settling = Arc::clone(&self.settling);
        let Settling { link, subscription, .. } = &*settling;
        let dead = topology::dead_queue(&link.options.prefix, &subscription.address);
        let given_up = self.replace(String::new(), dead).await;
        if matches!(given_up, Err(BrokerError::Unroutable { .. })) {
            // The queue is gone: deleted, or expired. It is there when the event comes again.
            topology::declare(link, subscription).await?;
        }
        given_up
    }

    /// Publishes a copy elsewhere, and acknowledges this one once the server has the other: a
    /// crash in between leaves both.
    async fn replace(&mut self, exchange: String, key: String) -> Result<(), BrokerError> {
        let mut headers = FieldTable::default();
        self.copy.trials.delivered = true;
        self.copy.trials.write(&mut headers);
        let body = std::mem::take(&mut self.copy.body);
        let mut outgoing = Outgoing::to_queue(&key, body, &self.copy.id, headers);
        outgoing.exchange = exchange;
        match self.settling.publish(outgoing).await {
            Ok(()) => self.session.ack(self.copy.tag),
            Err(error) => self.give_back(error).await,
        }
    }

    /// Lets the event come again after a moment, since it could not be settled.
    async fn give_back(&self, cause: BrokerError) -> Result<(), BrokerError> {
        self.settling.link.options.clock.sleep(MOMENT).await;
        self.session.nack(self.copy.tag)?;
        Err(cause)
    }

    fn queue(&self) -> String {
        let Settling { link, subscription, .. } = &*self.settling;
        topology::queue(&link.options.prefix, &subscription.address)
    }
}

#[async_trait]
impl Acknowledger for InHand {
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
impl Drop for InHand {
    fn drop(&mut self) {
        if !self.settled {
            // If the channel is dead, the server has taken the event back already.
            self.session.nack(self.copy.tag).unwrap_or_default();
        }
        self.session.leave();
    }
}
