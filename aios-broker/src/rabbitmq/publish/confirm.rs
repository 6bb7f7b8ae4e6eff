//! The publishing channel, and who learns what became of an event.
//!
//! One task owns the channel. It takes jobs from the queue of the publisher, sends each event with
//! a number of its own, and keeps a ticket for each event until the answer is known.
//!
//! | the server | the publisher gets |
//! |---|---|
//! | confirms the event | `Ok` |
//! | returns it, because no queue took it, and confirms it | `Unroutable`, if a route is required |
//! | refuses it with a negative confirm | `Rejected`, although other queues may have taken it: a confirm is of all queues together |
//! | closes the channel because of a larger event | the event is sent again on the next channel |
//! | closes the channel because of this event's size | `TooLarge` |
//! | closes the channel because the user may not publish to this exchange | the error of the server |
//! | has closed the channel before the event was sent | the event is sent on the next channel |
//! | loses the connection or the channel | `Uncertain`, at once |
//! | is silent | `Timeout` of the publisher; the watchdog replaces the connection |
//!
//! The task ends when the link is closed or the last publisher is dropped. When the link is closed,
//! everything in the queue is answered with `Closed`, so that no caller waits for its timeout.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use aios_core::{Chain, broker::BrokerError};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::{
    outgoing::{Answers, Job, Outgoing, SizeLimit},
    refusal::{Denied, Oversize},
};
use crate::{
    rabbitmq::{
        connection::Link,
        error::{backend, warn, within},
        headers::short,
        topology::declare_exchange,
    },
    rng::SplitMix64,
};

/// Minimum pause between two attempts to open a channel, and pause after the server has closed one.
const PAUSE: Duration = Duration::from_millis(100);

/// The task that owns the publishing channel.
///
/// lapin attaches a returned event to the next confirm, not to its own. Therefore one task sees all
/// confirms of a channel, identifies each event by its number, and settles none before it has seen
/// all confirms that arrived with it.
pub(super) struct ConfirmTask {
    /// The publishing connection.
    link: Arc<Link>,
    /// Where events come from. Bounded by the window.
    jobs: mpsc::Receiver<Job>,
    /// The number of the last event. It grows over all channels, so a late confirm of an old
    /// channel never meets an event of a new one.
    next_number: u64,
    /// Jitter of the pauses.
    rng: SplitMix64,
    /// Shared with the publisher, which refuses larger events before they are sent.
    size_limit: Arc<SizeLimit>,
    /// Events left by a channel that was closed before they were sent, or because another event was too
    /// large.
    again: Vec<Unsent>,
    /// See `closures`.
    closures: watch::Sender<u64>,
}

impl ConfirmTask {
    /// Creates the task, without a channel.
    pub(crate) fn new(
        link: Arc<Link>,
        jobs: mpsc::Receiver<Job>,
        size_limit: Arc<SizeLimit>,
    ) -> Self {
        let rng = SplitMix64::seeded();
        let closures = watch::Sender::new(0);
        Self { link, jobs, next_number: 0, rng, size_limit, again: Vec::new(), closures }
    }

    /// How often the server has closed the channel, but not its connection.
    pub(crate) fn closures(&self) -> watch::Receiver<u64> {
        self.closures.subscribe()
    }

    /// Publishes on one channel after the other until the link is closed or no publisher is left.
    /// The size limit that a server taught is kept for its next channel, and forgotten with its
    /// connection.
    pub(crate) async fn run(mut self) {
        let mut attempt = 0;
        let mut server = None;
        loop {
            match self.open().await {
                Ok((connection, channel)) => {
                    attempt = 0;
                    if !server.as_ref().is_some_and(|before| Arc::ptr_eq(before, &connection)) {
                        self.size_limit.forget();
                        server = Some(Arc::clone(&connection));
                    }
                    if self.publish_on(&connection, &channel).await.is_none() {
                        return;
                    }
                }
                Err(BrokerError::Closed) => break,
                Err(error) => {
                    attempt += 1;
                    self.refuse(&error, attempt).await;
                }
            }
        }
        // Callers need not wait for their timeout.
        self.jobs.close();
        for unsent in self.again.drain(..) {
            unsent.ticket.answer(Err(BrokerError::Closed));
        }
        while let Some(job) = self.jobs.recv().await {
            job.answer(&BrokerError::Closed);
        }
    }

