use std::{fmt, path::Path, str::FromStr, sync::Arc, time::Duration};

use aios_core::{
    clock::{Clock, SystemClock},
    store::StoreError,
};
use sqlx::{PgPool, postgres::PgConnectOptions};

use super::{
    connection::{Encryption, Tls, parse},
    schema::Schema,
};
use crate::validation::MAX_EVENT_BYTES;

/// Limits of durations: `statement_timeout` and `lock_timeout` are milliseconds in 31 bits, of which 0
/// would mean for ever.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 86_400);

/// PostgreSQL's own limit of `max_connections`.
const MAX_CONNECTIONS: u32 = 262_143;

/// Half of the longest message that PostgreSQL takes, in bytes.
const LARGEST: usize = 1 << 29;

fn invalid(reason: String) -> StoreError {
    StoreError::InvalidConfiguration { reason }
}

/// What stands between this process and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooler {
    /// Nothing, or a pooler that keeps a session for each connection.
    #[default]
    Session,
    /// A pooler that assigns a server connection per transaction and tracks prepared statements:
    /// PgBouncer 1.21 or later with `max_prepared_statements` above 0. Statements and locks are then
    /// limited by what the role has set, and by this side's patience.
    Transaction,
    /// A pooler that assigns a server connection per transaction and does not support prepared
    /// statements. Each call is a transaction that sets its limits, and costs three round trips more.
    TransactionUnprepared,
}

impl Pooler {
    /// Whether settings and `LISTEN` outlive a transaction.
    pub(super) fn keeps_sessions(self) -> bool {
        self == Self::Session
    }

    /// Whether a statement can be prepared once and used often.
    pub(super) fn prepares(self) -> bool {
        self != Self::TransactionUnprepared
    }
}

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Source {
    Connect(Box<PgConnectOptions>),
    Pool(PgPool),
}

/// How a [`PostgresStore`](super::PostgresStore) connects.
///
/// A URL has to name the user. What else it does not name is `localhost`, port 5432, no password, the
/// database of the user's name and `sslmode=prefer`, whatever libpq's variables and its password file
/// say. Only `PGSSLCERT` with `PGSSLKEY`, and `PGOPTIONS`, which the driver reads by itself, still
/// count where neither URL nor options speak of a client certificate, or of `options`.
#[derive(Clone)]
#[must_use]
pub struct PostgresOptions {
    pub(super) source: Source,
    listen: Option<Box<PgConnectOptions>>,
    encryption: Encryption,
    pub(super) schema: Schema,
    pub(super) pooler: Pooler,
    pub(super) max_connections: u32,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) lock_timeout: Duration,
    pub(super) append_timeout: Duration,
    pub(super) max_event_bytes: usize,
    pub(super) clock: Arc<dyn Clock>,
}

