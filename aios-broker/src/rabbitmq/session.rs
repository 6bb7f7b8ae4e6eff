use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_core::broker::{BrokerError, Subscription};
use futures_util::FutureExt;
use lapin::{
    Channel, Connection, Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::FieldTable,
};
use tokio::sync::Notify;

use super::{
    error::{backend, warn, within},
    headers::short,
    link::Link,
    topology,
};
use crate::chance::Chance;

/// A consumer on a channel of its own, until either dies.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link>,
    pub(super) connection: Arc<Connection>,
    channel: Channel,
    tag: String,
    /// Deliveries that a handler has.
    in_hand: AtomicUsize,
    idle: Notify,
}

impl Session {
    /// As [`open`](Self::open), again and again until the deadline of connecting: a server where many
    /// declare the same things at the same time, on a virtual host that is new, may answer that it
    /// stumbled (541), and closes the connection with everything that was under way on it.
    pub(super) async fn open_insisting(
        link: &Arc<Link>,
        subscription: &Subscription,
        chance: &Chance,
    ) -> Result<(Arc<Self>, Consumer), BrokerError> {
        let options = &link.options;
        let deadline = options.clock.now() + options.connect_deadline;
        for attempt in 1.. {
            let error = match Self::open(link, subscription).await {
                Err(error) if error.is_retryable() => error,
                result => return result,
            };
            let pause = options.reconnect.delay_after(attempt, chance.next()).unwrap_or_default();
            if options.clock.now() + pause >= deadline {
                return Err(error);
            }
            warn(&error, "can't subscribe; trying again");
            options.clock.sleep(pause).await;
        }
        Err(BrokerError::Closed)
    }

    /// Declares what the subscription needs and begins to consume.
    pub(super) async fn open(
        link: &Arc<Link>,
        subscription: &Subscription,
    ) -> Result<(Arc<Self>, Consumer), BrokerError> {
        topology::declare(link, subscription).await?;
        let (connection, channel) = link.channel().await?;
        let (clock, after) = (&*link.options.clock, link.options.operation_timeout);
        let qos = channel.basic_qos(subscription.prefetch, BasicQosOptions::default());
        within(clock, after, "set the prefetch", qos).await?;
        let queue = topology::queue(&link.options.prefix, &subscription.address);
        let consuming = channel.basic_consume(
            short(&queue),
            short(""),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(clock, after, "begin to consume", consuming).await?;
        let session = Self {
            link: Arc::clone(link),
            connection,
            channel,
            tag: consumer.tag().to_string(),
            in_hand: AtomicUsize::new(0),
            idle: Notify::new(),
        };
        Ok((Arc::new(session), consumer))
    }

    pub(super) fn is_alive(&self) -> bool {
        self.channel.status().connected()
    }

    pub(super) fn enter(&self) {
        self.in_hand.fetch_add(1, Ordering::AcqRel);
    }

    /// Deliveries that handlers have.
    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Acquire)
    }

    pub(super) fn leave(&self) {
        if self.in_hand.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Tells the server that a delivery is done. AMQP answers nothing to that.
    pub(super) fn ack(&self, tag: u64) -> Result<(), BrokerError> {
        let acked = self.channel.basic_ack(tag, BasicAckOptions::default());
        Self::submitted("acknowledge", acked.now_or_never())
    }

    /// Gives a delivery back to its queue.
    pub(super) fn nack(&self, tag: u64) -> Result<(), BrokerError> {
        let options = BasicNackOptions { requeue: true, ..Default::default() };
        let nacked = self.channel.basic_nack(tag, options);
        Self::submitted("release", nacked.now_or_never())
    }

    /// The frame is in lapin's queue as soon as the future was polled; the rest of it waits for the
    /// socket, which says nothing about the server either.
    fn submitted(
        operation: &'static str,
        polled: Option<Result<(), lapin::Error>>,
    ) -> Result<(), BrokerError> {
        match polled {
            Some(Err(error)) => Err(backend(operation, error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Stops the consumer; what it was sent before stays on the channel.
    pub(super) async fn cancel(&self) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(short(&self.tag), BasicCancelOptions::default());
        let (clock, after) = (&*self.link.options.clock, self.link.options.operation_timeout);
        within(clock, after, "cancel a consumer", cancel).await
    }

    /// Completes when no handler has a delivery any more, or the channel is dead.
    pub(super) async fn settled(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.in_hand() == 0 || !self.is_alive() {
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
    /// The server handles a channel's methods in order, so its answer to a question that follows
    /// the settlements means that it has passed them to the queue.
    pub(super) async fn close(&self) -> Result<(), BrokerError> {
        let (clock, after) = (&*self.link.options.clock, self.link.options.operation_timeout);
        let barrier = self.channel.basic_qos(1, BasicQosOptions::default());
        within(clock, after, "take the settlements", barrier).await?;
        let closing = self.channel.close(200, "done".into());
        within(clock, after, "close a channel", closing).await
    }
}
