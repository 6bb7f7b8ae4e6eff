use std::{pin::pin, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    broker::{Acknowledger, BrokerError, Settlement},
    event::Event,
};
use futures_util::{FutureExt, StreamExt};
use lapin::{Consumer, message::Delivery};
use tokio::sync::watch;

use super::{
    error::{about, warn},
    inbox::{Arrival, Inbox},
    session::Session,
    settle::{Copy, InHand, Settling},
    topology,
};

/// Most deliveries that are handed over at once.
const CHUNK: usize = 256;

/// The task of one subscription: keeps it consuming, whatever dies.
pub(super) struct Consuming {
    pub(super) settling: Arc<Settling>,
    pub(super) inbox: Arc<Inbox>,
    /// `true` when consuming ends.
    pub(super) draining: watch::Receiver<bool>,
    /// Kept until everything is settled; its end is what closing waits for.
    pub(super) _alive: watch::Receiver<()>,
}

/// Why a session ended.
enum End {
    /// The channel or connection died.
    Lost,
    /// The consumer gets nothing although it should.
    Silent(Consumer),
    /// Nobody wants deliveries any more.
    Unwanted,
}

impl Consuming {
    pub(super) async fn run(self, first: (Arc<Session>, Consumer)) {
        let mut next = Some(first);
        while let Some((session, consumer)) = next {
            match self.forward(&session, consumer).await {
                End::Lost => {
                    drop(self.inbox.take());
                    next = self.reopen().await;
                }
                End::Silent(consumer) => {
                    tracing::warn!(
                        address = %self.settling.subscription.address,
                        "a consumer got nothing although it should; it is replaced"
                    );
                    if self.give_back(&session, consumer, self.inbox.take()).await.is_err() {
                        // What the server gave to a channel that is stuck comes back with the end
                        // of its connection only.
                        self.settling.link.replace(&session.connection);
                    }
                    next = self.reopen().await;
                }
                End::Unwanted => {
                    self.finish(&session).await;
                    return;
                }
            }
        }
    }

    /// Moves deliveries to the inbox until something ends.
    async fn forward(&self, session: &Arc<Session>, mut consumer: Consumer) -> End {
        let link = Arc::clone(&self.settling.link);
        let mut lost = pin!(link.lost(&session.connection));
        let mut draining = self.draining.clone();
        let mut watchdog = Watchdog::default();
        let mut arrivals = Vec::new();
        loop {
            let look = link.options.clock.sleep(link.options.watchdog);
            tokio::select! {
                () = &mut lost => return End::Lost,
                () = self.inbox.dropped() => break,
                () = begun(&mut draining) => break,
                () = look => if watchdog.is_silent(self, session).await {
                    return End::Silent(consumer);
                },
                delivery = consumer.next() => {
                    let Some(Ok(delivery)) = delivery else { return End::Lost };
                    watchdog.delivered = true;
                    self.arrived(session, delivery, &mut arrivals);
                    self.take_ready(session, &mut consumer, &mut arrivals);
                    self.inbox.push(&mut arrivals);
                }
            }
        }
        self.cancel(session, consumer).await
    }

    /// Also takes all other ready deliveries, so that its reader is woken once.
    fn take_ready(
        &self,
        session: &Arc<Session>,
        consumer: &mut Consumer,
        arrivals: &mut Vec<Arrival>,
    ) {
        while arrivals.len() < CHUNK
            && let Some(Some(Ok(delivery))) = consumer.next().now_or_never()
        {
            self.arrived(session, delivery, arrivals);
        }
    }

    fn arrived(&self, session: &Arc<Session>, delivery: Delivery, arrivals: &mut Vec<Arrival>) {
        let copy = Copy::new(delivery);
        let event = std::str::from_utf8(&copy.body)
            .map_err(|error| error.to_string())
            .and_then(|text| Event::from_json(text).map_err(|error| reason(&error)));
        match event {
            Ok(event) => arrivals.push(Arrival { event, session: Arc::clone(session), copy }),
            Err(reason) => self.refuse(session, copy, reason),
        }
    }

    /// A message that is not an event would be redelivered indefinitely.
    fn refuse(&self, session: &Arc<Session>, copy: Copy, reason: String) {
        let (settling, session) = (Arc::clone(&self.settling), Arc::clone(session));
        let in_hand = Box::new(InHand::new(settling, session, copy));
        tokio::spawn(async move {
            if let Err(error) = in_hand.settle(Settlement::DeadLetter { reason }).await {
                warn(&error, "could not put away what is no event; it comes again");
            }
        });
    }

