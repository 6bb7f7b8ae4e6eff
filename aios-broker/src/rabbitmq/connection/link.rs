//! One connection to the server, and its supervisor.
//!
//! ```text
//!         ┌──────────────── reconnect, with pauses ────────────────┐
//!         ▼                                                        │
//!   Up(connection) ── lost, or a user of it calls replace ──► Down ┘
//!         │                                                    │
//!         └───────────────── close or drop ─► Closed ◄─────────┘
//! ```
//!
//! Users of the link ask for the current connection and get notified when it is no longer the
//! current one. They compare connections by identity, so a report about an old connection never
//! takes down its successor.
//!
//! The supervisor is the only one that connects. It watches the events of lapin and also looks at
//! the state of the connection once a second, because an event may be missed. Pauses between
//! attempts grow up to the option `reconnect`, with jitter, without a limit on the attempts.

use std::{ops::Deref, sync::Arc, time::Duration};

use aios_core::{Chain, broker::BrokerError};
use futures_util::{
    StreamExt,
    future::{Either, select},
};
use lapin::{Channel, Connection, ConnectionBuilder, ConnectionProperties, Event};
use tokio::sync::watch;

use super::{
    health::{Part, Reporter},
    runtime_kit,
};
use crate::{
    rabbitmq::{RabbitMqOptions, error::within, options::Target},
    rng::SplitMix64,
};

/// How often a connection's state is looked at even if nothing was reported.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// One connection to the server, replaced by its supervisor whenever it dies.
///
/// lapin's own recovery is off: it can leave a consumer silent.
#[derive(Debug)]
pub(crate) struct Link {
    /// The options of the broker.
    pub(crate) options: Arc<RabbitMqOptions>,
    /// Set to `Up` by `connect` and by the supervisor only.
    state: watch::Sender<State>,
}

/// Disconnects its link when it is dropped. The supervisor has the link as well, and would keep it
/// connected otherwise.
#[derive(Debug)]
pub(crate) struct OwnedLink(Arc<Link>);

/// The state of a link.
#[derive(Clone, Debug)]
enum State {
    /// There is no connection; the supervisor is connecting.
    Down,
    /// This is the connection.
    Up(Arc<Connection>),
    /// Closed by this process. Final.
    Closed,
}

impl Link {
    /// Connects, with retries until the connect deadline, and then supervises the connection.
    pub(crate) async fn connect(
        options: Arc<RabbitMqOptions>,
        target: Target,
        part: Part,
        reporter: Arc<Reporter>,
    ) -> Result<OwnedLink, BrokerError> {
        let link = Arc::new(Self { options, state: watch::Sender::new(State::Down) });
        let supervisor = Supervisor::new(Arc::clone(&link), target, part, reporter);
        let connection = supervisor.first_connection().await?;
        link.state.send_replace(State::Up(Arc::clone(&connection)));
        tokio::spawn(supervisor.run(connection));
        Ok(OwnedLink(link))
    }

