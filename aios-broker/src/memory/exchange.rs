//! The exchange: which queues there are, and which of them take an event.
//!
//! A type of event resolves to a fixed list of queues until the bindings change. The list is cached
//! by type, so that publishing usually takes a read lock and clones an `Arc`. Any change of the
//! bindings clears the cache.
//!
//! Group queues stay for as long as the exchange. A temporary queue is removed with its last
//! consumer, in one critical section with the check that it has none: a subscription that arrives
//! at the same time either finds the queue with its consumer or makes a new one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aios_core::{
    broker::{Address, BrokerError, Lifetime, Mailbox, Subscription},
    event::{EventType, Pattern},
};
use parking_lot::RwLock;

use super::{MemoryOptions, queue::Queue};
use crate::rng::SplitMix64;

/// Maximum number of event types whose routes are cached.
const MAX_ROUTES: usize = 10_000;

/// The queues that an event goes to.
pub(super) type Routes = Arc<[Arc<Queue>]>;

/// The state that all connections to one broker share.
pub(super) struct Exchange {
    /// The options of the first connection.
    pub(super) options: MemoryOptions,
    /// Jitter of all delays.
    pub(super) rng: SplitMix64,
    /// Ids of consumers. Never used again.
    next_consumer: AtomicU64,
    /// Locked for writing to add or remove queues, and to find the groups of an event type for the
    /// first time. Otherwise publishers do not wait for each other.
    topology: RwLock<Topology>,
}

/// The queues and how events find them.
#[derive(Default)]
struct Topology {
    /// All queues.
    queues: HashMap<Address, Arc<Queue>>,
    /// Those of mailboxes, so that publishing need not build an address.
    mailboxes: HashMap<Mailbox, Arc<Queue>>,
    /// The patterns of groups, each once per queue.
    bindings: Vec<(Pattern, Arc<Queue>)>,
    /// Answers of `bindings`, forgotten whenever they change.
    routes: HashMap<EventType, Routes>,
}

impl Exchange {
    /// Creates an exchange without queues.
    pub(super) fn new(options: MemoryOptions) -> Self {
        let rng = SplitMix64::new(options.seed);
        Self { options, rng, next_consumer: AtomicU64::new(0), topology: RwLock::default() }
    }

    /// The groups that receive events of this type.
    pub(super) fn routes(&self, event_type: &EventType) -> Routes {
        if let Some(routes) = self.topology.read().routes.get(event_type) {
            return Arc::clone(routes);
        }
        self.topology.write().resolve(event_type)
    }

    /// The queue of a mailbox, if it was ever read.
    pub(super) fn mailbox(&self, mailbox: &Mailbox) -> Option<Arc<Queue>> {
        self.topology.read().mailboxes.get(mailbox).cloned()
    }

    /// The queue of a group or mailbox.
    pub(super) fn queue(&self, address: &Address) -> Result<Arc<Queue>, BrokerError> {
        let unknown = || BrokerError::UnknownAddress { address: address.clone() };
        self.topology.read().queues.get(address).cloned().ok_or_else(unknown)
    }

    /// Declares the queue of a subscription and adds its consumer.
    pub(super) fn add_consumer(
        &self,
        subscription: &Subscription,
    ) -> Result<(Arc<Queue>, u64), BrokerError> {
        let mut topology = self.topology.write();
        let queue = topology.declare(&subscription.address, subscription.lifetime)?;
        topology.bind(&queue, &subscription.patterns);
        let consumer = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        queue.add_consumer(consumer);
        Ok((queue, consumer))
    }

    /// Removes a consumer. A temporary queue is deleted with its last one.
    pub(super) fn remove_consumer(&self, queue: &Queue, consumer: u64) {
        queue.remove_consumer(consumer);
        if queue.lifetime == Lifetime::Temporary {
            self.topology.write().expire(queue);
        }
    }
}

impl Topology {
    /// Finds the queues that take a type, each once, and caches them.
    fn resolve(&mut self, event_type: &EventType) -> Routes {
        let mut found: Vec<Arc<Queue>> = Vec::new();
        for (pattern, queue) in &self.bindings {
            let known = found.iter().any(|other| Arc::ptr_eq(other, queue));
            if !known && pattern.matches(event_type) {
                found.push(Arc::clone(queue));
            }
        }
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        let routes = Routes::from(found);
        self.routes.insert(event_type.clone(), Arc::clone(&routes));
        routes
    }

    /// Returns the queue of an address, and creates it if there is none.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Incompatible`] if the queue exists with the other lifetime.
    fn declare(
        &mut self,
        address: &Address,
        lifetime: Lifetime,
    ) -> Result<Arc<Queue>, BrokerError> {
        if let Some(queue) = self.queues.get(address) {
            if queue.lifetime == lifetime {
                return Ok(Arc::clone(queue));
            }
            return Err(BrokerError::Incompatible {
                address: address.clone(),
                difference: format!("it is {:?}, asked for was {lifetime:?}", queue.lifetime),
            });
        }
        let queue = Arc::new(Queue::new(address.clone(), lifetime));
        self.queues.insert(address.clone(), Arc::clone(&queue));
        if let Address::Mailbox(mailbox) = address {
            self.mailboxes.insert(mailbox.clone(), Arc::clone(&queue));
        }
        Ok(queue)
    }

    /// Adds the patterns that the queue does not have yet. Patterns are never removed: another
    /// consumer of the group may rely on them.
    fn bind(&mut self, queue: &Arc<Queue>, patterns: &[Pattern]) {
        for pattern in patterns {
            let known = self
                .bindings
                .iter()
                .any(|(other, bound)| other == pattern && Arc::ptr_eq(bound, queue));
            if !known {
                self.bindings.push((pattern.clone(), Arc::clone(queue)));
                self.routes.clear();
            }
        }
    }

    /// Removes a temporary queue without consumers; one may have subscribed in the meantime.
    fn expire(&mut self, queue: &Queue) {
        if !queue.expire() {
            return;
        }
        let gone = |other: &Arc<Queue>| std::ptr::eq(Arc::as_ptr(other), queue);
        self.queues.retain(|_, other| !gone(other));
        self.mailboxes.retain(|_, other| !gone(other));
        self.bindings.retain(|(_, other)| !gone(other));
        self.routes.clear();
    }
}
