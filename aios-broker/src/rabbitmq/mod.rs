//! A broker on RabbitMQ 3.10 and later: moves events between processes and machines.
//!
//! Events go to groups through one topic exchange, and to mailboxes through the default exchange. A
//! group or mailbox is a quorum queue with a queue for its dead letters; events that are retried wait
//! in delay queues. Publishing and consuming have a
//! connection each. Failed connections, channels and consumers are replaced.
//!
//! # On the server
//!
//! Names begin with the [prefix](RabbitMqOptions::with_prefix), `aios` by default. All of it is declared
//! when it is first needed, so the user needs the permission to configure, write and read these names,
//! and to write to the default exchange, `amq.default`.
//!
//! | name | is |
//! |---|---|
//! | `aios.events` | the topic exchange; the type of an event is its routing key |
//! | `aios.group.<group>`, `aios.mailbox.<mailbox>` | the events that wait for consumers |
//! | `aios.dead.group.<group>`, `aios.dead.mailbox.<mailbox>` | dead letters |
//! | `aios.hold.<milliseconds>` | an exchange with its queue: events that wait this long for their next attempt |
//! | `aios.due` | the direct exchange that returns them to their groups and mailboxes |
//! | `aios.unclaimed` | an exchange with its queue: events whose group or mailbox was deleted while they waited for their next attempt. No process reads it. Every process that consumes counts them as `aios_events_unclaimed`, and logs when there are more than before |
//!
//! # How a delivery is settled
//!
//! | settlement | on the server |
//! |---|---|
//! | acknowledged | the event is removed from its queue |
//! | retried | a copy that has the number of attempts goes to a delay queue, which returns it when it expires |
//! | retried after more than 30 days | the same, but the event returns at least every 31 days, and its consumer sends it to a delay queue again until it is due. While there is no consumer, it waits in its own queue |
//! | given up, or retried for the last time | a copy that has the reason goes to the queue of dead letters |
//! | released | the event returns to its queue. If the server would soon take it for poison, a copy with a fresh count is appended |
//!
//! A copy is confirmed before the original is acknowledged. A crash in between leaves both, so an event
//! may come twice, and is never lost. While the server blocks publishers, the caller of a settlement that
//! needs a copy gets the error, and the process keeps the event until it can publish the copy, loses the
//! channel, or closes. If the server refuses the delay queue for good, for example because the virtual host
//! has no room for another queue, the event becomes a dead letter whose reason names both failures.

mod connection;
mod consume;
mod dead_letter;
mod delay_queues;
mod error;
mod headers;
mod options;
mod publish;
mod topology;

use std::{fmt, sync::Arc, time::Duration};

use aios_core::broker::{
    Address, Broker, BrokerError, DeadLetters, Deliveries, HealthWatch, Publish, Subscription,
};
use async_trait::async_trait;
use futures_util::future::{Either, join, select, try_join};
use tokio::sync::watch;

pub use self::options::RabbitMqOptions;
use self::{
    connection::{Link, OwnedLink, Part, Reporter},
    consume::{ConsumeTask, Inbox, Session, SettlementContext, Subscribed},
    dead_letter::RabbitMqDeadLetters,
    delay_queues::DelayQueues,
    publish::Publisher,
};
use crate::rng::SplitMix64;

/// A broker on a RabbitMQ server or cluster.
///
/// # Guarantees
///
/// - `Ok` from publishing means that the server has confirmed the event: a quorum of its nodes has
///   written it. If the connection is lost first, the answer is
///   [`Uncertain`](BrokerError::Uncertain) at once.
/// - Every await ends within a timeout of the options. Lost connections, channels and consumers
///   are replaced for as long as the broker is open.
/// - An acknowledgement returns when it is sent; AMQP has no response to it. If it is lost, the
///   event is redelivered. [`close`](Broker::close) waits until the server has handled all
///   acknowledgements.
///
/// # Limits
///
/// Each subscription has a channel of the same connection, and a few more are needed now and then. By
/// default, RabbitMQ allows 2,047 channels on a connection. Beyond that, subscribing is tried again until
/// the connect deadline, and then fails with a retryable error. A process with more subscriptions connects
/// several brokers, or raises `channel_max` on the server.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
/// use aios_core::broker::Broker;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = RabbitMqOptions::new("amqps://shop:password@rabbit.example.org/shop")
///     .with_connection_name("billing")
///     .with_ca_certificates(std::fs::read_to_string("/etc/tls/ca.pem")?);
/// let broker = RabbitMqBroker::connect_with(options).await?;
/// // … at the end of the program, so that no acknowledgement is lost:
/// broker.close(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
///
/// A process that reports a broken connection to its operators watches the health of the broker. The
/// watch also sees that the server blocks publishers although the connection works:
///
/// ```no_run
/// use aios_broker::rabbitmq::RabbitMqBroker;
/// use aios_core::broker::{Broker, Health};
///
/// # async fn example() -> Result<(), aios_core::broker::BrokerError> {
/// let broker = RabbitMqBroker::connect("amqp://localhost").await?;
/// let mut health = broker.health();
/// tokio::spawn(async move {
///     while let Some(health) = health.next().await {
///         match health {
///             Health::Connected => println!("connected"),
///             Health::Reconnecting { since, cause } => println!("down since {since}: {cause}"),
///             Health::Blocked { reason, .. } => println!("publishing is blocked: {reason}"),
///             _ => return, // closed by this process
///         }
///     }
/// });
/// # Ok(())
/// # }
/// ```
pub struct RabbitMqBroker {
    /// The connection that publishes.
    publishing: OwnedLink,
    /// The connection that consumes. A server that blocks publishers blocks their whole connection,
    /// and acknowledgements must still get through.
    consuming: OwnedLink,
    /// The front of the task that owns the publishing channel.
    publisher: Arc<Publisher>,
    /// The delay queues that are declared.
    delay_queues: Arc<DelayQueues>,
    /// The health of both connections as one.
    reporter: Arc<Reporter>,
    /// `true` from the beginning of `close`.
    draining: watch::Sender<bool>,
    /// Each subscription's task has a receiver.
    subscriptions: watch::Sender<()>,
}