    /// Returns the current connection, waiting for one if necessary.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut state = self.state.subscribe();
        let current = state.wait_for(|state| !matches!(state, State::Down)).await;
        match current.as_deref() {
            Ok(State::Up(connection)) => Ok(Arc::clone(connection)),
            Ok(State::Down | State::Closed) | Err(_) => Err(BrokerError::Closed),
        }
    }

    /// Opens a channel. Waits for a connection for at most the operation timeout.
    pub(crate) async fn channel(&self) -> Result<(Arc<Connection>, Channel), BrokerError> {
        let clock = &*self.options.clock;
        let after = self.options.operation_timeout;
        let connection = match select(std::pin::pin!(self.connection()), clock.sleep(after)).await {
            Either::Left((connection, _)) => connection?,
            Either::Right(_) => {
                return Err(BrokerError::Timeout { operation: "become reachable", after });
            }
        };
        let channel = within(clock, after, "open a channel", connection.create_channel()).await?;
        Ok((connection, channel))
    }

    /// Completes when this connection is no longer the current one.
    pub(crate) async fn lost(&self, connection: &Arc<Connection>) {
        let mut state = self.state.subscribe();
        let other = |state: &State| match state {
            State::Up(current) => !Arc::ptr_eq(current, connection),
            State::Down | State::Closed => true,
        };
        // An error means that the link is gone, and its connection with it.
        state.wait_for(other).await.map(drop).unwrap_or_default();
    }

    /// Replaces a connection that no longer works.
    ///
    /// Returns at once. The old connection is closed in the background, so that the server requeues
    /// what it delivered there.
    pub(crate) fn replace(&self, connection: &Arc<Connection>) {
        self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(current) if Arc::ptr_eq(current, connection));
            if current {
                *state = State::Down;
            }
            current
        });
        let clock = Arc::clone(&self.options.clock);
        let after = self.options.operation_timeout;
        let old = Arc::clone(connection);
        tokio::spawn(async move {
            let closing = old.close(320, "a channel is stuck".into());
            // Whether or not the server answers, the connection is not used any more.
            within(&*clock, after, "close the connection", closing).await.unwrap_or_default();
        });
    }

    /// Completes when the link is closed.
    pub(crate) async fn closed(&self) {
        let mut state = self.state.subscribe();
        // An error means that the link is gone.
        state.wait_for(|state| matches!(state, State::Closed)).await.map(drop).unwrap_or_default();
    }

    /// Disconnects permanently. Waits for the server at most this long: a server that blocks publishers
    /// does not answer.
    pub(crate) async fn close(&self, patience: Duration) {
        let State::Up(connection) = self.state.send_replace(State::Closed) else { return };
        let clock = &*self.options.clock;
        let after = patience.min(self.options.operation_timeout);
        let closing = connection.close(200, "closed by its user".into());
        // Whether or not the server answers, the connection is not used any more.
        within(clock, after, "close the connection", closing).await.unwrap_or_default();
    }
}

impl Deref for OwnedLink {
    type Target = Arc<Link>;

    fn deref(&self) -> &Arc<Link> {
        &self.0
    }
}

/// Does not wait for the server.
impl Drop for OwnedLink {
    fn drop(&mut self) {
        self.state.send_replace(State::Closed);
    }
}

/// The task that keeps a link connected.
struct Supervisor {
    /// The link that it serves.
    link: Arc<Link>,
    /// Where to connect.
    target: Target,
    /// Which connection of the broker this is.
    part: Part,
    /// Where its health is reported.
    reporter: Arc<Reporter>,
    /// Jitter of the pauses.
    rng: SplitMix64,
}

impl Supervisor {
    /// Creates a supervisor for a link without a connection.
    fn new(link: Arc<Link>, target: Target, part: Part, reporter: Arc<Reporter>) -> Self {
        Self { link, target, part, reporter, rng: SplitMix64::seeded() }
    }

