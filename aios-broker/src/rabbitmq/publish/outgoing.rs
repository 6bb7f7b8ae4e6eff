//! Events on their way to the server, and the answers on their way back.
//!
//! A call of `publish` has one `Answers` and one or more jobs. The task of the publishing channel
//! sets each answer once; the caller awaits the last one, or gives up. After that, late answers are
//! ignored.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_core::broker::BrokerError;
use lapin::{BasicProperties, types::FieldTable};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::rabbitmq::headers::short;

/// Persistent delivery (AMQP 0-9-1, basic properties).
const PERSISTENT: u8 = 2;

/// An event on its way to the server.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Empty for the default exchange, which routes by the name of a queue.
    pub(crate) exchange: String,
    /// Type of the event, or name of a queue.
    pub(super) routing_key: String,
    /// The envelope as JSON.
    pub(crate) body: Vec<u8>,
    /// Content type, persistence, id and headers.
    pub(crate) properties: BasicProperties,
    /// Type of the event, if it differs from the routing key.
    pub(crate) event_type: Option<String>,
    /// Whether it is an error if no queue receives the event.
    pub(crate) require_route: bool,
}

impl Outgoing {
    /// An event for the queue with this name.
    pub(crate) fn to_queue(queue: &str, body: Vec<u8>, id: &str, headers: FieldTable) -> Self {
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
    /// The events, each with its place in the answers.
    pub(crate) items: Vec<(usize, Outgoing)>,
    /// Room in the window, one permit for each event.
    pub(super) permits: OwnedSemaphorePermit,
    /// Where the answers go.
    pub(crate) answers: Arc<Answers>,
}

/// The server's size limit of events, if it is known.
#[derive(Debug)]
pub(super) struct SizeLimit(AtomicUsize);

impl SizeLimit {
    /// No limit is known.
    pub(crate) fn unknown() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }

    /// The limit; `usize::MAX` if it is unknown.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Records the limit that the server has named.
    pub(super) fn learn(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Forgets the limit, because another server may have a larger one.
    pub(crate) fn forget(&self) {
        self.learn(usize::MAX);
    }
}

impl Job {
    /// Answers every event of the job with the same error.
    pub(crate) fn answer(self, error: &BrokerError) {
        for (index, _) in self.items {
            self.answers.set(index, Err(error.clone()));
        }
    }
}

/// The answers of one call, as they arrive.
#[derive(Debug)]
pub(super) struct Answers {
    /// One answer per event.
    list: Mutex<Vec<Option<Result<(), BrokerError>>>>,
    /// How many are missing; 0 also after the caller has given up.
    missing: AtomicUsize,
    /// Notified with the last answer. Keeps a permit, so the caller may come later.
    complete: Notify,
}

impl Answers {
    /// No answer yet, for this many events.
    pub(crate) fn new(count: usize) -> Self {
        let list = Mutex::new(vec![None; count]);
        Self { list, missing: AtomicUsize::new(count), complete: Notify::new() }
    }

    /// Sets an answer. The first one counts.
    pub(crate) fn set(&self, index: usize, answer: Result<(), BrokerError>) {
        let mut list = self.list.lock();
        if let Some(slot @ None) = list.get_mut(index) {
            *slot = Some(answer);
            if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.complete.notify_one();
            }
        }
    }

    /// Answers all unanswered events. Later answers are ignored.
    pub(crate) fn finish(&self, rest: &BrokerError) -> Vec<Result<(), BrokerError>> {
        let mut list = self.list.lock();
        self.missing.store(0, Ordering::Release);
        list.iter_mut().map(|slot| slot.get_or_insert_with(|| Err(rest.clone())).clone()).collect()
    }

    /// Whether a publisher still waits for them.
    pub(super) fn are_awaited(&self) -> bool {
        self.missing.load(Ordering::Acquire) > 0
    }

    /// Completes with the last answer.
    pub(super) async fn completed(&self) {
        while self.are_awaited() {
            self.complete.notified().await;
        }
    }
}

/// The properties of a message. It survives a restart of the server.
pub(crate) fn properties(id: &str, headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short(id))
        .with_headers(headers)
}
