use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;

use crate::event::Timestamp;

/// State of a broker's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Connected.
    Connected,
    /// The connection was lost and is being rebuilt.
    Reconnecting {
        /// Since when.
        since: Timestamp,
        /// The cause.
        cause: Arc<str>,
    },
    /// The broker accepts no events, to protect its memory or disk. Consuming continues.
    Blocked {
        /// Since when.
        since: Timestamp,
        /// The message of the broker.
        reason: Arc<str>,
    },
    /// Closed by this process.
    Closed,
}

/// Watches a broker's state: a stream that begins with the current state and continues with each
/// change. A slow watcher skips to the latest state.
///
/// # Examples
///
/// ```
/// use aios_core::broker::{Broker, Health};
///
/// async fn report(broker: &dyn Broker) {
///     let mut watch = broker.health();
///     while let Some(health) = watch.next().await {
///         match health {
///             Health::Connected => println!("connected"),
///             Health::Reconnecting { since, cause } => println!("lost at {since}: {cause}"),
///             // The server protects its memory or disk; publishing waits or fails.
///             Health::Blocked { reason, .. } => println!("blocked: {reason}"),
///             _ => break,
///         }
///     }
/// }
/// # let _ = report;
/// ```
#[must_use = "a watch does nothing unless it is read"]
pub struct HealthWatch(Pin<Box<dyn Stream<Item = Health> + Send>>);

impl HealthWatch {
    /// Wraps an adapter's stream, whose first item must be ready at once.
    pub fn new(stream: impl Stream<Item = Health> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next change; `None` when the broker is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Health> {
        std::future::poll_fn(|context| self.0.as_mut().poll_next(context)).await
    }

    pub(super) fn now(mut self) -> Health {
        match self.0.as_mut().poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(health)) => health,
            Poll::Ready(None) | Poll::Pending => Health::Closed,
        }
    }
}

impl Stream for HealthWatch {
    type Item = Health;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Health>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for HealthWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HealthWatch")
    }
}