    /// Handles a failure to open the channel, and pauses before the next attempt. Publishers get the error
    /// if it is permanent, also those that come during the pause. Otherwise they wait until their timeout.
    /// The pause ends when the link is closed.
    async fn refuse(&mut self, error: &BrokerError, attempt: u32) {
        tracing::warn!(
            code = error.code(),
            error = %Chain(error),
            "failed to open a channel for publishing; retrying"
        );
        let is_permanent = !error.is_retryable();
        if is_permanent {
            for unsent in self.again.drain(..) {
                unsent.ticket.answer(Err(error.clone()));
            }
        }
        let link = Arc::clone(&self.link);
        let pause = link.options.reconnect_pause(attempt, self.rng.next()).max(PAUSE);
        let mut paused = link.options.clock.sleep(pause);
        let mut closed = pin!(link.closed());
        loop {
            tokio::select! {
                () = &mut closed => return,
                () = &mut paused => return,
                Some(job) = self.jobs.recv(), if is_permanent => job.answer(error),
            }
        }
    }

    /// Opens a channel that confirms, and declares the exchange on it. Waits for a connection
    /// without a limit; publishers have their own timeout.
    async fn open(&self) -> Result<(Arc<Connection>, Channel), BrokerError> {
        let connection = self.link.connection().await?;
        let clock = &*self.link.options.clock;
        let after = self.link.options.operation_timeout;
        let channel = within(clock, after, "open a channel", connection.create_channel()).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        within(clock, after, "enable confirms", confirms).await?;
        declare_exchange(&self.link, &channel).await?;
        Ok((connection, channel))
    }

    /// Publishes until the channel is dead; `None` if there are no publishers left.
    async fn publish_on(&mut self, connection: &Arc<Connection>, channel: &Channel) -> Option<()> {
        let link = Arc::clone(&self.link);
        let mut lost = pin!(link.lost(connection));
        let mut in_flight = InFlight::new(channel);
        for unsent in std::mem::take(&mut self.again) {
            if !unsent.ticket.answers.are_awaited() {
                continue;
            }
            in_flight.send(unsent, &mut self.next_number);
        }
        let mut watchdog = ConfirmWatchdog::default();
        let mut check = link.options.clock.sleep(link.options.watchdog);
        let mut is_stuck = false;
        while channel.status().connected() && !is_stuck {
            tokio::select! {
                () = &mut lost => break,
                job = self.jobs.recv() => in_flight.begin(job?, &mut self.next_number),
                Some(sent) = in_flight.confirms.next() => {
                    watchdog.confirmed = true;
                    in_flight.settle(sent);
                }
                () = &mut check => {
                    is_stuck = watchdog.is_silent(connection, &in_flight);
                    check = link.options.clock.sleep(link.options.watchdog);
                }
            }
        }
        let is_closed = !is_stuck && connection.status().connected();
        let Abandoned { again, cause } = in_flight.abandon(&self.size_limit);
        self.again = again;
        if let Some(cause) = cause {
            warn(&cause, "the server closed the channel for publishing; opening another one");
        }
        if is_stuck {
            tracing::warn!(
                "no event was confirmed although some are waiting; replacing the connection"
            );
            link.replace(connection);
        } else if is_closed {
            self.closures.send_modify(|closures| *closures += 1);
            if self.again.is_empty() {
                link.options.clock.sleep(PAUSE).await;
            }
        }
        Some(())
    }
}

/// Detects missing confirms while events wait for them. A channel can hang on the server's side
/// alone: RabbitMQ 3.10 does so when a quorum queue is deleted and declared again.
#[derive(Default)]
struct ConfirmWatchdog {
    /// A confirm came since the last check.
    confirmed: bool,
    /// Events were waiting at the last check, too.
    suspicious: bool,
}

impl ConfirmWatchdog {
    /// Whether two checks in a row found events waiting and none confirmed.
    fn is_silent(&mut self, connection: &Connection, in_flight: &InFlight<'_>) -> bool {
        let quiet = !std::mem::take(&mut self.confirmed);
        // A server that blocks publishers announces it.
        let waiting = quiet && !in_flight.waiting.is_empty() && !connection.status().blocked();
        let silent = waiting && self.suspicious;
        self.suspicious = waiting;
        silent
    }
}

/// The unconfirmed events of one channel.
struct InFlight<'a> {
    /// The channel that all of them were sent on.
    channel: &'a Channel,
    /// One future per event. It completes when the event is confirmed, or fails with the channel.
    confirms: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// The publishers that wait, by the number of their event.
    waiting: HashMap<u64, Ticket>,
    /// Numbers of events that were routed nowhere and whose confirm has not come.
    returned: HashSet<u64>,
    /// Events that came back with the error that ended the channel, in any order.
    failed: Vec<Failed>,
}