    /// Ends the consumer, then gives back deliveries that the reader has not taken.
    async fn cancel(&self, session: &Session, consumer: Consumer) -> End {
        if let Err(error) = self.give_back(session, consumer, self.inbox.end()).await {
            self.inbox.report(error);
        }
        End::Unwanted
    }

    /// Ends a consumer; deliveries that were not taken go back. In this order: what goes back to a
    /// consumer that has not ended may be sent to it again, behind what came after it.
    async fn give_back(
        &self,
        session: &Session,
        mut consumer: Consumer,
        unread: Vec<Arrival>,
    ) -> Result<(), BrokerError> {
        let cancelled = session.cancel().await;
        for arrival in unread {
            // If the channel is dead, the server has taken it back already.
            session.nack(arrival.copy.tag).unwrap_or_default();
        }
        while let Some(Some(Ok(late))) = consumer.next().now_or_never() {
            session.nack(late.delivery_tag).unwrap_or_default();
        }
        cancelled
    }

    /// Waits for the last settlement.
    async fn finish(&self, session: &Session) {
        session.settled().await;
        if session.is_alive()
            && let Err(error) = session.close().await
        {
            self.inbox.report(error);
        }
    }

    /// Consumes again, as often as it takes; `None` when the subscription was dropped, or after an
    /// error that won't pass.
    async fn reopen(&self) -> Option<(Arc<Session>, Consumer)> {
        let Settling { link, subscription, chance, .. } = &*self.settling;
        let mut draining = self.draining.clone();
        for attempt in 1.. {
            let opening = async {
                link.connection().await?;
                Session::open(link, subscription).await
            };
            let error = tokio::select! {
                opened = opening => match opened {
                    Ok(opened) => return Some(opened),
                    Err(error) => error,
                },
                () = self.inbox.dropped() => break,
                () = begun(&mut draining) => break,
            };
            if matches!(error, BrokerError::Closed) {
                break;
            }
            if !error.is_retryable() {
                self.inbox.report(error);
                break;
            }
            warn(&error, "can't consume; trying again");
            let pause = link.options.reconnect.delay_after(attempt, chance.next());
            link.options.clock.sleep(pause.unwrap_or(Duration::from_secs(1))).await;
        }
        self.inbox.end();
        None
    }
}

/// Completes when draining has begun, or the broker is gone.
async fn begun(draining: &mut watch::Receiver<bool>) {
    draining.wait_for(|draining| *draining).await.map(drop).unwrap_or_default();
}

/// Finds out that a consumer gets nothing although its queue has events, or is gone: the silence that
/// users of every AMQP library know.
#[derive(Default)]
struct Watchdog {
    delivered: bool,
    /// Events were waiting at the last look, too.
    suspicious: bool,
}

impl Watchdog {
    async fn is_silent(&mut self, consuming: &Consuming, session: &Session) -> bool {
        let Consuming { settling, inbox, .. } = consuming;
        let quiet = !std::mem::take(&mut self.delivered);
        // A consumer at its prefetch limit receives nothing more.
        let unsettled = session.in_hand() + inbox.len();
        let hungry = unsettled < usize::from(settling.subscription.prefetch);
        let waits = if quiet && hungry { waits(settling).await } else { Waits::Nothing };
        let silent = match waits {
            Waits::Gone => true,
            Waits::Events => self.suspicious,
            Waits::Nothing => false,
        };
        self.suspicious = matches!(waits, Waits::Events);
        silent
    }
}

/// A queue's ready messages.
enum Waits {
    Nothing,
    Events,
    /// There is no queue any more, which a server does not always tell the consumer: RabbitMQ 4.3 is
    /// silent when the queue is deleted while it is being published to.
    Gone,
}

/// Looks whether events wait for a consumer. A failure to find out says nothing.
async fn waits(settling: &Settling) -> Waits {
    let Settling { link, subscription, .. } = settling;
    let name = topology::queue(&link.options.prefix, &subscription.address);
    let Ok((_connection, channel)) = link.channel().await else { return Waits::Nothing };
    let queue = topology::inspect(link, &channel, &name).await;
    match queue.map_err(|error| about(&subscription.address, error)) {
        Ok(queue) if queue.message_count() > 0 => Waits::Events,
        Err(BrokerError::UnknownAddress { .. }) => Waits::Gone,
        Ok(_) | Err(_) => Waits::Nothing,
    }
}

fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}
