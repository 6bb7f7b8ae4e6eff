use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::Stream;

use super::BrokerError;
use crate::event::Event;

/// How a delivery is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It succeeded.
    Ack,
    /// It failed: deliver it again after this time, or after the delay of the subscription's retry
    /// policy if none is given. Counted; the last attempt makes it a dead letter.
    Retry {
        /// Delay, overriding the policy's. The event is not delivered earlier, however long it is.
        after: Option<Duration>,
        /// The reason, stored in the dead letter.
        reason: String,
    },
    /// It can never succeed: give it up at once.
    DeadLetter {
        /// The reason.
        reason: String,
    },
    /// Deliver it again, at once if possible, without counting an attempt.
    Release,
}

/// How an adapter settles one delivery.
#[async_trait]
pub trait Acknowledger: Send + Sync {
    /// Settles the delivery. Returns when the broker has accepted the settlement, as far as its
    /// protocol confirms that.
    ///
    /// # Cancel safety
    ///
    /// A cancelled settlement may or may not have reached the broker.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError>;

    /// Releases without waiting; called when a delivery is dropped.
    fn release(self: Box<Self>);
}

/// An event on its way to a handler.
///
/// Settling takes the delivery, so it can't be settled twice. Dropping it releases it.
///
/// # Examples
///
/// ```
/// use aios_core::broker::{BrokerError, Delivery};
///
/// # fn ship(_: &[String]) -> Result<(), std::io::Error> { Ok(()) }
/// async fn handle(delivery: Delivery) -> Result<(), BrokerError> {
///     let Ok(items) = delivery.event.data::<Vec<String>>() else {
///         return delivery.dead_letter("the data is not a list of items").await;
///     };
///     match ship(&items) {
///         Ok(()) => delivery.ack().await,
///         // After the delay of the subscription's retry policy.
///         Err(error) => delivery.retry(None, error.to_string()).await,
///     }
/// }
/// # let _ = handle;
/// ```
#[must_use = "dropping a delivery releases it, so that it is delivered again"]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// The number of this attempt, from 1. Counts retries; releases do not count.
    pub attempt: u32,
    /// Whether it may have been delivered before, to a handler that released it, failed, or was
    /// lost with its connection. If not, no handler has had this copy of the event.
    pub redelivered: bool,
    settle: Option<Box<dyn Acknowledger>>,
}

impl Delivery {
    /// An event that is delivered to a handler for the first time; for adapters.
    pub fn new(event: Event, attempt: u32, settle: Box<dyn Acknowledger>) -> Self {
        Self { event, attempt, redelivered: false, settle: Some(settle) }
    }

    /// Sets whether it may have been delivered before; for adapters.
    pub fn with_redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }

    /// Acknowledges the event: it succeeded.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached. The event is then redelivered.
    ///
    /// # Cancel safety
    ///
    /// See [`settle`](Self::settle).
    pub async fn ack(self) -> Result<(), BrokerError> {
        self.settle(Settlement::Ack).await
    }

    /// Retries the event, which failed for this reason, after `after` or the policy's delay.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached. The event is then redelivered.
    ///
    /// # Cancel safety
    ///
    /// See [`settle`](Self::settle).
    pub async fn retry(
        self,
        after: Option<Duration>,
        reason: impl Into<String> + Send,
    ) -> Result<(), BrokerError> {
        self.settle(Settlement::Retry { after, reason: reason.into() }).await
    }

    /// Gives the event up, because it can never succeed.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached. The event is then redelivered.
    ///
    /// # Cancel safety
    ///
    /// See [`settle`](Self::settle).
    pub async fn dead_letter(self, reason: impl Into<String> + Send) -> Result<(), BrokerError> {
        self.settle(Settlement::DeadLetter { reason: reason.into() }).await
    }

    /// Releases the event: it is delivered again, without counting an attempt.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached. The event is then redelivered.
    ///
    /// # Cancel safety
    ///
    /// See [`settle`](Self::settle).
    pub async fn release(self) -> Result<(), BrokerError> {
        self.settle(Settlement::Release).await
    }

    /// Settles with a [`Settlement`]. The four methods above are shorthands.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached. The event is then redelivered.
    ///
    /// # Cancel safety
    ///
    /// A cancelled settlement may or may not have reached the broker.
    pub async fn settle(mut self, settlement: Settlement) -> Result<(), BrokerError> {
        match self.settle.take() {
            Some(settle) => settle.settle(settlement).await,
            None => Ok(()),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.release();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Delivery")
            .field("event", &self.event)
            .field("attempt", &self.attempt)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// A stream of deliveries. Dropping it ends the subscription: events that it has not yielded go back
/// to the group, and deliveries that it has yielded stay valid until they are settled or dropped.
///
/// It ends (`None`) when the broker is closed. An error is the last item: the subscription cannot
/// continue. A lost connection is neither; the adapter reconnects and the stream continues.
#[must_use = "dropping deliveries ends the subscription"]
pub struct Deliveries(Pin<Box<dyn Stream<Item = Result<Delivery, BrokerError>> + Send>>);

impl Deliveries {
    /// Wraps an adapter's stream.
    pub fn new(stream: impl Stream<Item = Result<Delivery, BrokerError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next delivery.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no delivery is lost.
    pub async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        std::future::poll_fn(|context| self.0.as_mut().poll_next(context)).await
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Deliveries")
    }
}
