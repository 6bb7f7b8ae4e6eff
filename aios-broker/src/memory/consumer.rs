//! A subscription as the queue sees it: what it has fetched, what it has delivered, and what
//! becomes of a delivery.
//!
//! Events move in one direction until they are settled:
//!
//! ```text
//! queue ── fetch ──► fetched ── poll ──► delivered ── ack ──────────► gone
//!   ▲                  │ stop              │  │  └─── retry ────────► queue, delayed
//!   └──────────────────┴───────────────────┘  └────── dead_letter ──► queue, dead letters
//!                         release, abandon
//! ```
//!
//! Events are fetched in batches, up to the prefetch, so that a queue is not locked for each of
//! them. An event that is fetched or delivered does not count in the load of its queue. It counts
//! again when it returns.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use aios_core::{
    broker::{BrokerError, DeadLetter, OnExhausted, Settlement, Subscription},
    event::{Event, Timestamp},
    retry::RetryPolicy,
};
use parking_lot::Mutex;
use slab::Slab;
use tokio::{sync::Notify, task::coop::poll_proceed};

use super::{
    exchange::Exchange,
    item::Item,
    queue::{Queue, TakeOutcome},
};

/// A subscription and its deliveries.
pub(super) struct Consumer {
    /// Identifies the consumer in its queue.
    id: u64,
    /// Where events come from and return to.
    queue: Arc<Queue>,
    /// Has the clock and the random numbers.
    exchange: Arc<Exchange>,
    /// Notified when it has stopped and has no unsettled deliveries left.
    idle: Arc<Notify>,
    /// The most deliveries without a settlement.
    prefetch: usize,
    /// Decides whether and when a failed event is delivered again.
    retry: RetryPolicy,
    /// Decides what happens to an event after its last attempt.
    on_exhausted: OnExhausted,
    /// Locked before the queue, never after it.
    hand: Mutex<Hand>,
}

/// The events that a consumer has, and its state.
#[derive(Default)]
struct Hand {
    /// Taken from the queue, not yet delivered.
    fetched: VecDeque<Item>,
    /// Delivered, not yet settled.
    delivered: Slab<Item>,
    /// Woken when there is room for another delivery.
    waker: Option<Waker>,
    /// Whether the subscription has ended.
    stopped: bool,
}

/// An event that is delivered now.
pub(super) struct Taken {
    /// The event.
    pub(super) event: Event,
    /// Number of the attempt, from 1.
    pub(super) attempt: u32,
    /// Whether a handler may have seen it before.
    pub(super) redelivered: bool,
    /// Identifies the delivery when it is settled.
    pub(super) key: usize,
}

/// There is nothing to deliver: wait to be woken, at the latest at this time.
#[derive(Default)]
pub(super) struct Wait {
    /// When the first delayed event is due; `None` if there is none.
    pub(super) until: Option<Duration>,
    /// The waker that is no longer needed. It is dropped without the locks, because it may own another
    /// subscription, whose destructor takes them.
    pub(super) _replaced: Option<Waker>,
}

impl Consumer {
    /// Makes the consumer that was added to the queue under this id.
    pub(super) fn new(
        (queue, id): (Arc<Queue>, u64),
        exchange: Arc<Exchange>,
        idle: Arc<Notify>,
        subscription: Subscription,
    ) -> Self {
        Self {
            id,
            queue,
            exchange,
            idle,
            prefetch: subscription.prefetch.into(),
            retry: subscription.retry,
            on_exhausted: subscription.on_exhausted,
            hand: Mutex::default(),
        }
    }

