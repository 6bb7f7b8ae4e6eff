use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_core::{
    broker::{BrokerError, Publish},
    event::Event,
};
use futures_util::future::{Either, select};
use lapin::{BasicProperties, types::FieldTable};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{
    confirm::ConfirmTask,
    headers::{add_key, short},
    link::Link,
    topology,
};

/// Persistent delivery (AMQP 0-9-1, basic properties).
const PERSISTENT: u8 = 2;

/// An event on its way to the server.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
    /// Type of the event, if it differs from the routing key.
    pub(super) event_type: Option<String>,
    /// Whether it is an error if no queue receives the event.
    pub(super) require_route: bool,
}

impl Outgoing {
    /// An event for the queue with this name.
    pub(super) fn to_queue(queue: &str, body: Vec<u8>, id: &str, headers: FieldTable) -> Self {
        Self {
            exchange: String::new(),
            routing_key: queue.to_owned(),
            body,
            properties: properties(id, headers),
            event_type: None,
            require_route: true,
        }
    }
}

/// Events of one call that share one room in the window, and their answers.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) items: Vec<(usize, Outgoing)>,
    pub(super) permits: OwnedSemaphorePermit,
    pub(super) answers: Arc<Answers>,
}

/// The server's size limit of events, if it is known.
#[derive(Debug)]
pub(super) struct SizeLimit(AtomicUsize);

impl SizeLimit {
    fn unknown() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn learn(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Forgets the limit, because another server may have a larger one.
    pub(super) fn forget(&self) {
        self.learn(usize::MAX);
    }
}

impl Job {
    /// Answers every event of the job with the same error.
    pub(super) fn answer(self, error: &BrokerError) {
        for (index, _) in self.items {
            self.answers.set(index, Err(error.clone()));
        }
    }
}

/// The answers of one call, as they arrive.
#[derive(Debug)]
pub(super) struct Answers {
    list: Mutex<Vec<Option<Result<(), BrokerError>>>>,
    missing: AtomicUsize,
    complete: Notify,
}

impl Answers {
    fn new(count: usize) -> Self {
        let list = Mutex::new(vec![None; count]);
        Self { list, missing: AtomicUsize::new(count), complete: Notify::new() }
    }

    pub(super) fn set(&self, index: usize, answer: Result<(), BrokerError>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot @ None) = list.get_mut(index) {
            *slot = Some(answer);
            if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.complete.notify_one();
            }
        }
    }

    /// Answers all unanswered events. Later answers are ignored.
    fn finish(&self, rest: &BrokerError) -> Vec<Result<(), BrokerError>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        self.missing.store(0, Ordering::Release);
        list.iter_mut().map(|slot| slot.get_or_insert_with(|| Err(rest.clone())).clone()).collect()
    }

    /// Whether a publisher still waits for them.
    pub(super) fn are_awaited(&self) -> bool {
        self.missing.load(Ordering::Acquire) > 0
    }

    async fn completed(&self) {
        while self.are_awaited() {
            self.complete.notified().await;
        }
    }
}

/// Publishes with confirms, many at a time.
#[derive(Debug)]
pub(super) struct Publisher {
    link: Arc<Link>,
    window: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    size_limit: Arc<SizeLimit>,
    closures: watch::Receiver<u64>,
}

impl Publisher {
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

    fn body(&self, event: &Event) -> Result<Vec<u8>, BrokerError> {
        let body = event.to_json().map_err(|source| BrokerError::Backend {
            backend: "RabbitMQ",
            operation: "encode an event",
            retryable: false,
            source: Arc::new(source),
        })?;
        let limit = self.link.options.max_event_bytes.min(self.size_limit.bytes());
        let bytes = body.len();
        match bytes > limit {
            true => Err(BrokerError::TooLarge { bytes, limit }),
            false => Ok(body.into_bytes()),
        }
    }
}

fn properties(id: &str, headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short(id))
        .with_headers(headers)
}

fn timeout(after: Duration) -> BrokerError {
    BrokerError::Timeout { operation: "confirm the event", after }
}
