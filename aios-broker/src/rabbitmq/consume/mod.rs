//! The task of a subscription.
//!
//! ```text
//!             ┌──────────────── reopen, with pauses ◄──────────────┐
//!             ▼                                                    │
//! Session ──► forward ── the channel or connection died ── Lost ───┤ the server delivers again
//!                ├────── the server ended the consumer ─ Cancelled ┤ after unread deliveries are returned
//!                ├────── silent although events wait ──── Silent ──┘ the same
//!                └────── dropped, or the broker closes ── Unwanted ──► finish ──► end
//! ```
//!
//! The task moves deliveries from the channel into the inbox, from which the subscription's stream
//! takes them. It never waits for the reader: the server sends at most the prefetch, so the inbox
//! is bounded by it.
//!
//! **A session that died.** The server gives the deliveries of a dead channel to the next consumer.
//! Arrivals that the reader has not taken are dropped; those that it has can't be acknowledged
//! any more and will be redelivered.
//!
//! **A consumer that the server has cancelled.** Its queue was deleted, or a delivery was held for too long.
//! The channel stays open, so its deliveries can still be settled, and the server does not take them back.
//! Arrivals that the reader has not taken are returned. A task of its own keeps the channel until the last
//! delivery of the reader is settled, and closing the broker waits for it. The same is done with a consumer
//! that is silent.
//!
//! **A consumer that is silent.** A consumer can stop receiving although its channel is open and
//! its queue has events. The watchdog asks for the state of the queue when nothing was delivered
//! for one interval; if events wait at two checks in a row, the consumer is replaced. Deliveries are passed
//! on while a check waits for the server.
//!
//! **A reader that waits for another one.** Only the active reader of a mailbox receives events, and AMQP
//! does not say which one that is: the count of consumers of a quorum queue has no others, and may be of
//! any of them. A reader that found another one, and has received nothing, is replaced too, because it may
//! have become the active one and be silent. But that is not reported. If it waits, it waits as the last one
//! after that.
//!
//! **The end.** The consumer is cancelled first, then the unread deliveries are returned, then the
//! task waits for the last settlement and closes the channel. Closing the broker waits for this
//! task.

mod inbox;
mod session;
mod settle;
mod subscribe;
mod watchdog;

use std::{pin::pin, sync::Arc};

use aios_core::{
    Chain,
    broker::{Acknowledger, BrokerError, Lifetime, Settlement, Subscription},
    event::Event,
};
use futures_core::Stream;
use futures_util::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
};
use lapin::{Consumer, message::Delivery};
use metrics::counter;
use tokio::sync::watch;

use self::{
    inbox::Arrival,
    settle::{RawDelivery, UnsettledDelivery},
    watchdog::{DeliveryWatchdog, QueueState, check, queue_state, restore_bindings},
};
use super::{error::warn, topology};

pub(crate) use self::{
    inbox::Inbox, session::Session, settle::SettlementContext, subscribe::Subscribed,
};

/// Maximum number of deliveries that are passed on at once.
const CHUNK: usize = 256;

/// The task of one subscription: keeps it consuming across channel and connection failures.
pub(super) struct ConsumeTask {
    /// The subscription, and what its settlements need.
    pub(super) context: Arc<SettlementContext>,
    /// Shared with the stream.
    pub(super) inbox: Arc<Inbox>,
    /// `true` when consuming must end.
    pub(super) draining: watch::Receiver<bool>,
    /// Kept until everything is settled. Closing the broker waits until all of them are dropped.
    pub(super) alive: watch::Receiver<()>,
}

/// Why a session ended.
enum End {
    /// The channel or connection died.
    Lost,
    /// The server has ended the consumer, but its channel is open.
    Cancelled { consumer: Consumer },
    /// The consumer receives nothing although events are waiting, or waits for another reader.
    Silent { consumer: Consumer, may_wait: bool },
    /// The subscription was dropped or the broker is closing.
    Unwanted,
}

impl ConsumeTask {
    /// Runs until the subscription is dropped, the broker closes, or an error is permanent.
    pub(super) async fn run(self, first: (Arc<Session>, Consumer)) {
        let mut next = Some(first);
        while let Some((session, consumer)) = next {
            match self.forward(&session, consumer).await {
                End::Lost => {
                    drop(self.inbox.take());
                    count_replaced("lost");
                    next = self.reopen().await;
                }
                End::Cancelled { consumer } => {
                    count_replaced("cancelled");
                    (next, _) = self.replace(session, consumer).await;
                }
                End::Silent { consumer, may_wait } => {
                    let requeued;
                    (next, requeued) = self.replace(session, consumer).await;
                    if requeued.is_err() || !may_wait {
                        self.report_silent();
                    }
                }
                End::Unwanted => return finish(&session).await,
            }
        }
    }