    /// The next delivery; `None` when consuming has ended.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Result<Option<Taken>, Wait> {
        let mut hand = self.hand.lock();
        if hand.stopped {
            return Ok(None);
        }
        if hand.fetched.is_empty() {
            self.fetch(&mut hand, context)?;
        }
        let mut item = hand.fetched.pop_front().ok_or_else(Wait::default)?;
        let event = item.event.clone();
        let attempt = item.failures.saturating_add(1);
        let redelivered = std::mem::replace(&mut item.delivered, true);
        let key = hand.delivered.insert(item);
        Ok(Some(Taken { event, attempt, redelivered, key }))
    }

    /// Takes events from the queue, or returns how to wait for some.
    fn fetch(&self, hand: &mut Hand, context: &mut Context<'_>) -> Result<(), Wait> {
        // A consumer that always finds events would otherwise keep its thread from other tasks.
        let Poll::Ready(budget) = poll_proceed(context) else { return Err(Wait::default()) };
        let room = self.prefetch.saturating_sub(hand.delivered.len());
        if room == 0 {
            let replaced = hand.waker.replace(context.waker().clone());
            return Err(Wait { until: None, _replaced: replaced });
        }
        match self.queue.take(self.id, room, || self.elapsed(), context.waker(), &mut hand.fetched)
        {
            TakeOutcome::Events => {
                budget.made_progress();
                Ok(())
            }
            TakeOutcome::Nothing { until, replaced } => Err(Wait { until, _replaced: replaced }),
        }
    }

    /// Settles the delivery with this key.
    pub(super) fn settle(&self, key: usize, settlement: Settlement) -> Result<(), BrokerError> {
        let mut hand = self.hand.lock();
        let Some(item) = hand.delivered.try_remove(key) else { return Err(BrokerError::Closed) };
        match settlement {
            Settlement::Ack => drop(item),
            Settlement::Release => self.queue.give_back([item]),
            Settlement::Retry { after, reason } => {
                match self.retry.delay_after(item.failures.saturating_add(1), self.jitter()) {
                    Some(delay) => self.delay(item, after.unwrap_or(delay)),
                    None => self.give_up(item, reason),
                }
            }
            Settlement::DeadLetter { reason } => self.give_up(item, reason),
        }
        if hand.stopped && hand.delivered.is_empty() {
            self.idle.notify_waiters();
        }
        // There is room for another delivery now.
        let waker = hand.waker.take();
        drop(hand);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Counts a failed attempt, and returns the event to the queue with a delay.
    fn delay(&self, mut item: Item, delay: Duration) {
        item.failures = item.failures.saturating_add(1);
        item.first_failure.get_or_insert_with(|| self.now());
        self.queue.delay(item, self.elapsed().saturating_add(delay));
    }

    /// Discards an event, or makes it a dead letter, as the subscription says.
    fn give_up(&self, item: Item, reason: String) {
        if self.on_exhausted == OnExhausted::Discard {
            return;
        }
        let first_failure = item.first_failure.unwrap_or_else(|| self.now());
        let attempts = item.failures.saturating_add(1);
        self.queue.push_dead(DeadLetter::new(item.event, reason, attempts, first_failure));
        metrics::counter!("aios_dead_letters_total").increment(1);
    }

    /// Ends the stream and returns undelivered events to the queue.
    pub(super) fn stop(&self) {
        let mut hand = self.hand.lock();
        if hand.stopped {
            return;
        }
        hand.stopped = true;
        self.queue.give_back(hand.fetched.drain(..));
        let waker = hand.waker.take();
        drop(hand);
        self.exchange.remove_consumer(&self.queue, self.id);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns unsettled deliveries to the queue.
    pub(super) fn abandon(&self) {
        let mut hand = self.hand.lock();
        let delivered = std::mem::take(&mut hand.delivered);
        self.queue.give_back(delivered.into_iter().map(|(_, item)| item));
    }

    /// Whether every delivery is settled.
    pub(super) fn is_idle(&self) -> bool {
        self.hand.lock().delivered.is_empty()
    }

    /// Sleeps until a moment of the monotonic time of the broker's clock.
    pub(super) fn sleep_until(&self, deadline: Duration) -> aios_core::BoxFuture<'static, ()> {
        self.exchange.options.clock.sleep(deadline.saturating_sub(self.elapsed()))
    }

    /// The monotonic time of the broker's clock, by which delays end.
    fn elapsed(&self) -> Duration {
        self.exchange.options.clock.elapsed()
    }

    /// The time of the broker's clock.
    fn now(&self) -> Timestamp {
        self.exchange.options.clock.now()
    }

    /// A random number from 0 to 1.
    fn jitter(&self) -> f64 {
        self.exchange.rng.next()
    }
}
