//! Settling a delivery.
//!
//! A retry and a dead letter are a copy in another queue, and then the acknowledgement of the
//! original. The order makes an event survive a crash at any point; what may happen is that both
//! exist. If the copy can't be published, then:
//!
//! | cause | the original |
//! |---|---|
//! | the server blocks publishers, does not confirm, or can't declare the queue yet | is kept, and the caller of the settlement gets the error; the settlement is tried again with growing pauses, until the channel is lost or the broker closes. The prefetch limits how many are kept |
//! | the server refuses the queue in which the event would wait for its next attempt | becomes a dead letter, even if the subscription discards those; the reason names both failures |
//! | other errors | is requeued after a short delay, and the caller gets the error |
//!
//! Requeuing them all would use up the server's delivery limit, which then makes them dead letters.
//!
//! An `UnsettledDelivery` that is dropped is returned to its queue. That also covers a handler that
//! panics, and a settlement whose future is dropped in the middle.

use std::{sync::Arc, time::Duration};

use aios_core::{
    Chain,
    broker::{Acknowledger, BrokerError, OnExhausted, Settlement, Subscription},
    event::Timestamp,
};
use async_trait::async_trait;
use lapin::{message::Delivery, types::FieldTable};
use tokio::sync::watch;

use super::{begun, session::Session};
use crate::{
    rabbitmq::{
        connection::{Link, Reporter},
        delay_queues::{DelayQueues, LONGEST},
        error::warn,
        headers::{DeliveryHistory, truncate},
        publish::{Outgoing, Publisher},
        topology,
    },
    rng::SplitMix64,
};

/// How often a copy may be returned, whatever the delivery limit is. Less than half of the default limit of
/// RabbitMQ 4.
const MOST_RETURNS: u32 = 8;

/// Delay before an event that could not be settled is requeued.
const SETTLE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The shared state for the settlements of one subscription.
#[derive(Debug)]
pub(crate) struct SettlementContext {
    /// The consuming connection.
    pub(crate) link: Arc<Link>,
    /// Publishes copies.
    pub(crate) publisher: Arc<Publisher>,
    /// Where copies wait for the next attempt.
    pub(crate) delay_queues: Arc<DelayQueues>,
    /// Jitter of the delays.
    pub(crate) rng: SplitMix64,
    /// Has the retry policy.
    pub(crate) subscription: Subscription,
    /// Knows whether publishing is possible.
    pub(crate) reporter: Arc<Reporter>,
    /// `true` when the broker is closing.
    pub(crate) draining: watch::Receiver<bool>,
}

impl SettlementContext {
    /// Publishes a copy, unless publishing is blocked or closed.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        self.reporter.check_publishing()?;
        self.publisher.publish_one(outgoing).await
    }

    /// When an event is due that its delay queue has returned before.
    pub(super) fn due_later(&self, history: &DeliveryHistory) -> Option<Timestamp> {
        history.due.filter(|due| *due > self.link.options.clock.now())
    }
}

/// A delivery that a handler has not settled yet.
#[derive(Debug)]
pub(crate) struct UnsettledDelivery {
    /// Shared by all deliveries of the subscription.
    context: Arc<SettlementContext>,
    /// The channel that it came on.
    session: Arc<Session>,
    /// Everything that a copy needs.
    raw: RawDelivery,
    /// Whether the server has been told what to do.
    settled: bool,
}

/// The event as the server sent it.
#[derive(Debug)]
pub(super) struct RawDelivery {
    /// Identifies the delivery on its channel.
    pub(crate) tag: u64,
    /// The id of the event; empty if the message has none.
    pub(crate) id: String,
    /// The event as it was published.
    pub(crate) body: Vec<u8>,
    /// Its earlier deliveries.
    pub(crate) history: DeliveryHistory,
}