impl RabbitMqBroker {
    /// Connects to `amqp[s]://user:password@host:port/vhost` with the default options.
    ///
    /// # Errors
    ///
    /// See [`connect_with`](Self::connect_with).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: closes the connections.
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        Self::connect_with(RabbitMqOptions::new(url)).await
    }

    /// Connects, retrying until the connect deadline while the server is unavailable.
    ///
    /// Must be called within a tokio runtime, which then runs the broker's tasks.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InvalidConfiguration`] for invalid options; otherwise the error of the
    /// last attempt.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: closes the connections.
    pub async fn connect_with(options: RabbitMqOptions) -> Result<Self, BrokerError> {
        let options = options.with_url_parameters()?;
        let target = options.resolve()?;
        let options = Arc::new(options);
        let reporter = Arc::new(Reporter::new());
        let link =
            |part| Link::connect(Arc::clone(&options), target.clone(), part, Arc::clone(&reporter));
        let (publishing, consuming) =
            try_join(link(Part::Publishing), link(Part::Consuming)).await?;
        Ok(Self {
            publisher: Arc::new(Publisher::start(Arc::clone(&publishing))),
            publishing,
            consuming,
            delay_queues: Arc::default(),
            reporter,
            draining: watch::Sender::new(false),
            subscriptions: watch::Sender::new(()),
        })
    }

    /// Checks that the server's delivery limit allows the attempts: the server also counts crashes
    /// between attempts.
    fn check_limit(&self, subscription: &Subscription) -> Result<(), BrokerError> {
        let limit = self.consuming.options.delivery_limit;
        let attempts = subscription.retry.max_attempts;
        if attempts > limit {
            let reason =
                format!("{attempts} attempts need a delivery limit of as many, not {limit}");
            return Err(BrokerError::InvalidConfiguration { reason });
        }
        Ok(())
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        match self.reporter.check_publishing() {
            Ok(()) => self.publisher.publish(batch).await,
            Err(error) => vec![Err(error); batch.len()],
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        subscription.validate()?;
        self.check_limit(&subscription)?;
        if *self.draining.borrow() {
            return Err(BrokerError::Closed);
        }
        let rng = SplitMix64::seeded();
        let first = Session::open_with_retries(&self.consuming, &subscription, &rng).await?;
        let link = Arc::clone(&self.consuming);
        let publisher = Arc::clone(&self.publisher);
        let delay_queues = Arc::clone(&self.delay_queues);
        let reporter = Arc::clone(&self.reporter);
        let draining = self.draining.subscribe();
        let context = SettlementContext {
            link,
            publisher,
            delay_queues,
            rng,
            subscription,
            reporter,
            draining: draining.clone(),
        };
        let context = Arc::new(context);
        let inbox = Arc::new(Inbox::default());
        let task = ConsumeTask {
            context: Arc::clone(&context),
            inbox: Arc::clone(&inbox),
            draining,
            alive: self.subscriptions.subscribe(),
        };
        tokio::spawn(task.run(first));
        Ok(Deliveries::new(Subscribed { inbox, settlement: context }))
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        let Self { consuming, publisher, reporter, .. } = self;
        Ok(Box::new(RabbitMqDeadLetters::open(consuming, publisher, reporter, address).await?))
    }

    fn health(&self) -> HealthWatch {
        self.reporter.watch()
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.draining.send_replace(true);
        let clock = &self.consuming.options.clock;
        let end = clock.elapsed().saturating_add(deadline);
        let expired = clock.sleep(deadline);
        let drained = match select(std::pin::pin!(self.subscriptions.closed()), expired).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => {
                let operation = "see every delivery settled";
                Err(BrokerError::Timeout { operation, after: deadline })
            }
        };
        self.reporter.closed();
        let left = end.saturating_sub(clock.elapsed());
        join(self.consuming.close(left), self.publishing.close(left)).await;
        drained
    }
}

impl fmt::Debug for RabbitMqBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RabbitMqBroker")
            .field("options", &self.publishing.options)
            .finish_non_exhaustive()
    }
}