    /// Connects for the first time. A server that is starting is asked again until the connect
    /// deadline; a server that refuses the user is not.
    async fn first_connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let clock = &self.link.options.clock;
        let after = self.link.options.connect_deadline;
        let deadline = clock.elapsed().saturating_add(after);
        for attempt in 1.. {
            let error = match self.attempt().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let pause = self.pause(attempt);
            self.warn(&error, attempt);
            if clock.elapsed().saturating_add(pause) >= deadline || is_final(&error) {
                return Err(error);
            }
            clock.sleep(pause).await;
        }
        Err(BrokerError::Timeout { operation: "accept a connection", after })
    }

    /// Watches the connection and replaces it, until the link is closed.
    async fn run(self, mut connection: Arc<Connection>) {
        loop {
            self.reporter.up(self.part);
            let cause = {
                let lost = self.link.lost(&connection);
                let watch = self.watch(&connection);
                match select(std::pin::pin!(watch), std::pin::pin!(lost)).await {
                    Either::Left((cause, _)) => cause,
                    Either::Right(_) => "a channel is stuck".to_owned(),
                }
            };
            let open = self.link.state.send_if_modified(|state| {
                let open = !matches!(state, State::Closed);
                if open {
                    *state = State::Down;
                }
                open
            });
            drop(connection);
            if !open {
                return;
            }
            self.reporter.down(self.part, self.link.options.clock.now(), &cause);
            match self.reconnect().await {
                Some(next) => connection = next,
                None => return,
            }
        }
    }

    /// Completes with the cause when the connection is lost.
    async fn watch(&self, connection: &Connection) -> String {
        let mut events = Box::pin(connection.events_listener());
        let mut cause = "the connection was lost".to_owned();
        // As reported. The events of what happened before there was a listener are missing.
        let mut is_blocked = false;
        while connection.status().connected() {
            if is_blocked != connection.status().blocked() {
                is_blocked = !is_blocked;
                match is_blocked {
                    true => self.report_blocked("the server blocks publishers"),
                    false => self.reporter.up(self.part),
                }
            }
            let poll = self.link.options.clock.sleep(POLL_INTERVAL);
            match select(events.next(), poll).await {
                Either::Left((Some(Event::Error(error)), _)) => cause = error.to_string(),
                Either::Left((Some(Event::ConnectionBlocked(reason)), _)) => {
                    is_blocked = true;
                    self.report_blocked(&reason);
                }
                Either::Left((Some(Event::ConnectionUnblocked), _)) => {
                    is_blocked = false;
                    self.reporter.up(self.part);
                }
                Either::Left((Some(_), _)) | Either::Right(_) => {}
                Either::Left((None, _)) => return cause,
            }
        }
        cause
    }

    /// Reports that the server blocks publishers.
    fn report_blocked(&self, reason: &str) {
        self.reporter.blocked(self.part, self.link.options.clock.now(), reason);
    }

    /// Retries until there is a connection. Returns `None` if the link was closed in the meantime.
    async fn reconnect(&self) -> Option<Arc<Connection>> {
        for attempt in 1.. {
            let attempted = self.attempt().await;
            if let Err(error) = &attempted {
                self.warn(error, attempt);
                let cause = aios_core::failure::Failure::from_error(error.code(), error).message;
                self.reporter.still_down(self.part, &cause);
            }
            if let Ok(connection) = attempted {
                let next = State::Up(Arc::clone(&connection));
                let open = self.link.state.send_if_modified(|state| {
                    let open = !matches!(state, State::Closed);
                    if open {
                        *state = next;
                    }
                    open
                });
                return open.then_some(connection);
            }
            let closed = std::pin::pin!(self.link.closed());
            let pause = self.link.options.clock.sleep(self.pause(attempt));
            if let Either::Left(_) = select(closed, pause).await {
                return None;
            }
        }
        None
    }

    /// Connects once.
    async fn attempt(&self) -> Result<Arc<Connection>, BrokerError> {
        let options = &self.link.options;
        let name = format!("{} ({})", self.target.name, self.part.name());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let builder = ConnectionBuilder::new_with_runtime(runtime_kit::current())
            .with_uri(self.target.uri.clone())
            .with_tls_config(self.target.tls.clone())
            .with_properties(properties);
        let clock = &*options.clock;
        let after = options.operation_timeout;
        within(clock, after, "accept a connection", builder.connect()).await.map(Arc::new)
    }

    /// Logs a failed attempt, without credentials.
    fn warn(&self, error: &BrokerError, attempt: u32) {
        tracing::warn!(
            code = error.code(),
            error = %Chain(error),
            server = self.target.server(),
            part = self.part.name(),
            attempt,
            "failed to connect"
        );
    }

    /// The pause after a failed attempt.
    fn pause(&self, attempt: u32) -> Duration {
        self.link.options.reconnect_pause(attempt, self.rng.next())
    }
}

/// Whether the error is permanent: the server refused the user.
fn is_final(error: &BrokerError) -> bool {
    !error.is_retryable()
}
