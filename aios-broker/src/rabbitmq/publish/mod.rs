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
use super::{connection::Link, headers::add_key, topology};

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
    /// An event may need two messages; see `encode`. Both are sent together, and its answer is `Ok`
    /// only if both are confirmed.
    pub(super) async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let mut copies = Vec::new();
        let mut encoded = Vec::with_capacity(batch.len());
        for (index, publish) in batch.into_iter().enumerate() {
            let (first, copy) = self.encode(publish);
            copies.extend(copy.map(|copy| (index, copy)));
            encoded.push(first);
        }
        let count = encoded.len();
        let (indexes, copies): (Vec<usize>, Vec<Outgoing>) = copies.into_iter().unzip();
        encoded.extend(copies.into_iter().map(Ok));
        let mut answers = self.send(encoded).await;
        let of_copies = answers.split_off(count.min(answers.len()));
        for (index, answer) in indexes.into_iter().zip(of_copies) {
            if let (Some(first @ Ok(())), Err(error)) = (answers.get_mut(index), answer) {
                *first = Err(error);
            }
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

    /// Builds the messages of an event. An event that requires its mailbox is sent to the mailbox
    /// alone, with a copy to the groups, because the server only reports that no queue received a
    /// message, not that one of several did not.
    fn encode(&self, publish: Publish) -> (Result<Outgoing, BrokerError>, Option<Outgoing>) {
        let Publish { event, to, require_route } = publish;
        let body = match self.body(&event) {
            Ok(body) => body,
            Err(error) => return (Err(error), None),
        };
        let outgoing = |routing_key, body, headers, require_route| Outgoing {
            exchange: topology::exchange(&self.link.options.prefix),
            routing_key,
            body,
            properties: properties(&event.id.to_string(), headers),
            event_type: None,
            require_route,
        };
        let group_key = event.event_type.as_str().to_owned();
        let mut headers = FieldTable::default();
        match to.as_ref().map(topology::mailbox_key) {
            Some(key) if require_route => {
                let copy = outgoing(group_key.clone(), body.clone(), headers.clone(), false);
                let event_type = Some(group_key);
                let addressed = Outgoing { event_type, ..outgoing(key, body, headers, true) };
                return (Ok(addressed), Some(copy));
            }
            Some(key) => add_key(&mut headers, key),
            None => {}
        }
        (Ok(outgoing(group_key, body, headers, require_route)), None)
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

/// The answer for events that were not confirmed in time. Whether the server has them is unknown.
fn timeout(after: Duration) -> BrokerError {
    BrokerError::Timeout { operation: "confirm the event", after }
}