    /// Opens a new session, and returns the unread deliveries of the old one. Also returns whether they
    /// were returned.
    ///
    /// The server would delete a temporary queue with its last consumer, so the new one begins first there.
    async fn replace(
        &self,
        session: Arc<Session>,
        consumer: Consumer,
    ) -> (Option<(Arc<Session>, Consumer)>, Result<(), BrokerError>) {
        let unread = self.inbox.take();
        match self.context.subscription.lifetime {
            Lifetime::Durable => {
                let requeued = self.retire(session, consumer, unread).await;
                (self.reopen().await, requeued)
            }
            Lifetime::Temporary => {
                let next = self.reopen().await;
                (next, self.retire(session, consumer, unread).await)
            }
        }
    }

    /// Ends a consumer and requeues its unread deliveries. Its channel is closed when the others are
    /// settled.
    async fn retire(
        &self,
        session: Arc<Session>,
        consumer: Consumer,
        unread: Vec<Arrival>,
    ) -> Result<(), BrokerError> {
        let requeued = self.requeue(&session, consumer, unread).await;
        if requeued.is_ok() {
            let alive = self.alive.clone();
            tokio::spawn(async move {
                finish(&session).await;
                drop(alive);
            });
        } else if session.is_alive() {
            // The server requeues the deliveries of a stuck channel only when its connection ends.
            self.context.link.replace(&session.connection);
        }
        requeued
    }

    /// Logs and counts a consumer that is replaced because it was silent.
    fn report_silent(&self) {
        tracing::warn!(
            address = %self.context.subscription.address,
            "a consumer received nothing although events are waiting; replacing it"
        );
        count_replaced("silent");
    }

    /// Moves deliveries to the inbox until the session ends.
    async fn forward(&self, session: &Arc<Session>, mut consumer: Consumer) -> End {
        let link = Arc::clone(&self.context.link);
        let mut lost = pin!(link.lost(&session.connection));
        let mut draining = self.draining.clone();
        let mut closures = self.context.publisher.closures();
        let mut watchdog = DeliveryWatchdog::new(session);
        let mut arrivals = Vec::new();
        let pause = || link.options.clock.sleep(link.options.watchdog);
        let mut next_check = pause();
        let mut request = Fuse::terminated();
        loop {
            tokio::select! {
                () = &mut lost => return End::Lost,
                () = self.inbox.dropped() => break,
                () = begun(&mut draining) => break,
                Ok(()) = closures.changed(), if request.is_terminated() => {
                    request = restore_bindings(&self.context).map(|()| None).boxed().fuse();
                }
                () = &mut next_check, if request.is_terminated() => {
                    let begun = watchdog.begin(self, session);
                    request = check(&self.context, begun).map(Some).boxed().fuse();
                }
                checked = &mut request => if let Some(state) = checked {
                    if watchdog.is_silent(state) {
                        return End::Silent { consumer, may_wait: watchdog.may_wait };
                    }
                    next_check = pause();
                },
                delivery = consumer.next() => {
                    let Some(Ok(delivery)) = delivery else { return ended(session, consumer) };
                    watchdog.delivered();
                    self.arrived(session, delivery, &mut arrivals);
                    // The reader is woken once for all that are ready.
                    let arrive = |delivery| self.arrived(session, delivery, &mut arrivals);
                    let has_ended = take_ready(&mut consumer, CHUNK, arrive);
                    self.inbox.push(&mut arrivals);
                    if has_ended {
                        return ended(session, consumer);
                    }
                }
            }
        }
        self.cancel(session, consumer).await
    }

    /// Decodes a delivery. One that is not due yet is held again.
    fn arrived(&self, session: &Arc<Session>, delivery: Delivery, arrivals: &mut Vec<Arrival>) {
        let raw = RawDelivery::new(delivery);
        if self.context.due_later(&raw.history).is_some() {
            let failed = "failed to hold an event that is not due yet; it will be redelivered";
            return self.settle(session, raw, Settlement::Release, failed);
        }
        let event = std::str::from_utf8(&raw.body)
            .map_err(|error| error.to_string())
            .and_then(|text| Event::from_json(text).map_err(|error| reason(&error)));
        match event {
            Ok(event) => arrivals.push(Arrival { event, session: Arc::clone(session), raw }),
            // It would be redelivered indefinitely otherwise.
            Err(reason) => {
                let failed =
                    "failed to dead-letter a message that is not an event; it will be redelivered";
                self.settle(session, raw, Settlement::DeadLetter { reason }, failed);
            }
        }
    }

    /// Settles a delivery that the reader does not get. `failed` is logged with an error.
    fn settle(
        &self,
        session: &Arc<Session>,
        raw: RawDelivery,
        settlement: Settlement,
        failed: &'static str,
    ) {
        let context = Arc::clone(&self.context);
        let session = Arc::clone(session);
        let unsettled = Box::new(UnsettledDelivery::new(context, session, raw));
        tokio::spawn(async move {
            if let Err(error) = unsettled.settle(settlement).await {
                warn(&error, failed);
            }
        });
    }

