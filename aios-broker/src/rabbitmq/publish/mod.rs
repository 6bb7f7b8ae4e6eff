//! The front of publishing: encodes events, waits for room in the window, and waits for the
//! answers.
//!
//! ```text
//! publish ──► encode ──► window (semaphore) ──► jobs ──► ConfirmTask ──► server
//!    ▲                                                       │
//!    └────────────── Answers, or the publish timeout ◄───────┘
//! ```
//!
//! The window limits the unconfirmed events of all callers. A call with many events is cut into
//! jobs of a quarter of the window at most, so that it does not keep others waiting until its last
//! event is confirmed.

mod confirm;
mod outgoing;
mod refusal;

use std::{sync::Arc, time::Duration};

use aios_core::{
    Cause,
    broker::{BrokerError, Publish},
    event::Event,
};
use futures_util::future::{Either, select};
use lapin::types::FieldTable;
use tokio::sync::{Semaphore, mpsc, watch};

use self::{
    confirm::ConfirmTask,
    outgoing::{Answers, Job, SizeLimit, properties},
};
use super::{connection::Link, topology};
use crate::missed;

pub(crate) use self::outgoing::Outgoing;

/// Publishes with confirms, many at a time.
#[derive(Debug)]
pub(super) struct Publisher {
    /// The publishing connection.
    link: Arc<Link>,
    /// One permit for each event that may be unconfirmed.
    window: Arc<Semaphore>,
    /// To the task that owns the channel.
    jobs: mpsc::Sender<Job>,
    /// The server's limit, once it is known.
    size_limit: Arc<SizeLimit>,
    /// How often the channel was closed.
    closures: watch::Receiver<u64>,
}

impl Publisher {
    /// Starts the task of the publishing channel. It ends when this is dropped.
    pub(super) fn start(link: Arc<Link>) -> Self {
        let window = link.options.confirm_window.min(Semaphore::MAX_PERMITS);
        let (jobs, receiver) = mpsc::channel(window);
        let size_limit = Arc::new(SizeLimit::unknown());
        let task = ConfirmTask::new(Arc::clone(&link), receiver, Arc::clone(&size_limit));
        let closures = task.closures();
        tokio::spawn(task.run());
        Self { link, window: Arc::new(Semaphore::new(window)), jobs, size_limit, closures }
    }

    /// How often the server has closed the publishing channel, but not its connection. It does so
    /// when the exchange was deleted.
    pub(super) fn closures(&self) -> watch::Receiver<u64> {
        self.closures.clone()
    }