/// An event that was not confirmed before its channel ended.
struct Failed {
    /// The number under which it waited.
    number: u64,
    unsent: Unsent,
    failure: Failure,
}

/// Why an event was not confirmed.
enum Failure {
    /// The channel had ended before, so the server does not have the event.
    NotSent,
    /// The error that ended the channel. Whether the server has the event is unknown.
    Lost(lapin::Error),
}

/// The rest of a channel that is dead.
struct Abandoned {
    /// Events to be sent on the next channel.
    again: Vec<Unsent>,
    /// Why the server has closed the channel, if it did so and events were in flight.
    cause: Option<BrokerError>,
}

/// An event to be sent, on any channel.
struct Unsent {
    ticket: Ticket,
    outgoing: Outgoing,
}

/// The publisher that waits for the confirm of an event.
struct Ticket {
    /// Whether it is an error that no queue takes the event.
    require_route: bool,
    /// Shown in that error.
    event_type: String,
    /// The answers of the call that the event belongs to.
    answers: Arc<Answers>,
    /// Its place in them.
    index: usize,
    /// Its room in the window, released with the ticket.
    _room: Option<OwnedSemaphorePermit>,
}

/// The end of sending an event.
struct Sent {
    /// The number under which the event waited.
    number: u64,
    /// The confirm, or the failure together with the event, which may be sent again.
    confirmation: Result<Confirmation, (Failure, Outgoing)>,
}

impl<'a> InFlight<'a> {
    /// Nothing is in flight on a new channel.
    fn new(channel: &'a Channel) -> Self {
        Self {
            channel,
            confirms: FuturesUnordered::new(),
            waiting: HashMap::new(),
            returned: HashSet::new(),
            failed: Vec::new(),
        }
    }

    /// Sends the events of a job, unless its caller has given up.
    fn begin(&mut self, job: Job, next_number: &mut u64) {
        let Job { items, mut permits, answers } = job;
        if !answers.are_awaited() {
            return;
        }
        for (index, mut outgoing) in items {
            let event_type = outgoing.event_type.take();
            let ticket = Ticket {
                require_route: outgoing.require_route,
                event_type: event_type.unwrap_or_else(|| outgoing.routing_key.clone()),
                answers: Arc::clone(&answers),
                index,
                _room: permits.split(1),
            };
            self.send(Unsent { ticket, outgoing }, next_number);
        }
    }

    /// Sends an event under the next number. The frame is written when the future is polled.
    fn send(&mut self, Unsent { ticket, outgoing }: Unsent, next_number: &mut u64) {
        *next_number += 1;
        self.waiting.insert(*next_number, ticket);
        self.confirms.push(Box::pin(send(self.channel.clone(), outgoing, *next_number)));
    }

    /// Answers the publishers of confirmed events.
    ///
    /// All confirms that arrived together are taken first, and the numbers of returned events are
    /// noted from all of them. lapin attaches a returned event to the confirm that it handles next,
    /// so it may come with the confirm of another event.
    fn settle(&mut self, first: Sent) {
        let mut sent = vec![first];
        self.take_ready(&mut sent);
        // All confirms of a frame are resolved under one lock. This takes it, so what came with
        // the frame is ready now.
        drop(self.channel.wait_for_confirms().now_or_never());
        self.take_ready(&mut sent);
        self.answer(sent);
    }

    /// Answers the publishers of events that were sent. Those that came back with an error are kept.
    fn answer(&mut self, sent: Vec<Sent>) {
        let returned = sent.iter().filter_map(Sent::returned_number);
        self.returned.extend(returned);
        for Sent { number, confirmation } in sent {
            let unroutable = self.returned.remove(&number);
            let Some(ticket) = self.waiting.remove(&number) else { continue };
            match confirmation {
                Ok(confirmation) => {
                    let answer = answer(&ticket, &confirmation, unroutable);
                    ticket.answer(answer);
                }
                Err((failure, outgoing)) => {
                    let unsent = Unsent { ticket, outgoing };
                    self.failed.push(Failed { number, unsent, failure });
                }
            }
        }
    }

