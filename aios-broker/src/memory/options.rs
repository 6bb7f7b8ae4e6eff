//! Options of the broker in memory.

use std::sync::Arc;

use aios_core::{
    broker::BrokerError,
    clock::{Clock, SystemClock},
};

/// The most events of a group or mailbox, and bytes of an event.
const MOST_EVENTS: usize = 1_000_000_000;
const MOST_BYTES: usize = 1 << 30;

/// Options of a [`MemoryBroker`](super::MemoryBroker).
///
/// # Examples
///
/// ```
/// use aios_broker::memory::{MemoryBroker, MemoryOptions};
///
/// # fn main() -> Result<(), aios_core::broker::BrokerError> {
/// let broker = MemoryBroker::connect_with(MemoryOptions::new().with_max_events(10_000))?;
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// The clock of delays and deadlines.
    pub(super) clock: Arc<dyn Clock>,
    /// The most events of a group or a mailbox, with delayed and dead ones.
    pub(super) max_events: usize,
    /// The most bytes of an event.
    pub(super) max_event_bytes: usize,
    /// Begins the random numbers of the jitter of delays, so that a simulation can be repeated.
    pub(super) seed: u64,
}

impl MemoryOptions {
    /// The system's clock, at most 1,000,000 events a group and 16 MiB an event (what RabbitMQ 4
    /// takes by default).
    #[must_use]
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            max_events: 1_000_000,
            max_event_bytes: 16 << 20,
            seed: 0,
        }
    }

    /// Sets the clock of delays and deadlines.
    ///
    /// # Examples
    ///
    /// A test of a retry that does not wait. The delay ends when the test moves the clock:
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use aios_broker::memory::{MemoryBroker, MemoryOptions};
    /// use aios_core::{
    ///     broker::{Broker, BrokerExt, Group, Subscription},
    ///     clock::VirtualClock,
    ///     event::Event,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = VirtualClock::default();
    /// let options = MemoryOptions::new().with_clock(Arc::new(clock.clone()));
    /// let broker = MemoryBroker::connect_with(options)?;
    /// let orders = Subscription::group(Group::new("billing")?, ["shop.order.*".parse()?]);
    /// let mut deliveries = broker.subscribe(orders).await?;
    /// broker.publish_event(Event::new("shop.order.placed".parse()?, "shop", &7)?).await?;
    ///
    /// let first = deliveries.next().await.ok_or("closed")??;
    /// first.retry(Some(Duration::from_secs(3600)), "the bank is closed").await?;
    /// clock.advance(Duration::from_secs(3600));
    ///
    /// let second = deliveries.next().await.ok_or("closed")??;
    /// assert_eq!((second.attempt, second.redelivered), (2, true));
    /// # second.ack().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how many events a group or mailbox keeps at most, 1 to 1,000,000,000: those that wait,
    /// those that are delayed and the dead letters. When it is full, publishing is
    /// [`Rejected`](BrokerError::Rejected). An event takes about 300 bytes in addition to its data.
    /// The default is 1,000,000. Events that a consumer has taken do not count; they may exceed the limit
    /// when they are released, because an accepted event is never refused later.
    #[must_use]
    pub fn with_max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// Sets how many bytes the names, data and metadata of an event have at most, 1 to 1 GiB.
    /// Larger ones are [`TooLarge`](BrokerError::TooLarge).
    /// The default is 16 MiB.
    #[must_use]
    pub fn with_max_event_bytes(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Sets the seed of the jitter of delays. The same seed gives the same delays.
    /// The default is 0, so two brokers with default options draw the same delays.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Refuses options that are out of range.
    pub(super) fn validate(&self) -> Result<(), BrokerError> {
        for (name, value, most) in [
            ("max_events", self.max_events, MOST_EVENTS),
            ("max_event_bytes", self.max_event_bytes, MOST_BYTES),
        ] {
            if !(1..=most).contains(&value) {
                let reason = format!("{name} is {value}; it is 1 to {most}");
                return Err(BrokerError::InvalidConfiguration { reason });
            }
        }
        Ok(())
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_options_out_of_range() {
        let options = MemoryOptions::new;
        for (name, options) in [
            ("max_events", options().with_max_events(0)),
            ("max_events", options().with_max_events(usize::MAX)),
            ("max_event_bytes", options().with_max_event_bytes(0)),
            ("max_event_bytes", options().with_max_event_bytes(usize::MAX)),
        ] {
            let error = options.validate().unwrap_err();
            assert_eq!(error.code(), "INVALID_BROKER_CONFIGURATION");
            assert!(error.to_string().contains(&format!("{name} is")), "{error}");
        }
        options().validate().unwrap();
        options().with_max_events(1).with_max_event_bytes(1).validate().unwrap();
    }
}