impl RawDelivery {
    /// Takes a delivery of lapin apart.
    pub(crate) fn new(delivery: Delivery) -> Self {
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
    /// Counts the delivery as unsettled on its channel, which stays open until it is settled.
    pub(crate) fn new(
        context: Arc<SettlementContext>,
        session: Arc<Session>,
        raw: RawDelivery,
    ) -> Self {
        session.add_unsettled();
        Self { context, session, raw, settled: false }
    }

    /// Does what the settlement says. May be called again after an error.
    async fn apply(&mut self, settlement: &Settlement) -> Result<(), BrokerError> {
        // The subscription itself releases an event that is not due yet.
        if *settlement == Settlement::Release
            && let Some(due) = self.context.due_later(&self.raw.history)
        {
            return self.hold_until(due).await;
        }
        match settlement {
            Settlement::Ack => self.ack(),
            Settlement::Release if self.is_returned_too_often() => self.requeue_fresh().await,
            Settlement::Release => self.nack(),
            Settlement::DeadLetter { reason } => self.dead_letter(reason).await,
            Settlement::Retry { after, reason } => {
                let attempt = self.raw.history.failures.saturating_add(1);
                let jitter = self.context.rng.next();
                match self.context.subscription.retry.delay_after(attempt, jitter) {
                    Some(delay) => self.retry(after.unwrap_or(delay), reason).await,
                    None => self.dead_letter(reason).await,
                }
            }
        }
    }

    /// Acknowledges the original.
    fn ack(&mut self) -> Result<(), BrokerError> {
        self.settled = true;
        self.session.ack(self.raw.tag)
    }

    /// Returns the original to its queue.
    fn nack(&mut self) -> Result<(), BrokerError> {
        self.settled = true;
        self.session.nack(self.raw.tag)
    }

    /// Whether the server might soon count the event as poison although nothing failed: before
    /// RabbitMQ 4.3, releases count as unsuccessful deliveries.
    fn is_returned_too_often(&self) -> bool {
        self.raw.history.returns >= renew_at(self.context.link.options.delivery_limit)
    }

    /// Publishes a copy, with a delivery count of 0, to the end of the queue.
    async fn requeue_fresh(&mut self) -> Result<(), BrokerError> {
        let history = self.raw.history.clone();
        self.replace(String::new(), self.queue(), history).await
    }

    /// Publishes a copy that returns to the queue after the delay, with one more failed attempt.
    async fn retry(&mut self, delay: Duration, reason: &str) -> Result<(), BrokerError> {
        let due = (delay > LONGEST).then(|| self.context.link.options.clock.now() + delay);
        let history = DeliveryHistory { due, ..self.failed() };
        self.hold(delay, history, reason).await
    }

    /// Publishes a copy that returns to the queue when it is due, or as late as possible before.
    async fn hold_until(&mut self, due: Timestamp) -> Result<(), BrokerError> {
        let delay = due.duration_since(self.context.link.options.clock.now());
        self.hold(delay, self.raw.history.clone(), "its next attempt is not due yet").await
    }

    /// Publishes a copy to the delay queue of this delay, or to the one with the longest delay.
    ///
    /// If the server refuses that queue, the event becomes a dead letter: it would fail without a delay and
    /// uncounted otherwise. `reason` says why it has to wait.
    async fn hold(
        &mut self,
        delay: Duration,
        history: DeliveryHistory,
        reason: &str,
    ) -> Result<(), BrokerError> {
        let SettlementContext { delay_queues, link, subscription, .. } = &*self.context;
        let exchange = match delay_queues.exchange(link, delay, subscription.lifetime).await {
            Err(error @ BrokerError::Backend { retryable: false, .. }) => {
                warn(&error, "the server refuses to hold an event; it becomes a dead letter");
                return self.move_to_dead_letters(history, &both(reason, &error)).await;
            }
            exchange => exchange?,
        };
        let replaced = self.replace(exchange, self.queue(), history).await;
        if replaced.is_err() {
            // The exchange may have been deleted.
            self.context.delay_queues.forget();
        }
        replaced
    }

    /// Makes the event a dead letter, or only acknowledges it if the subscription discards those.
    async fn dead_letter(&mut self, reason: &str) -> Result<(), BrokerError> {
        if self.context.subscription.on_exhausted == OnExhausted::Discard {
            return self.ack();
        }
        let history = self.failed();
        self.move_to_dead_letters(history, reason).await
    }

    /// Publishes a copy to the queue of dead letters.
    async fn move_to_dead_letters(
        &mut self,
        history: DeliveryHistory,
        reason: &str,
    ) -> Result<(), BrokerError> {
        // The other headers need less than the rest of a frame. The server closes the connection otherwise.
        let frame = usize::try_from(self.session.frame_max()).unwrap_or(usize::MAX);
        let reason = Some(truncate(reason, frame / 4).to_owned());
        let history = DeliveryHistory { reason, ..history };
        let context = Arc::clone(&self.context);
        let SettlementContext { link, subscription, .. } = &*context;
        let dead = topology::dead_queue(&link.options.prefix, &subscription.address);
        let dead_lettered = self.replace(String::new(), dead, history).await;
        if matches!(dead_lettered, Err(BrokerError::Unroutable { .. })) {
            // The queue was deleted or has expired. Declare it before the event is redelivered.
            topology::declare(link, subscription).await?;
        }
        if dead_lettered.is_ok() {
            metrics::counter!("aios_dead_letters_total").increment(1);
        }
        dead_lettered
    }

    /// The history with one more failed attempt.
    fn failed(&mut self) -> DeliveryHistory {
        let now = self.context.link.options.clock.now();
        let history = &mut self.raw.history;
        history.first_failure.get_or_insert(now);
        DeliveryHistory { failures: history.failures.saturating_add(1), ..history.clone() }
    }

    /// Publishes a copy elsewhere, and acknowledges the original once the server has confirmed the
    /// copy. A crash in between leaves both.
    async fn replace(
        &mut self,
        exchange: String,
        key: String,
        history: DeliveryHistory,
    ) -> Result<(), BrokerError> {
        let mut headers = FieldTable::default();
        DeliveryHistory { delivered: true, ..history }.write(&mut headers);
        let body = self.raw.body.clone();
        let mut outgoing = Outgoing::to_queue(&key, body, &self.raw.id, headers);
        outgoing.exchange = exchange;
        self.context.publish(outgoing).await?;
        self.ack()
    }

    /// Requeues an event that could not be settled, after a delay.
    ///
    /// Without the delay, an event that can't be settled would be delivered and fail as fast as the
    /// server can send it.
    async fn requeue(&mut self) -> Result<(), BrokerError> {
        self.context.link.options.clock.sleep(SETTLE_RETRY_DELAY).await;
        self.nack()
    }

    /// Settles an event that could not be settled when it was tried first, unless its channel is lost
    /// or the broker closes before.
    async fn settle_later(mut self: Box<Self>, settlement: Settlement) {
        let context = Arc::clone(&self.context);
        let session = Arc::clone(&self.session);
        let mut draining = context.draining.clone();
        tokio::select! {
            () = self.try_again(&settlement) => {}
            () = context.link.lost(&session.connection) => {}
            () = begun(&mut draining) => {}
        }
    }

    /// Tries again until the event is settled or can't be.
    async fn try_again(&mut self, settlement: &Settlement) {
        let context = Arc::clone(&self.context);
        for attempt in 1.. {
            let options = &context.link.options;
            options.clock.sleep(options.reconnect_pause(attempt, context.rng.next())).await;
            if !self.session.is_alive() {
                return;
            }
            match self.apply(settlement).await {
                Err(error) if is_passing(&error) && !self.settled => {}
                Err(error) if !self.settled => {
                    warn(&error, "failed to settle an event; it will be redelivered");
                    // If the channel is dead, the server has taken the event back already.
                    return self.requeue().await.unwrap_or_default();
                }
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// The queue that the delivery came from.
    fn queue(&self) -> String {
        let SettlementContext { link, subscription, .. } = &*self.context;
        topology::queue(&link.options.prefix, &subscription.address)
    }
}

#[async_trait]
impl Acknowledger for UnsettledDelivery {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        let Err(error) = self.apply(&settlement).await else { return Ok(()) };
        if is_passing(&error) && !self.settled && self.session.is_alive() {
            tracing::warn!(
                address = %self.context.subscription.address,
                event = self.raw.id,
                code = error.code(),
                error = %Chain(&error),
                "an event can't be settled yet; it is kept, and tried again"
            );
            tokio::spawn(self.settle_later(settlement));
        } else if !self.settled {
            self.requeue().await?;
        }
        Err(error)
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

/// The reason of a dead letter that could not wait for its next attempt.
fn both(reason: &str, refusal: &BrokerError) -> String {
    // The longer text comes last, because the end of a long reason is cut.
    format!("the event can't wait for another attempt: {}; {reason}", Chain(refusal))
}

/// How often a copy is returned before a new one replaces it: well before the delivery limit, and before any
/// that a policy of the server may have lowered it to, which the adapter can't see.
fn renew_at(delivery_limit: u32) -> u32 {
    delivery_limit.div_ceil(2).min(MOST_RETURNS)
}

/// Whether the server could not take a copy or declare its queue for now, so that the next attempt may
/// succeed.
fn is_passing(error: &BrokerError) -> bool {
    matches!(
        error,
        BrokerError::Blocked { .. }
            | BrokerError::Timeout { .. }
            | BrokerError::Uncertain
            | BrokerError::Backend { retryable: true, .. }
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_renew_copies_long_before_a_limit_that_a_policy_sets() {
        assert_eq!([1, 5, 16, 100, u32::MAX].map(renew_at), [1, 3, 8, 8, 8]);
    }
}