impl PostgresOptions {
    /// Connects to a server: `postgres://user:password@host:port/database`, with the parameters of
    /// libpq, such as `sslmode` and `sslrootcert`. Those that say nothing to the driver, such as
    /// `connect_timeout` and `channel_binding`, are ignored; unknown ones are refused.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if it is no such URL. The message never shows it.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        Ok(Self::from_source(Source::Connect(Box::new(parse(url)?))))
    }

    /// Uses an existing pool, of which one connection is kept for appending. Its own timeouts and
    /// settings stay as they are; this store's limits are then kept on this side alone.
    pub fn from_pool(pool: PgPool) -> Self {
        Self::from_source(Source::Pool(pool))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            listen: None,
            encryption: Encryption::default(),
            schema: Schema::default(),
            pooler: Pooler::default(),
            max_connections: 10,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            append_timeout: Duration::from_secs(30),
            max_event_bytes: MAX_EVENT_BYTES,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the schema that holds everything, which is created if it is not there: a lower-case
    /// letter or `_`, then up to 47 lower-case letters, digits or `_`. Default `aios`.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if it is no such name.
    pub fn with_schema(mut self, name: &str) -> Result<Self, StoreError> {
        self.schema = name.parse()?;
        Ok(self)
    }

    /// Sets how every connection is encrypted, the listening one among them. Default: what each URL
    /// says, or [`Tls::Prefer`]. A pool that was handed in has its own way, so that this is refused
    /// with one.
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.encryption.tls = Some(tls);
        self
    }

    /// Sets the certificate and key, two PEM files, by which this process shows who it is, on every
    /// connection. Refused with a pool that was handed in, as [`with_tls`](Self::with_tls) is.
    pub fn with_client_certificate(
        mut self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Self {
        let pair = (certificate.as_ref().to_owned(), key.as_ref().to_owned());
        self.encryption.client = Some(pair);
        self
    }

    /// Sets what stands between this process and the server. Default [`Pooler::Session`].
    pub fn with_pooler(mut self, pooler: Pooler) -> Self {
        self.pooler = pooler;
        self
    }

    /// Sets a way to the server that keeps sessions, for the connection that listens for hints,
    /// where the main one goes through a pooler. Without it other processes' appends are found by
    /// polling.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_listen_url(mut self, url: &str) -> Result<Self, StoreError> {
        self.listen = Some(Box::new(parse(url)?));
        Ok(self)
    }

    /// Sets how many connections there are at most, besides the one that listens; at least 3, so
    /// that appends, hints and reads do not wait for each other. Default 10. A pool that was handed
    /// in keeps its own number.
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.max(3);
        self
    }

    /// Sets how long to wait for a connection. Default 5 s.
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long one statement may take. Default 30 s.
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Sets how long one statement may wait for a lock. Default 10 s.
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Sets how long an append may wait for others and be tried again, from the call on; then it is
    /// answered with what kept it, or with [`StoreError::Timeout`] where nobody knows whether it is
    /// stored. An attempt under way at that moment is waited for. Default 30 s.
    pub fn with_append_timeout(mut self, timeout: Duration) -> Self {
        self.append_timeout = timeout;
        self
    }

    /// Sets how large an event may be: payload and metadata together, in bytes. Default 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets the clock of timeouts and polling. Default: the wall clock. Leases expire by the
    /// server's clock, whatever this one says.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What the database is called in errors: never with a password.
    pub(super) fn database(&self) -> String {
        let options = self.connect_options();
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let (host, port) = (options.get_host(), options.get_port());
        format!("postgres://{host}:{port}/{database}#{}", self.schema.name())
    }

    /// Refuses what the server can't do, and what could only be ignored.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (name, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("append_timeout", self.append_timeout),
        ] {
            if duration < SHORTEST || duration > LONGEST {
                return Err(invalid(format!("{name} is {duration:?}; it has 1 ms to 24 days")));
            }
        }
        if self.max_connections > MAX_CONNECTIONS {
            let connections = self.max_connections;
            let reason = format!(
                "max_connections is {connections}; PostgreSQL allows at most {MAX_CONNECTIONS}"
            );
            return Err(invalid(reason));
        }
        let bytes = self.max_event_bytes;
        if !(1..=LARGEST).contains(&bytes) {
            return Err(invalid(format!("max_event_bytes is {bytes}; it is 1 to {LARGEST}")));
        }
        self.check_encryption()
    }

    fn check_encryption(&self) -> Result<(), StoreError> {
        if matches!(self.source, Source::Connect(_)) || self.encryption.is_unsaid() {
            return Ok(());
        }
        let reason = "a pool that was handed in is encrypted as it is; the listening URL can name \
                      sslmode, sslrootcert, sslcert and sslkey for itself";
        Err(invalid(reason.to_owned()))
    }

    pub(super) fn connect_options(&self) -> PgConnectOptions {
        match &self.source {
            Source::Connect(options) => self.encryption.apply((**options).clone()),
            Source::Pool(pool) => (*pool.connect_options()).clone(),
        }
    }

    /// How to connect for listening; `None` where that is impossible.
    pub(super) fn listen_options(&self) -> Option<PgConnectOptions> {
        match &self.listen {
            Some(listen) => Some(self.encryption.apply((**listen).clone())),
            None if self.pooler.keeps_sessions() => Some(self.connect_options()),
            None => None,
        }
    }
}

impl FromStr for PostgresOptions {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        Self::new(url)
    }
}

/// Shows no password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresOptions")
            .field("database", &self.database())
            .field("pooler", &self.pooler)
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("append_timeout", &self.append_timeout)
            .field("max_event_bytes", &self.max_event_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgPoolOptions, PgSslMode};

    use super::*;

    #[test]
    fn should_never_show_a_password() {
        let options = PostgresOptions::new("postgres://me:geheim@db.example:5433/orders").unwrap();
        assert_eq!(options.database(), "postgres://db.example:5433/orders#aios");
        assert!(!format!("{options:?}").contains("geheim"));
        let error = PostgresOptions::new("postgres://me:geheim@host:port").unwrap_err();
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
        assert!(!format!("{error:?}").contains("geheim"));
    }

    #[test]
    fn should_refuse_limits_that_make_no_sense() {
        let options = || PostgresOptions::new("postgres://me@host/db").unwrap();
        assert!(options().check().is_ok());
        for options in [
            options().with_connect_timeout(Duration::ZERO),
            options().with_statement_timeout(Duration::ZERO),
            options().with_statement_timeout(Duration::from_micros(10)),
            options().with_lock_timeout(Duration::from_secs(30 * 86_400)),
            options().with_append_timeout(Duration::MAX),
            options().with_max_connections(u32::MAX),
            options().with_max_event_bytes(0),
            options().with_max_event_bytes(usize::MAX),
        ] {
            assert_eq!(options.check().unwrap_err().code(), "INVALID_STORE_CONFIGURATION");
        }
    }

    #[test]
    fn should_encrypt_every_connection() {
        let options = PostgresOptions::new("postgres://me@host/db").unwrap();
        let options = options.with_tls(Tls::VerifyFull(Some("ca.pem".into())));
        let options = options.with_listen_url("postgres://me@other/db?sslmode=disable").unwrap();
        for connect in [options.connect_options(), options.listen_options().unwrap()] {
            assert!(matches!(connect.get_ssl_mode(), PgSslMode::VerifyFull));
        }
    }

    #[tokio::test]
    async fn should_refuse_encryption_that_a_pool_would_ignore() {
        let options = PostgresOptions::new("postgres://me@host/db").unwrap().connect_options();
        let pool = PgPoolOptions::new().connect_lazy_with(options);
        let options = PostgresOptions::from_pool(pool);
        assert!(options.check().is_ok());
        for options in [
            options.clone().with_tls(Tls::Require),
            options.with_client_certificate("cert.pem", "key.pem"),
        ] {
            assert_eq!(options.check().unwrap_err().code(), "INVALID_STORE_CONFIGURATION");
        }
    }
}
