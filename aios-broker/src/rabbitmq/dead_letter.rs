//! The dead letters of a group or mailbox.
//!
//! AMQP can't look at a queue without taking from it. Listing, redriving and purging by id
//! therefore take all letters on a channel of their own, act on the chosen ones, and close the
//! channel, upon which the server requeues the others. If the process dies in the middle, the
//! server does the same. A letter that is redriven is published to its queue before it is removed
//! here: a crash in between leaves it in both.

use std::{sync::Arc, time::Duration};

use aios_core::{
    broker::{Address, BrokerError, DeadLetter, DeadLetterFilter, DeadLetters},
    event::{Event, EventId, Timestamp},
};
use async_trait::async_trait;
use lapin::{
    BasicProperties, Channel, Connection,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, QueuePurgeOptions},
    types::FieldTable,
};

use super::{
    connection::{Link, Reporter},
    error::{about, within},
    headers::{DeliveryHistory, last_death, short},
    publish::{Outgoing, Publisher},
    topology,
};

/// How often, and at which interval, to check whether requeued letters are visible.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The dead letters of one queue. Reading temporarily takes all of them from the queue, regardless
/// of the limit, so two concurrent readers each see a part.
pub(super) struct RabbitMqDeadLetters {
    /// The consuming connection.
    link: Arc<Link>,
    /// Publishes redriven letters.
    publisher: Arc<Publisher>,
    /// Knows whether publishing is possible. Only redriving needs it.
    reporter: Arc<Reporter>,
    /// The group or mailbox, for errors.
    address: Address,
    /// The queue that redriven letters return to.
    queue: String,
    /// The queue of the letters.
    dead_queue: String,
}

impl RabbitMqDeadLetters {
    /// Checks that the group or mailbox has a queue of dead letters.
    pub(super) async fn open(
        link: &Arc<Link>,
        publisher: &Arc<Publisher>,
        reporter: &Arc<Reporter>,
        address: &Address,
    ) -> Result<Self, BrokerError> {
        let prefix = &link.options.prefix;
        let letters = Self {
            link: Arc::clone(link),
            publisher: Arc::clone(publisher),
            reporter: Arc::clone(reporter),
            address: address.clone(),
            queue: topology::queue(prefix, address),
            dead_queue: topology::dead_queue(prefix, address),
        };
        letters.visit().await?;
        Ok(letters)
    }

    /// Begins to take letters, on a new channel.
    async fn visit(&self) -> Result<Visit<'_>, BrokerError> {
        let (connection, channel) = self.link.channel().await?;
        let queue = topology::inspect(&self.link, &channel, &self.dead_queue).await;
        let queue = queue.map_err(|error| about(&self.address, error))?;
        Ok(Visit {
            letters: self,
            _connection: connection,
            channel,
            total: queue.message_count(),
            taken: 0,
            removed: 0,
        })
    }

    /// Passes the oldest letters to `each`, at most `limit`, and requeues all of them.
    async fn read(
        &self,
        limit: usize,
        each: &mut (dyn FnMut(DeadLetter) + Send),
    ) -> Result<(), BrokerError> {
        let mut visit = self.visit().await?;
        let mut count = 0;
        // Requeued letters go to the end, so only reading all of them keeps their order.
        while let Some(letter) = visit.next().await? {
            if count < limit
                && let Some(letter) = describe(&letter, self.link.options.clock.now())
            {
                each(letter);
                count += 1;
            }
        }
        visit.end().await
    }
}

/// A view of the current letters. Letters that are not removed are requeued when it ends.
struct Visit<'a> {
    letters: &'a RabbitMqDeadLetters,
    /// Keeps the connection of the channel.
    _connection: Arc<Connection>,
    /// Closing it requeues what was not acknowledged.
    channel: Channel,
    /// How many letters there were.
    total: u32,
    /// How many were taken.
    taken: u32,
    /// How many of them will not be requeued.
    removed: u32,
}

