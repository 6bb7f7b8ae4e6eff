use async_trait::async_trait;

use super::{Broker, BrokerError, Health, Publish};
use crate::event::Event;

/// Convenience methods for every [`Broker`].
///
/// # Examples
///
/// ```
/// use aios_core::{
///     broker::{Broker, BrokerError, BrokerExt},
///     event::Event,
/// };
///
/// /// Publishes an event, and says whether it is worth trying again with the same id.
/// async fn announce(broker: &dyn Broker, event: Event) -> Result<(), bool> {
///     broker.publish_event(event).await.map_err(|error| match error {
///         // It may have arrived. Consumers recognise the id of an event that comes twice.
///         BrokerError::Uncertain => true,
///         error => error.is_retryable(),
///     })
/// }
/// # let _ = announce;
/// ```
#[async_trait]
pub trait BrokerExt: Broker {
    /// Publishes one event to every group whose pattern matches, if any.
    ///
    /// # Errors
    ///
    /// See [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// See [`Broker::publish`].
    async fn publish_event(&self, event: Event) -> Result<(), BrokerError> {
        self.publish_one(Publish::new(event)).await
    }

    /// Publishes one event.
    ///
    /// # Errors
    ///
    /// See [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// See [`Broker::publish`].
    async fn publish_one(&self, publish: Publish) -> Result<(), BrokerError> {
        self.publish(vec![publish]).await.pop().unwrap_or(Err(BrokerError::Uncertain))
    }

    /// The current state of the connection.
    fn health_now(&self) -> Health {
        self.health().now()
    }
}

impl<B: Broker + ?Sized> BrokerExt for B {}