    /// Takes the futures that are complete, without waiting.
    fn take_ready(&mut self, sent: &mut Vec<Sent>) {
        while let Some(Some(next)) = self.confirms.next().now_or_never() {
            sent.push(next);
        }
    }

    /// Handles a dead channel: the outcome of the events that it did not confirm is unknown, and those that
    /// it did not send are returned, to be sent again. But if the server closed it because one event was
    /// larger than it accepts, that event is rejected, and all others are returned. If the user may not
    /// publish to an exchange, the events for that exchange get the error.
    fn abandon(mut self, size_limit: &SizeLimit) -> Abandoned {
        let mut rest = Vec::new();
        self.take_ready(&mut rest);
        self.answer(rest);
        for ticket in self.waiting.into_values() {
            ticket.answer(Err(BrokerError::Uncertain));
        }
        // They are sent again in the order of their publishing.
        self.failed.sort_unstable_by_key(|failed| failed.number);
        let mut errors = self.failed.iter().filter_map(Failed::error);
        let cause = errors.find(|error| error.is_amqp_soft_error()).cloned();
        let oversize = cause.as_ref().and_then(Oversize::of);
        let denied = cause.as_ref().and_then(Denied::of);
        let cause = cause.map(|error| backend("take an event", error));
        if let Some(Oversize { limit }) = oversize {
            size_limit.learn(limit);
        }
        let mut again = Vec::new();
        for failed in self.failed {
            let is_lost = failed.error().is_some();
            let Unsent { ticket, outgoing } = failed.unsent;
            let bytes = outgoing.body.len();
            match (&oversize, is_lost) {
                (Some(Oversize { limit }), _) if bytes > *limit => {
                    ticket.answer(Err(BrokerError::TooLarge { bytes, limit: *limit }));
                }
                (Some(_), _) | (None, false) => again.push(Unsent { ticket, outgoing }),
                (None, true) => {
                    let is_denied =
                        denied.as_ref().is_some_and(|denied| denied.concerns(&outgoing));
                    let error = cause.clone().filter(|_| is_denied);
                    ticket.answer(Err(error.unwrap_or(BrokerError::Uncertain)));
                }
            }
        }
        Abandoned { again, cause }
    }
}

impl Failed {
    /// The error that ended the channel, if the event was sent.
    fn error(&self) -> Option<&lapin::Error> {
        match &self.failure {
            Failure::NotSent => None,
            Failure::Lost(error) => Some(error),
        }
    }
}

impl Ticket {
    /// Answers the publisher.
    fn answer(self, answer: Result<(), BrokerError>) {
        self.answers.set(self.index, answer);
    }
}

impl Sent {
    /// The number of the returned event that lapin attached to this confirm.
    fn returned_number(&self) -> Option<u64> {
        match &self.confirmation {
            Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                returned.properties.correlation_id().as_ref()?.as_str().parse().ok()
            }
            _ => None,
        }
    }
}

/// Converts a confirm to the answer of its publisher.
fn answer(
    ticket: &Ticket,
    confirmation: &Confirmation,
    unroutable: bool,
) -> Result<(), BrokerError> {
    match confirmation {
        Confirmation::Ack(_) if unroutable && ticket.require_route => {
            Err(BrokerError::Unroutable { event_type: ticket.event_type.clone() })
        }
        Confirmation::Ack(_) => Ok(()),
        Confirmation::Nack(_) => {
            let reason = "a queue rejected it; others may have taken it".to_owned();
            Err(BrokerError::Rejected { reason })
        }
        Confirmation::NotRequested => Err(BrokerError::Uncertain),
    }
}

/// Publishes an event and waits for its confirm. The number travels as the correlation id, by which
/// a returned event is recognised.
async fn send(channel: Channel, outgoing: Outgoing, number: u64) -> Sent {
    let Outgoing { exchange, routing_key, body, properties, require_route, .. } = &outgoing;
    let properties = properties.clone().with_correlation_id(short(&number.to_string()));
    // lapin logs every event that is returned, with its data, so no other event asks for that.
    let options = BasicPublishOptions { mandatory: *require_route, ..Default::default() };
    let exchange = short(exchange);
    let routing_key = short(routing_key);
    if !channel.status().connected() {
        return Sent { number, confirmation: Err((Failure::NotSent, outgoing)) };
    }
    let sending = channel.basic_publish(exchange, routing_key, options, body, properties);
    let confirmation = match sending.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    let confirmation = confirmation.map_err(|error| (Failure::Lost(error), outgoing));
    Sent { number, confirmation }
}
