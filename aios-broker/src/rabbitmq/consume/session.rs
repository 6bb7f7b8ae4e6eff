//! A consumer on its own channel.
//!
//! Each subscription has a channel of its own: an error closes only this subscription's channel,
//! and the order of settlements is that of one channel. A delivery can be settled only on the
//! channel that it came on, so each delivery keeps its session.
//!
//! **Settling.** AMQP does not answer acknowledgements. `ack` and `nack` return as soon as the
//! frame is in the queue of lapin. `close` sends a request after them and waits for its answer; the
//! server handles a channel's methods in order, so the settlements before it have been handled
//! then.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_core::broker::{Address, BrokerError, Subscription};
use futures_util::FutureExt;
use lapin::{
    Channel, Connection, Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::FieldTable,
};
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    rabbitmq::{
        connection::Link,
        error::{about, backend, warn, within},
        headers::short,
        topology,
    },
    rng::SplitMix64,
};

/// A consumer on its own channel, until one of them fails.
#[derive(Debug)]
pub(crate) struct Session {
    /// The consuming connection's link.
    link: Arc<Link>,
    /// The connection of the channel.
    pub(crate) connection: Arc<Connection>,
    /// The channel of this consumer alone.
    channel: Channel,
    /// The name that the server gave the consumer.
    tag: String,
    /// Whether another reader had the mailbox when this consumer began.
    pub(super) is_second: bool,
    /// How many deliveries handlers have not settled.
    unsettled: AtomicUsize,
    /// Notified when the last delivery is settled.
    idle: Notify,
}

/// Closes a channel on which a consumer may be beginning, unless the session is complete.
///
/// The server begins the consumer even if no caller waits for its response any more, and lapin keeps the
/// channel of a consumer that it knows. The events that are delivered there would stay there.
struct ClosedIfAbandoned {
    /// Closes the channel. The call may be dropped outside of a runtime.
    runtime: Handle,
    /// `None` when the session is complete.
    channel: Option<(Arc<Link>, Arc<Connection>, Channel)>,
}

impl ClosedIfAbandoned {
    fn new(link: &Arc<Link>, connection: &Arc<Connection>, channel: &Channel) -> Self {
        let channel = Some((Arc::clone(link), Arc::clone(connection), channel.clone()));
        Self { runtime: Handle::current(), channel }
    }

    /// The session is complete.
    fn keep(mut self) {
        self.channel = None;
    }
}

impl Drop for ClosedIfAbandoned {
    fn drop(&mut self) {
        let Some((link, connection, channel)) = self.channel.take() else { return };
        self.runtime.spawn(async move {
            let options = &link.options;
            let closing = channel.close(200, "abandoned".into());
            let closed =
                within(&*options.clock, options.operation_timeout, "close a channel", closing);
            if let Err(error) = closed.await
                && channel.status().connected()
            {
                warn(&error, "failed to close an abandoned channel; replacing its connection");
                link.replace(&connection);
            }
        });
    }
}

impl Session {
    /// Calls [`open`](Self::open) with retries until the connect deadline. When many clients
    /// declare the same objects concurrently on a new virtual host, the server may answer with an
    /// internal error (541) and close the connection.
    pub(crate) async fn open_with_retries(
        link: &Arc<Link>,
        subscription: &Subscription,
        rng: &SplitMix64,
    ) -> Result<(Arc<Self>, Consumer), BrokerError> {
        let options = &link.options;
        let deadline = options.clock.elapsed().saturating_add(options.connect_deadline);
        for attempt in 1.. {
            let error = match Self::open(link, subscription).await {
                Err(error) if topology::is_transient(&error) => error,
                result => return result,
            };
            let pause = options.reconnect_pause(attempt, rng.next());
            if options.clock.elapsed().saturating_add(pause) >= deadline {
                return Err(error);
            }
            warn(&error, "failed to subscribe; retrying");
            options.clock.sleep(pause).await;
        }
        Err(BrokerError::Closed)
    }

