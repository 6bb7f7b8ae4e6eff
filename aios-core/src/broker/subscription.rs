use super::{Address, BrokerError, Group, Mailbox};
use crate::{event::Pattern, retry::RetryPolicy};

/// How an event is handled after its last attempt failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It is dropped; for events that may be lost.
    Discard,
}

/// The lifetime of a group or mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// It stays, and events wait in it while there is no consumer.
    #[default]
    Durable,
    /// It is deleted with its last subscription, together with its events.
    Temporary,
}

/// The events to consume, and how.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::{
///     broker::{Group, Mailbox, Subscription},
///     retry::RetryPolicy,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Any number of processes share the group; each event goes to one of them.
/// let billing = Subscription::group(Group::new("billing")?, ["shop.order.*".parse()?])
///     .with_prefetch(16)
///     .with_retry(RetryPolicy::fixed(5, Duration::from_secs(10)));
/// billing.validate()?;
///
/// // Answers to this process alone, which are of no use after its end.
/// let answers = Subscription::mailbox(Mailbox::new("shop.answers.7")?).temporary();
/// answers.validate()?;
///
/// let nothing = Subscription::group(Group::new("billing")?, []);
/// assert!(nothing.validate().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Subscription {
    /// The group or mailbox.
    pub address: Address,
    /// The events that a group gets; patterns are added to its existing ones. A mailbox has none.
    pub patterns: Vec<Pattern>,
    /// The maximum number of unsettled deliveries of this subscription, 1 to 65,535.
    pub prefetch: u16,
    /// When a failed delivery is redelivered.
    pub retry: RetryPolicy,
    /// How an event is handled after its last attempt failed.
    pub on_exhausted: OnExhausted,
    /// The lifetime of the group or mailbox.
    pub lifetime: Lifetime,
}

impl Subscription {
    /// Consumes a durable group, which gets the events that match any of `patterns`.
    #[must_use]
    pub fn group(group: Group, patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self::new(group.into(), patterns.into_iter().collect())
    }

    /// Reads a durable mailbox.
    #[must_use]
    pub fn mailbox(mailbox: Mailbox) -> Self {
        Self::new(mailbox.into(), Vec::new())
    }

    fn new(address: Address, patterns: Vec<Pattern>) -> Self {
        Self {
            address,
            patterns,
            prefetch: 256,
            retry: RetryPolicy::default(),
            on_exhausted: OnExhausted::default(),
            lifetime: Lifetime::default(),
        }
    }

    /// Sets the maximum number of unsettled deliveries of this subscription.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets when a failed delivery is redelivered.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets what happens to an event after its last attempt failed.
    #[must_use]
    pub fn with_on_exhausted(mut self, policy: OnExhausted) -> Self {
        self.on_exhausted = policy;
        self
    }

    /// Deletes the group or mailbox with its last subscription.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.lifetime = Lifetime::Temporary;
        self
    }

    /// Checks the options that every adapter must reject.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InvalidConfiguration`] for a prefetch of 0, a group without patterns, a
    /// mailbox with patterns, or a retry policy that can't be followed.
    pub fn validate(&self) -> Result<(), BrokerError> {
        let reason = match (&self.address, self.patterns.is_empty()) {
            _ if self.prefetch == 0 => "a prefetch of 0 would never deliver",
            (Address::Group(_), true) => "a group without patterns would never get an event",
            (Address::Mailbox(_), false) => "a mailbox has no patterns",
            _ => {
                return self.retry.validate().map_err(|invalid| {
                    let reason = format!("retry: {invalid}");
                    BrokerError::InvalidConfiguration { reason }
                });
            }
        };
        Err(BrokerError::InvalidConfiguration { reason: reason.to_owned() })
    }
}
