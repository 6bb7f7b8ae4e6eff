//! The queue of a group or mailbox.
//!
//! It holds three kinds of events: ready ones in the order of their sequence, delayed ones, and
//! dead letters. All of them count in the load, which is limited by the option `max_events`. The
//! load is an atomic outside the lock, because a publisher reserves room in several queues before
//! it appends to any of them.
//!
//! **Order.** An event gets its sequence when it is appended. A released event is inserted at its
//! old place; a retried or redriven one is appended at the end.
//!
//! **Who may read.** Every consumer of a group takes a share of the ready events, so that the first
//! one to be polled does not take everything. Of a mailbox, only the consumer that subscribed first
//! takes events; when it ends, the next one takes over.
//!
//! **Waking.** A consumer that finds nothing leaves its waker. Every change that may give a
//! consumer something to do wakes all of them. Delays have no timer of their own: a consumer sleeps
//! until the earliest one is due.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    task::Waker,
    time::Duration,
};

use aios_core::broker::{Address, BrokerError, DeadLetter, DeadLetterFilter, Lifetime};
use parking_lot::{Mutex, MutexGuard};

use super::{delay::Delayed, item::Item};

/// The events of a group or mailbox.
pub(super) struct Queue {
    /// The group or the mailbox.
    pub(super) address: Address,
    /// Whether it remains without consumers.
    pub(super) lifetime: Lifetime,
    /// Number of waiting, delayed and dead events. Kept outside the state, so that a publisher can
    /// reserve capacity in several queues before it appends to any.
    load: AtomicUsize,
    /// The last lock to be taken. It is released before a waker is called.
    state: Mutex<State>,
}

/// The events and the consumers of a queue.
#[derive(Default)]
struct State {
    /// Sorted by sequence.
    ready: VecDeque<Item>,
    /// Events that wait for their next attempt.
    delayed: Delayed,
    /// Oldest first.
    dead: VecDeque<DeadLetter>,
    /// Sequence of the next appended event.
    next_sequence: u64,
    /// In the order in which they subscribed. Only the first consumer of a mailbox reads.
    consumers: VecDeque<u64>,
    /// Wakers of the consumers that found nothing, one for each consumer.
    waiting: Vec<(u64, Waker)>,
    /// Whether a temporary queue has expired.
    gone: bool,
}

/// The outcome of [`Queue::take`].
pub(super) enum TakeOutcome {
    /// At least one event.
    Events,
    /// No events. The next delayed one is due at this time. The waker is the one that was replaced.
    Nothing { until: Option<Duration>, replaced: Option<Waker> },
}

