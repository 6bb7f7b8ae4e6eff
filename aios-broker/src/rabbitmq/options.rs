//! Options of the broker on RabbitMQ.
//!
//! Setters cannot fail; `resolve` checks everything before the first connection. Parameters of the
//! URL are applied before that, so they are checked by the same rules. No error and no `Debug`
//! output shows the credentials.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::{
    broker::BrokerError,
    clock::{Clock, SystemClock},
    retry::{Backoff, RetryPolicy},
};
use lapin::{
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use url::Url;

/// Limits of durations.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 86_400);

/// Maximum number of unconfirmed events.
const MAX_WINDOW: usize = 1_000_000;

/// Largest message size that RabbitMQ can be configured to accept.
const MAX_EVENT_BYTES: usize = 512 << 20;

/// The most common error in URLs that cannot be parsed.
const ENCODE: &str =
    "characters such as / ? # @ : and % in a user or password must be percent-encoded";

/// Smallest frame size that leaves room for the headers of an event, and the least that RabbitMQ 4 takes, in
/// bytes.
const MIN_FRAME: u32 = 8192;

/// Longest prefix of the names of queues and exchanges, in bytes.
const MAX_PREFIX: usize = 20;

/// Options of a [`RabbitMqBroker`](super::RabbitMqBroker).
///
/// `Debug` output contains no password and no key.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
///
/// # async fn example() -> Result<(), aios_core::broker::BrokerError> {
/// let options = RabbitMqOptions::new("amqps://user:password@rabbit.example/shop")
///     .with_connection_name("shop-api")
///     .with_prefix("shop")
///     .with_operation_timeout(Duration::from_secs(10));
/// let broker = RabbitMqBroker::connect_with(options).await?;
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RabbitMqOptions {
    /// As it was passed in.
    url: String,
    /// Certificates in addition to those of the system.
    tls: OwnedTLSConfig,
    /// Name of the connections on the server.
    name: String,
    /// Between two heartbeats.
    heartbeat: Duration,
    /// The clock of all delays and time limits.
    pub(super) clock: Arc<dyn Clock>,
    /// Begins the names of queues and exchanges.
    pub(super) prefix: String,
    /// Until connecting gives up.
    pub(super) connect_deadline: Duration,
    /// Until publishing gives up.
    pub(super) publish_timeout: Duration,
    /// Until any other answer of the server is late.
    pub(super) operation_timeout: Duration,
    /// How often a quiet connection is checked.
    pub(super) watchdog: Duration,
    /// The pauses between attempts to connect.
    reconnect: Backoff,
    /// How many events may wait for their confirm.
    pub(super) confirm_window: usize,
    /// The most bytes of an event.
    pub(super) max_event_bytes: usize,
    /// How often the server delivers an event that is not settled.
    pub(super) delivery_limit: u32,
    /// How long a temporary group without consumers remains.
    pub(super) temporary_expiry: Duration,
    /// The most bytes of a frame; `None` for the server's limit.
    frame_max: Option<u32>,
}

impl RabbitMqOptions {
    /// Connects to `amqp[s]://user:password@host:port/vhost`, which is parsed when connecting. Its
    /// parameters take precedence over options set in code, and unknown ones are rejected:
    ///
    /// | parameter | value |
    /// |---|---|
    /// | `cacertfile`, `certfile`, `keyfile` | paths of PEM files; the key is PKCS #8 |
    /// | `connect_deadline`, `publish_timeout`, `operation_timeout`, `watchdog`, `temporary_expiry` | seconds |
    /// | `confirm_window`, `max_event_bytes`, `delivery_limit` | numbers |
    /// | `prefix`, `connection_name` | texts |
    /// | `heartbeat` (seconds), `frame_max` (bytes), `channel_max`, `connection_timeout` (ms), `auth_mechanism` | as RabbitMQ's own clients have them |
    ///
    /// The defaults: 30 s until connecting or publishing gives up, 10 s for any other answer of the
    /// server, heartbeats every 4 s, 1,000 events on their way at once, 16 MiB an event (what
    /// RabbitMQ 4 takes by default), 100 deliveries without a settlement, 120 s until an unused
    /// temporary group expires.
    ///
    /// # Examples
    ///
    /// A program that takes only a URL, such as the CLI, sets all of these in one text. `%2F` is the virtual
    /// host `/`:
    ///
    /// ```
    /// use aios_broker::rabbitmq::RabbitMqOptions;
    ///
    /// let url = "amqps://shop:p%40ss@rabbit.example/%2F?cacertfile=/etc/tls/ca.pem&heartbeat=10";
    /// let options = RabbitMqOptions::new(url);
    /// assert!(!format!("{options:?}").contains("p%40ss"));
    /// ```
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: OwnedTLSConfig::default(),
            name: "aios".to_owned(),
            heartbeat: Duration::from_secs(4),
            clock: Arc::new(SystemClock),
            prefix: "aios".to_owned(),
            connect_deadline: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(10),
            watchdog: Duration::from_secs(30),
            reconnect: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
            confirm_window: 1000,
            max_event_bytes: 16 << 20,
            delivery_limit: 100,
            temporary_expiry: Duration::from_secs(120),
            frame_max: None,
        }
    }

    /// Trusts the certificates of this authority, in PEM, in addition to those of the system.
    /// Takes the text of the file, not its path, and requires the scheme `amqps`.
    #[must_use]
    pub fn with_ca_certificates(mut self, pem: impl Into<String>) -> Self {
        self.tls.cert_chain = Some(pem.into());
        self
    }

    /// Presents this client certificate to the server; certificate and PKCS #8 key in PEM.
    /// Requires the scheme `amqps`.
    ///
    /// # Examples
    ///
    /// A server that authenticates its clients by their certificates:
    ///
    /// ```
    /// use aios_broker::rabbitmq::RabbitMqOptions;
    ///
    /// # fn example() -> std::io::Result<RabbitMqOptions> {
    /// let url = "amqps://rabbit.example/shop?auth_mechanism=external";
    /// let certificate = std::fs::read("/etc/tls/shop.pem")?;
    /// let key = std::fs::read("/etc/tls/shop.key")?;
    /// Ok(RabbitMqOptions::new(url).with_client_certificate(certificate, key))
    /// # }
    /// # let _ = example;
    /// ```
    #[must_use]
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        let pem = certificate.into();
        let key = key.into();
        self.tls.identity = Some(OwnedIdentity::PKCS8 { pem, key });
        self
    }

    /// Sets the name under which the server lists the connections.
    /// Each of the two connections appends its purpose, for example `shop-api (consuming)`. The default is
    /// `aios`.
    #[must_use]
    pub fn with_connection_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long the server may be silent before the connection counts as dead, in whole
    /// seconds from 1 to 65,535. The server waits for two to three times as long before it closes
    /// the connection of a process that is silent, for example because it was stopped, and gives
    /// what it delivered there to others. Keep three times the heartbeat near the lease time of the
    /// engines, so that answers move with the leases.
    /// The default is 4 s. The parameter `heartbeat` of the URL takes precedence.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Sets the clock of deadlines and back-off. The server uses its own.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the prefix of the names of all queues and exchanges, 1 to 20 bytes. Brokers with
    /// different prefixes on one server do not see each other.
    /// The default is `aios`. Two installations that share a virtual host need different prefixes, because
    /// groups and mailboxes of the same name would otherwise be the same queue.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long connecting may take, over all attempts. The default is 30 s.
    #[must_use]
    pub fn with_connect_deadline(mut self, deadline: Duration) -> Self {
        self.connect_deadline = deadline;
        self
    }

    /// Sets how long publishing may take, including the wait for capacity and for a connection. The
    /// default is 30 s.
    #[must_use]
    pub fn with_publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// Sets how long the server may take for any other response. The default is 10 s.
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Sets how often a silent subscription is checked for events that it should have received, and
    /// the publishing channel for missing confirms. If two consecutive checks fail, it is replaced.
    /// The default is 30 s.
    #[must_use]
    pub fn with_watchdog(mut self, interval: Duration) -> Self {
        self.watchdog = interval;
        self
    }

    /// Sets the pauses between attempts to reconnect, each from 1 ms: from 100 ms to 3 s by default.
    /// Up to half of each pause is left out at random. The attempts continue until the broker is
    /// closed.
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_broker::rabbitmq::RabbitMqOptions;
    /// use aios_core::retry::Backoff;
    ///
    /// // A server whose restarts take minutes: fewer attempts, each at most 30 s after the other.
    /// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    /// let options = RabbitMqOptions::new("amqp://localhost").with_reconnect(backoff);
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn with_reconnect(mut self, backoff: Backoff) -> Self {
        self.reconnect = backoff;
        self
    }

    /// Sets how many events may be unconfirmed at once, at least 1. The default is 1,000.
    /// At most 1,000,000. A larger window raises the throughput of a process with many concurrent
    /// publishers; all of its events are [`Uncertain`](BrokerError::Uncertain) if the connection is lost.
    #[must_use]
    pub fn with_confirm_window(mut self, events: usize) -> Self {
        self.confirm_window = events;
        self
    }

    /// Sets how large an event may be, in bytes of its envelope. It must not exceed the server's
    /// own limit, which would close the channel.
    /// The default is 16 MiB, and the most is 512 MiB.
    #[must_use]
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets how often the server delivers an event whose consumer dies with it before it becomes a
    /// dead letter. Must not be below the attempts of any subscription's retry policy, and cannot
    /// be changed for an existing group.
    /// The default is 100. Subscribing with a policy of more attempts fails with
    /// [`InvalidConfiguration`](BrokerError::InvalidConfiguration).
    #[must_use]
    pub fn with_delivery_limit(mut self, deliveries: u32) -> Self {
        self.delivery_limit = deliveries;
        self
    }

    /// Sets after which time without a subscription the server deletes a temporary group or mailbox,
    /// with its events. The server deletes it at once when its last subscription ends or loses its
    /// connection; this time matters only if the process ends while the server is down. Must be
    /// longer than reconnecting to a server that has started again takes, or the group loses events
    /// in the meantime. A group that exists keeps the time that it was declared with.
    /// The default is 120 s.
    #[must_use]
    pub fn with_temporary_expiry(mut self, expiry: Duration) -> Self {
        self.temporary_expiry = expiry;
        self
    }

    /// The pause after the failed attempt number `attempt` (from 1) to reconnect. `chance` is a random
    /// number from 0 to 1.
    pub(super) fn reconnect_pause(&self, attempt: u32, chance: f64) -> Duration {
        let Backoff { initial_delay, max_delay, .. } = self.reconnect;
        let policy = RetryPolicy::new().with_max_attempts(0).with_delays(initial_delay, max_delay);
        policy.delay_after(attempt, chance).unwrap_or(max_delay)
    }

    /// The URL, with its password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sets the maximum frame size in bytes, at least 8192. The server may require a smaller one.
    /// By default, or with 0, the server's limit applies.
    #[must_use]
    pub fn with_frame_max(mut self, bytes: u32) -> Self {
        self.frame_max = Some(bytes);
        self
    }

    /// Validates all options and parses the URL.
    /// Nothing is sent yet, so a mistake in the configuration fails before the first connection.
    pub(super) fn resolve(&self) -> Result<Target, BrokerError> {
        let invalid =
            |reason: &str| BrokerError::InvalidConfiguration { reason: reason.to_owned() };
        let mut uri = uri(&self.url)?;
        let seconds = u16::try_from(self.heartbeat.as_secs()).unwrap_or_default();
        if seconds == 0 {
            return Err(invalid("the heartbeat must be 1 to 65,535 seconds"));
        }
        for (name, duration) in [
            ("connect_deadline", self.connect_deadline),
            ("publish_timeout", self.publish_timeout),
            ("operation_timeout", self.operation_timeout),
            ("watchdog", self.watchdog),
            ("temporary_expiry", self.temporary_expiry),
            ("the first pause of reconnect", self.reconnect.initial_delay),
            ("the longest pause of reconnect", self.reconnect.max_delay),
        ] {
            if duration < SHORTEST || duration > LONGEST {
                return Err(invalid(&format!(
                    "{name} is {duration:?}; it must be between 1 ms and 24 days"
                )));
            }
        }
        if !(1..=MAX_WINDOW).contains(&self.confirm_window) {
            return Err(invalid(&format!("confirm_window must be 1 to {MAX_WINDOW}")));
        }
        if !(1..=MAX_EVENT_BYTES).contains(&self.max_event_bytes) {
            return Err(invalid(&format!("max_event_bytes must be 1 to {MAX_EVENT_BYTES}")));
        }
        if self.delivery_limit == 0 {
            return Err(invalid("delivery_limit must be at least 1"));
        }
        let is_plain = !self.prefix.contains(char::is_control);
        if self.prefix.is_empty() || self.prefix.len() > MAX_PREFIX || !is_plain {
            return Err(invalid("the prefix must have 1 to 20 bytes and no control characters"));
        }
        if self.tls != OwnedTLSConfig::default() && uri.scheme != AMQPScheme::AMQPS {
            return Err(invalid("certificates require the scheme amqps"));
        }
        if uri.query.heartbeat == Some(0) {
            return Err(invalid("the heartbeat must be 1 to 65,535 seconds"));
        }
        uri.query.heartbeat = uri.query.heartbeat.or(Some(seconds));
        uri.query.frame_max = uri.query.frame_max.or(self.frame_max);
        if matches!(uri.query.frame_max, Some(1..MIN_FRAME)) {
            return Err(invalid(&format!("frame_max must be at least {MIN_FRAME} bytes")));
        }
        let millis = u64::try_from(self.operation_timeout.as_millis()).unwrap_or(u64::MAX);
        uri.query.connection_timeout = uri.query.connection_timeout.or(Some(millis));
        Ok(Target { uri, tls: self.tls.clone(), name: self.name.clone() })
    }
}