    /// Publishes the events of a caller.
    ///
    /// An event with a mailbox is sent as two messages; see `encode`. Its answer is `Ok` only if both
    /// are confirmed, unless the mailbox is required: then its confirmation decides.
    pub(super) async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let mut addressed = Vec::new();
        let mut encoded = Vec::with_capacity(batch.len());
        for (index, publish) in batch.into_iter().enumerate() {
            let Publish { event, require_route, .. } = &publish;
            let required = require_route.then(|| (event.event_type.clone(), event.id.clone()));
            encoded.push(self.encode(publish).map(|(to_groups, to_mailbox)| {
                addressed.extend(to_mailbox.map(|outgoing| ((index, required), outgoing)));
                to_groups
            }));
        }
        let count = encoded.len();
        let (named, addressed): (Vec<_>, Vec<Outgoing>) = addressed.into_iter().unzip();
        encoded.extend(addressed.into_iter().map(Ok));
        let mut answers = self.send(encoded).await;
        let of_mailboxes = answers.split_off(count.min(answers.len()));
        for ((index, required), of_mailbox) in named.into_iter().zip(of_mailboxes) {
            let Some(answer) = answers.get_mut(index) else { continue };
            let of_groups = std::mem::replace(answer, Ok(()));
            *answer = match (required, &of_mailbox) {
                (Some((event_type, id)), Ok(())) => {
                    let _ = of_groups.inspect_err(|error| missed::report(&event_type, &id, error));
                    of_mailbox
                }
                (Some(_), Err(_)) => of_mailbox,
                (None, _) => joint(of_groups, of_mailbox),
            };
        }
        answers
    }

    /// Publishes one encoded event.
    pub(super) async fn publish_one(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        self.send(vec![Ok(outgoing)]).await.pop().unwrap_or(Err(BrokerError::Uncertain))
    }

    /// Sends encoded events and waits for their answers, at most for the publish timeout. Events
    /// that could not be encoded have their answer already.
    async fn send(
        &self,
        encoded: Vec<Result<Outgoing, BrokerError>>,
    ) -> Vec<Result<(), BrokerError>> {
        let answers = Arc::new(Answers::new(encoded.len()));
        let mut items = Vec::with_capacity(encoded.len());
        for (index, outgoing) in encoded.into_iter().enumerate() {
            match outgoing {
                Ok(outgoing) => items.push((index, outgoing)),
                Err(error) => answers.set(index, Err(error)),
            }
        }
        let sending = async {
            self.enqueue(items, &answers).await?;
            answers.completed().await;
            Ok(())
        };
        let after = self.link.options.publish_timeout;
        let expired = self.link.options.clock.sleep(after);
        let rest = match select(std::pin::pin!(sending), expired).await {
            Either::Left((Ok(()), _)) => BrokerError::Uncertain,
            Either::Left((Err(error), _)) => error,
            Either::Right(_) => timeout(after),
        };
        answers.finish(&rest)
    }

    /// Passes on events in chunks that fit into the window.
    async fn enqueue(
        &self,
        mut items: Vec<(usize, Outgoing)>,
        answers: &Arc<Answers>,
    ) -> Result<(), BrokerError> {
        let most = self.link.options.confirm_window.div_ceil(4).min(u32::MAX as usize);
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(most));
            let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
            let permits = Arc::clone(&self.window).acquire_many_owned(count).await;
            let permits = permits.map_err(|_| BrokerError::Closed)?;
            let job = Job { items, permits, answers: Arc::clone(answers) };
            self.jobs.send(job).await.map_err(|_| BrokerError::Closed)?;
            items = rest;
        }
        Ok(())
    }

    /// Builds the messages of an event: one for the groups and, if it has a mailbox, one for its
    /// queue alone. The server only reports that no queue received a message, not that one of several
    /// did not. No pattern of a group can match the second one, because it goes through another
    /// exchange.
    fn encode(&self, publish: Publish) -> Result<(Outgoing, Option<Outgoing>), BrokerError> {
        let Publish { event, to, require_route } = publish;
        let body = self.body(&event)?;
        let prefix = &self.link.options.prefix;
        let id = event.id.to_string();
        let to_mailbox = to.map(|mailbox| {
            let queue = topology::queue(prefix, &mailbox.into());
            let event_type = Some(event.event_type.to_string());
            let outgoing = Outgoing::to_queue(&queue, body.clone(), &id, FieldTable::default());
            Outgoing { event_type, require_route, ..outgoing }
        });
        let to_groups = Outgoing {
            exchange: topology::exchange(prefix),
            routing_key: event.event_type.to_string(),
            body,
            properties: properties(&id, FieldTable::default()),
            event_type: None,
            require_route: require_route && to_mailbox.is_none(),
        };
        Ok((to_groups, to_mailbox))
    }

    /// Encodes an event, and checks its size against the option and against the limit of the
    /// server, if it is known.
    fn body(&self, event: &Event) -> Result<Vec<u8>, BrokerError> {
        let body = event.to_json().map_err(|source| BrokerError::Backend {
            backend: "RabbitMQ",
            operation: "encode an event",
            retryable: false,
            source: Cause::new(source),
        })?;
        let limit = self.link.options.max_event_bytes.min(self.size_limit.bytes());
        let bytes = body.len();
        match bytes > limit {
            true => Err(BrokerError::TooLarge { bytes, limit }),
            false => Ok(body.into_bytes()),
        }
    }
}

/// The answer for an event that was sent as two messages. An error that would come again if the event
/// was published again takes precedence.
fn joint(
    of_groups: Result<(), BrokerError>,
    of_mailbox: Result<(), BrokerError>,
) -> Result<(), BrokerError> {
    match (of_groups, of_mailbox) {
        (Ok(()), of_mailbox) => of_mailbox,
        (Err(error), Err(lasting)) if error.is_retryable() && !lasting.is_retryable() => {
            Err(lasting)
        }
        (of_groups, _) => of_groups,
    }
}

/// The answer for events that were not confirmed in time. Whether the server has them is unknown.
fn timeout(after: Duration) -> BrokerError {
    BrokerError::Timeout { operation: "confirm the event", after }
}