impl Queue {
    /// Creates an empty queue without consumers.
    pub(super) fn new(address: Address, lifetime: Lifetime) -> Self {
        Self { address, lifetime, load: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Reserves capacity for one event, unless `limit` is reached.
    ///
    /// Counts first and looks then, so that two publishers can't both take the last place.
    pub(super) fn reserve(&self, limit: usize) -> bool {
        let full = self.load.fetch_add(1, Ordering::Relaxed) >= limit;
        if full {
            self.release_capacity(1);
        }
        !full
    }

    /// Releases capacity.
    pub(super) fn release_capacity(&self, count: usize) {
        self.load.fetch_sub(count, Ordering::Relaxed);
    }

    /// Appends events for which capacity is reserved.
    ///
    /// A queue that has expired in the meantime drops them, like a queue that was deleted before
    /// they were published.
    pub(super) fn append(&self, items: Vec<Item>) {
        let mut state = self.state.lock();
        if !state.gone {
            state.append(items);
        }
        wake(state);
    }

    /// Returns events to their previous positions.
    ///
    /// They may exceed the limit: an event that was accepted is never refused later.
    pub(super) fn give_back(&self, items: impl IntoIterator<Item = Item>) {
        let mut state = self.state.lock();
        for item in items {
            if !state.gone {
                self.load.fetch_add(1, Ordering::Relaxed);
                state.insert(item);
            }
        }
        wake(state);
    }

    /// Delays an event until `due`; then it is appended to the queue.
    pub(super) fn delay(&self, item: Item, due: Duration) {
        let mut state = self.state.lock();
        if !state.gone {
            self.load.fetch_add(1, Ordering::Relaxed);
            state.delayed.push(due, item);
        }
        wake(state);
    }

    /// Adds a dead letter.
    pub(super) fn push_dead(&self, letter: DeadLetter) {
        let mut state = self.state.lock();
        if !state.gone {
            self.load.fetch_add(1, Ordering::Relaxed);
            state.dead.push_back(letter);
        }
    }

    /// Fails if the queue was temporary and has expired.
    pub(super) fn check_exists(&self) -> Result<(), BrokerError> {
        match self.state.lock().gone {
            true => Err(BrokerError::UnknownAddress { address: self.address.clone() }),
            false => Ok(()),
        }
    }

    /// The oldest dead letters.
    pub(super) fn dead(&self, limit: usize) -> Vec<DeadLetter> {
        self.state.lock().dead.iter().take(limit).cloned().collect()
    }

    /// How many events wait for a consumer. Delayed ones count when they are due.
    pub(super) fn waiting(&self, now: impl FnOnce() -> Duration) -> usize {
        let mut state = self.state.lock();
        state.release_due(now);
        state.ready.len()
    }

    /// Removes dead letters. With `requeue`, appends their events to the queue again.
    pub(super) fn take_dead(&self, selection: &DeadLetterFilter, requeue: bool) -> usize {
        let mut state = self.state.lock();
        let dead = std::mem::take(&mut state.dead);
        let (chosen, rest): (VecDeque<_>, VecDeque<_>) =
            dead.into_iter().partition(|letter| selection.contains(&letter.event.id));
        state.dead = rest;
        let count = chosen.len();
        if requeue {
            for DeadLetter { event, .. } in chosen {
                state.push(Item { delivered: true, ..Item::new(event) });
            }
            wake(state);
        } else {
            self.release_capacity(count);
        }
        count
    }

    /// Moves events to a consumer, or registers its waker.
    ///
    /// Takes a share of at most `room` events. The caller's clock is read only if events are
    /// delayed.
    pub(super) fn take(
        &self,
        consumer: u64,
        room: usize,
        now: impl FnOnce() -> Duration,
        waker: &Waker,
        taken: &mut VecDeque<Item>,
    ) -> TakeOutcome {
        let mut state = self.state.lock();
        let may_read = match self.address {
            Address::Mailbox(_) => state.consumers.front() == Some(&consumer),
            Address::Group(_) => true,
        };
        #[cfg(feature = "simulation")]
        let may_read = may_read || aios_core::simulation::plants("two readers of a mailbox");
        if may_read {
            state.release_due(now);
            let count = state.hand_out(room, taken);
            if count > 0 {
                self.release_capacity(count);
                return TakeOutcome::Events;
            }
        }
        let replaced = state.wait(consumer, waker);
        TakeOutcome::Nothing { until: state.delayed.earliest().filter(|_| may_read), replaced }
    }

    /// Adds a consumer behind the others.
    pub(super) fn add_consumer(&self, consumer: u64) {
        self.state.lock().consumers.push_back(consumer);
    }

    /// Removes a consumer. The next one of a mailbox takes over.
    pub(super) fn remove_consumer(&self, consumer: u64) {
        let mut state = self.state.lock();
        state.consumers.retain(|other| *other != consumer);
        wake(state);
    }

    /// Expires and empties the queue if it is temporary and has no consumers. Returns whether it
    /// did.
    pub(super) fn expire(&self) -> bool {
        let mut state = self.state.lock();
        if self.lifetime == Lifetime::Durable || !state.consumers.is_empty() {
            return false;
        }
        state.gone = true;
        state.ready.clear();
        state.delayed.clear();
        state.dead.clear();
        true
    }
}

/// Wakes all waiting consumers, because a single woken one might be dropped before it takes the
/// event.
fn wake(mut state: MutexGuard<'_, State>) {
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    waiting.into_iter().for_each(|(_, waker)| waker.wake());
}

impl State {
    /// Appends items. If the queue is empty, no item is copied.
    fn append(&mut self, mut items: Vec<Item>) {
        for item in &mut items {
            item.sequence = self.next_sequence;
            self.next_sequence += 1;
        }
        if self.ready.is_empty() {
            self.ready = items.into();
        } else {
            self.ready.extend(items);
        }
    }

    /// Appends an item as the newest one.
    fn push(&mut self, mut item: Item) {
        item.sequence = self.next_sequence;
        self.next_sequence += 1;
        self.ready.push_back(item);
    }

    /// Inserts an item at the place of its sequence.
    fn insert(&mut self, item: Item) {
        let place = self.ready.partition_point(|other| other.sequence < item.sequence);
        self.ready.insert(place, item);
    }

    /// Appends due events to the queue, so that an event that keeps failing does not block the
    /// others.
    fn release_due(&mut self, now: impl FnOnce() -> Duration) {
        if self.delayed.earliest().is_none() {
            return;
        }
        let now = now();
        while let Some(item) = self.delayed.pop_due(now) {
            self.push(item);
        }
    }

    /// Moves a consumer's share of the events. Returns how many.
    fn hand_out(&mut self, room: usize, taken: &mut VecDeque<Item>) -> usize {
        let share = self.ready.len().div_ceil(self.consumers.len().max(1)).min(room);
        if share == self.ready.len() && taken.is_empty() {
            std::mem::swap(&mut self.ready, taken);
        } else {
            taken.extend(self.ready.drain(..share));
        }
        share
    }

    /// Leaves the waker of a consumer, and returns the one that it replaces.
    fn wait(&mut self, consumer: u64, waker: &Waker) -> Option<Waker> {
        match self.waiting.iter_mut().find(|(other, _)| *other == consumer) {
            Some((_, known)) if known.will_wake(waker) => None,
            Some((_, known)) => Some(std::mem::replace(known, waker.clone())),
            None => {
                self.waiting.push((consumer, waker.clone()));
                None
            }
        }
    }
}