/// A validated connection target.
#[derive(Clone)]
pub(super) struct Target {
    /// Address, credentials and parameters.
    pub(super) uri: AMQPUri,
    /// Certificates.
    pub(super) tls: OwnedTLSConfig,
    /// Name of the connections on the server, without the part.
    pub(super) name: String,
}

impl Target {
    /// The address of the server, without credentials.
    pub(super) fn server(&self) -> String {
        server(&self.uri)
    }
}

/// The address of a server, without credentials.
fn server(uri: &AMQPUri) -> String {
    let AMQPUri { scheme, authority, vhost, .. } = uri;
    format!("{scheme}://{}:{}, virtual host {vhost:?}", authority.host, authority.port)
}

/// Parses a URL. Errors of lapin are not used, because they may contain the whole URL.
pub(super) fn uri(url: &str) -> Result<AMQPUri, BrokerError> {
    let invalid = |reason: String| BrokerError::InvalidConfiguration { reason };
    if !["amqp://", "amqps://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(invalid("the URL of RabbitMQ must begin with amqp:// or amqps://".to_owned()));
    }
    let parsed = Url::parse(url).map_err(|error| invalid(format!("the URL: {error}; {ENCODE}")))?;
    if parsed.path().contains('@') || parsed.query().is_some_and(|query| query.contains('@')) {
        return Err(invalid(format!("the URL: there is an @ after the host; {ENCODE}")));
    }
    url.parse().map_err(|_| {
        invalid(format!("the URL: invalid user, password, virtual host or number; {ENCODE}"))
    })
}