    /// Ends the consumer, and then requeues deliveries that the reader has not taken.
    async fn cancel(&self, session: &Session, consumer: Consumer) -> End {
        if let Err(error) = self.requeue(session, consumer, self.inbox.end()).await {
            // No reader is left to report it to.
            warn(&error, "failed to end a consumer; the server requeues its deliveries");
        }
        End::Unwanted
    }

    /// Ends a consumer and requeues deliveries that were not taken. The order matters: before the
    /// consumer has ended, requeued deliveries may be sent to it again, after later ones.
    async fn requeue(
        &self,
        session: &Session,
        mut consumer: Consumer,
        unread: Vec<Arrival>,
    ) -> Result<(), BrokerError> {
        let cancelled = session.cancel().await;
        for arrival in unread {
            // If the channel is dead, the server has taken it back already.
            session.nack(arrival.raw.tag).unwrap_or_default();
        }
        take_ready(&mut consumer, usize::MAX, |late| {
            session.nack(late.delivery_tag).unwrap_or_default();
        });
        cancelled
    }

    /// Opens a new session. Returns `None` when the subscription was dropped, or after a permanent
    /// error.
    async fn reopen(&self) -> Option<(Arc<Session>, Consumer)> {
        let mut draining = self.draining.clone();
        let reopened = tokio::select! {
            reopened = self.reopen_with_retries() => reopened,
            () = self.inbox.dropped() => Err(BrokerError::Closed),
            () = begun(&mut draining) => Err(BrokerError::Closed),
        };
        match reopened {
            Ok(opened) => return Some(opened),
            Err(BrokerError::Closed) => drop(self.inbox.end()),
            Err(error) => self.inbox.fail(error),
        }
        None
    }

    /// Retries until a new session is open, or an error is permanent.
    async fn reopen_with_retries(&self) -> Result<(Arc<Session>, Consumer), BrokerError> {
        let SettlementContext { link, subscription, rng, .. } = &*self.context;
        let mut is_logged = false;
        for attempt in 1.. {
            link.connection().await?;
            is_logged = is_logged || self.log_deletion().await;
            let error = match Session::open(link, subscription).await {
                Err(error) if topology::is_transient(&error) => error,
                result => return result,
            };
            warn(&error, "failed to consume; retrying");
            let pause = link.options.reconnect_pause(attempt, rng.next());
            link.options.clock.sleep(pause).await;
        }
        Err(BrokerError::Closed)
    }

    /// Logs that the server has deleted a temporary queue, so that events were lost. Returns whether
    /// it has.
    async fn log_deletion(&self) -> bool {
        let Subscription { address, lifetime, .. } = &self.context.subscription;
        if *lifetime != Lifetime::Temporary {
            return false;
        }
        let is_gone = matches!(queue_state(&self.context).await, QueueState::Gone);
        if is_gone {
            tracing::warn!(
                %address,
                "a temporary group or mailbox was deleted while its subscription was disconnected; \
                 it is declared again, but events that were published in the meantime are lost"
            );
        }
        is_gone
    }
}

/// Why the stream of a consumer has ended. lapin ends it once, and after that it is silent.
fn ended(session: &Session, consumer: Consumer) -> End {
    match session.is_alive() {
        true => End::Cancelled { consumer },
        false => End::Lost,
    }
}

/// Takes at most this many items that are ready, without waiting. Returns whether the stream has ended.
fn take_ready<T, E>(
    stream: &mut (impl Stream<Item = Result<T, E>> + Unpin),
    most: usize,
    mut take: impl FnMut(T),
) -> bool {
    for _ in 0..most {
        match stream.next().now_or_never() {
            Some(Some(Ok(item))) => take(item),
            Some(Some(Err(_)) | None) => return true,
            None => return false,
        }
    }
    false
}

/// Waits for the last settlement, and closes the channel.
async fn finish(session: &Session) {
    session.settled().await;
    if session.is_alive()
        && let Err(error) = session.close().await
    {
        warn(&error, "failed to close the channel of a consumer");
    }
}

/// Counts a consumer that is replaced.
fn count_replaced(reason: &'static str) {
    counter!("aios_consumers_replaced_total", "reason" => reason).increment(1);
}

/// Completes when draining has begun, or the broker is gone.
async fn begun(draining: &mut watch::Receiver<bool>) {
    draining.wait_for(|draining| *draining).await.map(drop).unwrap_or_default();
}

/// The error with its causes, for a dead letter.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{iter, pending};

    use super::*;

    #[test]
    fn should_notice_the_end_behind_what_is_ready() {
        let ready = || iter([Ok(1), Ok(2)]);
        let mut taken = Vec::new();
        assert!(take_ready(&mut ready(), CHUNK, |item| taken.push(item)), "the end");
        let mut failed = ready().chain(iter([Err(())])).chain(pending());
        assert!(take_ready(&mut failed, CHUNK, |item| taken.push(item)), "the error");
        let mut open = ready().chain(pending());
        assert!(!take_ready(&mut open, CHUNK, |item: i32| taken.push(item)), "nothing more yet");
        assert_eq!(taken, [1, 2, 1, 2, 1, 2]);
    }
}