    /// Declares what the subscription needs and begins to consume.
    pub(crate) async fn open(
        link: &Arc<Link>,
        subscription: &Subscription,
    ) -> Result<(Arc<Self>, Consumer), BrokerError> {
        let (connection, channel) = topology::declare(link, subscription).await?;
        let abandoned = ClosedIfAbandoned::new(link, &connection, &channel);
        let clock = &*link.options.clock;
        let after = link.options.operation_timeout;
        let qos = channel.basic_qos(subscription.prefetch, BasicQosOptions::default());
        within(clock, after, "set the prefetch", qos).await?;
        let address = &subscription.address;
        let queue = topology::queue(&link.options.prefix, address);
        let is_second = match address {
            Address::Mailbox(_) => {
                let found = topology::inspect(link, &channel, &queue).await;
                found.map_err(|error| about(address, error))?.consumer_count() > 0
            }
            Address::Group(_) => false,
        };
        let consuming = channel.basic_consume(
            short(&queue),
            short(""),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(clock, after, "begin to consume", consuming).await?;
        abandoned.keep();
        let session = Self {
            link: Arc::clone(link),
            connection,
            channel,
            tag: consumer.tag().to_string(),
            is_second,
            unsettled: AtomicUsize::new(0),
            idle: Notify::new(),
        };
        Ok((Arc::new(session), consumer))
    }

    /// Whether the channel is open, as far as lapin knows.
    pub(super) fn is_alive(&self) -> bool {
        self.channel.status().connected()
    }

    /// The most bytes of a frame, as the server and this process have agreed. The publishing connection has
    /// the same limit.
    pub(super) fn frame_max(&self) -> u32 {
        self.connection.configuration().frame_max()
    }

    /// Counts a delivery that was handed to a handler.
    pub(super) fn add_unsettled(&self) {
        self.unsettled.fetch_add(1, Ordering::AcqRel);
    }

    /// How many deliveries handlers have not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Counts a delivery as settled or dropped.
    pub(super) fn remove_unsettled(&self) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Acknowledges a delivery. AMQP has no response to this.
    pub(crate) fn ack(&self, tag: u64) -> Result<(), BrokerError> {
        let acked = self.channel.basic_ack(tag, BasicAckOptions::default());
        Self::submitted("acknowledge", acked.now_or_never())
    }

    /// Returns a delivery to its queue.
    pub(super) fn nack(&self, tag: u64) -> Result<(), BrokerError> {
        let options = BasicNackOptions { requeue: true, ..Default::default() };
        let nacked = self.channel.basic_nack(tag, options);
        Self::submitted("release", nacked.now_or_never())
    }

    /// The frame is in lapin's queue once the future was polled. The rest of the future waits for
    /// the socket, which does not confirm anything either.
    fn submitted(
        operation: &'static str,
        polled: Option<Result<(), lapin::Error>>,
    ) -> Result<(), BrokerError> {
        match polled {
            Some(Err(error)) => Err(backend(operation, error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Stops the consumer. Deliveries that were already sent stay on the channel.
    pub(crate) async fn cancel(&self) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(short(&self.tag), BasicCancelOptions::default());
        let clock = &*self.link.options.clock;
        let after = self.link.options.operation_timeout;
        within(clock, after, "cancel a consumer", cancel).await
    }

    /// Completes when all deliveries are settled, or the channel is dead.
    pub(crate) async fn settled(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.unsettled() == 0 || !self.is_alive() {
                return;
            }
            tokio::select! {
                () = idle => {}
                () = self.link.lost(&self.connection) => return,
            }
        }
    }

    /// Waits until the server has handled all settlements, and closes the channel.
    ///
    /// The server handles the methods of a channel in order, so its response to a later method
    /// means that it has passed the settlements to the queue.
    pub(crate) async fn close(&self) -> Result<(), BrokerError> {
        let clock = &*self.link.options.clock;
        let after = self.link.options.operation_timeout;
        let barrier = self.channel.basic_qos(1, BasicQosOptions::default());
        within(clock, after, "take the settlements", barrier).await?;
        let closing = self.channel.close(200, "done".into());
        within(clock, after, "close a channel", closing).await
    }
}