impl fmt::Debug for RabbitMqOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = uri(&self.url).map_or_else(|_| "no URL".to_owned(), |uri| server(&uri));
        formatter
            .debug_struct("RabbitMqOptions")
            .field("server", &server)
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_print_no_secret() {
        let options = RabbitMqOptions::new("amqp://user:s3cret@localhost:5672/%2f")
            .with_client_certificate("certificate", "s3cret");
        assert!(!format!("{options:?}").contains("s3cret"));
    }

    #[test]
    fn should_print_no_password_whatever_is_wrong_with_the_url() {
        for url in [
            "amqp:s3cret",
            "s3cret://host",
            "://s3cret",
            "amqp://me:s3cret",
            "amqp://me:s3cret@host:99999",
            "amqp://me:s3cret@[::1",
            "amqp://me:s3cret#x@host",
            "amqp://me:12?s3cret@host",
            "amqp://me:12/s3cret@host",
            "amqp://me:s3%ffcret@host",
            "amqp://me:s3cret@host?heartbeat=s3cret",
            "amqp://me:s3cret@host?prefix=x&unknown",
        ] {
            let options = RabbitMqOptions::new(url);
            let debug = format!("{options:?}");
            let resolved = options.with_url_parameters().and_then(|options| options.resolve());
            let error = resolved.map(|_| ()).unwrap_err();
            let said = format!("{debug} {error} {error:?}");
            assert!(!said.contains("s3"), "{url}: {said}");
        }
    }

    #[test]
    fn should_refuse_invalid_options() {
        let valid = RabbitMqOptions::new("amqp://localhost");
        for accepted in
            [valid.clone(), valid.clone().with_frame_max(8192), valid.clone().with_frame_max(0)]
        {
            assert!(accepted.resolve().is_ok());
        }
        for options in [
            RabbitMqOptions::new("http://localhost"),
            valid.clone().with_heartbeat(Duration::ZERO),
            valid.clone().with_confirm_window(0),
            valid.clone().with_reconnect(Backoff::new(Duration::ZERO, Duration::from_secs(1))),
            valid.clone().with_reconnect(Backoff::new(Duration::from_secs(1), Duration::MAX)),
            valid.clone().with_prefix("x".repeat(21)),
            valid.clone().with_prefix("x\n"),
            valid.clone().with_confirm_window(usize::MAX),
            valid.clone().with_delivery_limit(0),
            valid.clone().with_max_event_bytes(0),
            valid.clone().with_max_event_bytes(usize::MAX),
            valid.clone().with_connect_deadline(Duration::MAX),
            valid.clone().with_connect_deadline(Duration::ZERO),
            valid.clone().with_publish_timeout(Duration::ZERO),
            valid.clone().with_operation_timeout(Duration::ZERO),
            valid.clone().with_operation_timeout(Duration::MAX),
            valid.clone().with_watchdog(Duration::ZERO),
            valid.clone().with_temporary_expiry(Duration::ZERO),
            valid.clone().with_temporary_expiry(Duration::MAX),
            valid.clone().with_ca_certificates("pem"),
            valid.clone().with_frame_max(8191),
            RabbitMqOptions::new("amqp://localhost?frame_max=4096"),
        ] {
            let error = options.resolve().err().unwrap();
            assert_eq!(error.code(), "INVALID_BROKER_CONFIGURATION");
        }
    }
}