impl Visit<'_> {
    /// Takes the next letter. Ends after as many as there were at the beginning: letters that
    /// arrive in the meantime are left alone.
    async fn next(&mut self) -> Result<Option<BasicGetMessage>, BrokerError> {
        if self.taken == self.total {
            return Ok(None);
        }
        let name = short(&self.letters.dead_queue);
        let get = self.channel.basic_get(name, BasicGetOptions::default());
        let letter = self.within("get a dead letter", get).await?;
        if letter.is_some() {
            self.taken += 1;
        }
        Ok(letter)
    }

    /// Removes a letter for good.
    async fn remove(&mut self, letter: &BasicGetMessage) -> Result<(), BrokerError> {
        self.removed += 1;
        let ack = self.channel.basic_ack(letter.delivery_tag, BasicAckOptions::default());
        self.within("delete a dead letter", ack).await
    }

    /// Requeues the letters, and waits briefly until the queue has them, so that the next caller
    /// sees them.
    async fn end(self) -> Result<(), BrokerError> {
        let closing = self.channel.close(200, "done".into());
        self.within("close a channel", closing).await?;
        let link = &self.letters.link;
        let (_connection, channel) = link.channel().await?;
        for _ in 0..LOOKS {
            let queue = topology::inspect(link, &channel, &self.letters.dead_queue).await?;
            if queue.message_count() >= self.total.saturating_sub(self.removed) {
                break;
            }
            link.options.clock.sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Awaits a response of the server, with the operation timeout.
    async fn within<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, lapin::Error>>,
    ) -> Result<T, BrokerError> {
        let options = &self.letters.link.options;
        within(&*options.clock, options.operation_timeout, operation, answer).await
    }
}

#[async_trait]
impl DeadLetters for RabbitMqDeadLetters {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut list = Vec::new();
        self.read(limit, &mut |letter| list.push(letter)).await?;
        Ok(list)
    }

    async fn for_each(
        &self,
        visit: &mut (dyn FnMut(DeadLetter) + Send),
    ) -> Result<(), BrokerError> {
        self.read(usize::MAX, visit).await
    }

    async fn redrive(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError> {
        self.reporter.check_publishing()?;
        let mut visit = self.visit().await?;
        let mut count = 0;
        while let Some(letter) = visit.next().await? {
            if let Some(id) = chosen(&letter, &selection) {
                let body = letter.data.clone();
                let mut delivered = FieldTable::default();
                DeliveryHistory { delivered: true, ..DeliveryHistory::default() }
                    .write(&mut delivered);
                let outgoing = Outgoing::to_queue(&self.queue, body, &id, delivered);
                self.publisher.publish_one(outgoing).await?;
                visit.remove(&letter).await?;
                count += 1;
            }
        }
        visit.end().await?;
        Ok(count)
    }

    async fn purge(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError> {
        let mut visit = self.visit().await?;
        if selection == DeadLetterFilter::All {
            let name = short(&self.dead_queue);
            let purge = visit.channel.queue_purge(name, QueuePurgeOptions::default());
            let purged = visit.within("purge", purge).await?;
            return Ok(usize::try_from(purged).unwrap_or(usize::MAX));
        }
        let mut count = 0;
        while let Some(letter) = visit.next().await? {
            if chosen(&letter, &selection).is_some() {
                visit.remove(&letter).await?;
                count += 1;
            }
        }
        visit.end().await?;
        Ok(count)
    }

    /// Those that wait for another attempt after a pause do not count.
    async fn waiting(&self) -> Result<u64, BrokerError> {
        let (_connection, channel) = self.link.channel().await?;
        let queue = topology::inspect(&self.link, &channel, &self.queue).await;
        let queue = queue.map_err(|error| about(&self.address, error))?;
        let options = &self.link.options;
        let closing = channel.close(200, "done".into());
        within(&*options.clock, options.operation_timeout, "close a channel", closing).await?;
        Ok(queue.message_count().into())
    }
}

/// The id of a selected letter.
fn chosen(letter: &BasicGetMessage, selection: &DeadLetterFilter) -> Option<String> {
    let id = letter.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    let meant = match id.parse::<EventId>() {
        Ok(id) => selection.contains(&id),
        Err(_) => *selection == DeadLetterFilter::All,
    };
    meant.then_some(id)
}

/// Why the server gave a message up that no subscriber did.
fn reason_of_server(properties: &BasicProperties) -> String {
    match last_death(properties).as_deref() {
        None | Some("delivery_limit") => "delivery limit exceeded".to_owned(),
        Some("expired") => "expired: a policy of the server limits how long it may wait".to_owned(),
        Some("maxlen") => {
            "dropped: a policy of the server limits the length of its queue".to_owned()
        }
        Some(other) => format!("the server gave it up: {other}"),
    }
}

/// Converts a message into a dead letter. Returns `None` if it is not an event; such a message is
/// moved only when all are purged or redriven.
fn describe(letter: &BasicGetMessage, now: Timestamp) -> Option<DeadLetter> {
    let text = std::str::from_utf8(&letter.data).ok()?;
    let event = Event::from_json(text).ok()?;
    let history = DeliveryHistory::read(&letter.properties);
    let reason = history.reason.unwrap_or_else(|| reason_of_server(&letter.properties));
    let attempts = history.failures.max(1);
    Some(DeadLetter::new(event, reason, attempts, history.first_failure.unwrap_or(now)))
}
