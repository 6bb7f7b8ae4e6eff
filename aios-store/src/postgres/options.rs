//! Options of the PostgreSQL store.
//!
//! Setters cannot fail. A URL or a schema that does not parse is kept as the first fault and is
//! reported by `connect_with`. No error and no `Debug` output shows a URL, because it has a
//! password.

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

/// Limits of durations. `statement_timeout` and `lock_timeout` are milliseconds in 31 bits, and 0 means
/// no timeout.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 86_400);

/// PostgreSQL's own limit of `max_connections`.
const MAX_CONNECTIONS: u32 = 262_143;

/// The fewest connections of a pool that was passed in: the one that is kept for appends, and one for
/// everything else.
const FEWEST_CONNECTIONS: u32 = 2;

/// Upper limit of `max_event_bytes`: half of the longest message that PostgreSQL accepts.
const LARGEST_EVENT: usize = 1 << 29;

/// The error for an invalid option.
fn invalid(reason: String) -> StoreError {
    StoreError::InvalidConfiguration { reason }
}

/// The connection pooler between this process and the server.
///
/// # Examples
///
/// PgBouncer in transaction mode on port 6432. The listening connection bypasses it, because `LISTEN`
/// needs a session:
///
/// ```
/// use aios_store::postgres::{Pooler, PostgresOptions};
///
/// let options = PostgresOptions::new("postgres://shop:password@db.example:6432/shop")
///     .with_pooler(Pooler::Transaction)
///     .with_listen_url("postgres://shop:password@db.example:5432/shop");
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooler {
    /// No pooler, or a pooler that keeps a session for each connection.
    #[default]
    Session,
    /// A pooler that assigns a server connection per transaction and tracks prepared statements:
    /// PgBouncer 1.21 or later with `max_prepared_statements` above 0. The timeouts of statements and
    /// locks are then those of the role, and the client stops waiting after its own timeouts.
    Transaction,
    /// A pooler that assigns a server connection per transaction and does not support prepared
    /// statements. Each call is a transaction that sets its timeouts, which costs three more round
    /// trips.
    TransactionUnprepared,
}

impl Pooler {
    /// Whether settings and `LISTEN` last longer than a transaction.
    pub(super) fn keeps_sessions(self) -> bool {
        self == Self::Session
    }

    /// Whether statements can be prepared.
    pub(super) fn prepares(self) -> bool {
        self != Self::TransactionUnprepared
    }
}

/// The source of connections.
#[derive(Clone)]
pub(super) enum Source {
    /// The store opens its own pool.
    Connect(Box<PgConnectOptions>),
    /// A pool of the program, with its own settings, which the store does not close.
    Pool(PgPool),
}

/// Options of a [`PostgresStore`](super::PostgresStore).
///
/// A URL has to name the user. The defaults of its other parts are the host `localhost`, port 5432, no
/// password, the database with the name of the user, and `sslmode=prefer`. The environment variables and
/// the password file of libpq are ignored, with two exceptions that the driver does not allow to turn
/// off: `PGSSLCERT` with `PGSSLKEY` applies if no client certificate is set, and `PGOPTIONS` applies if
/// the URL does not set `options`.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_store::postgres::{PostgresOptions, PostgresStore, Tls};
///
/// # async fn example() -> Result<(), aios_core::store::StoreError> {
/// let options = PostgresOptions::new("postgres://me:secret@db.example/orders")
///     .with_schema("orders_aios")
///     .with_tls(Tls::VerifyFull(None))
///     .with_max_connections(20)
///     .with_statement_timeout(Duration::from_secs(10));
/// let store = PostgresStore::connect_with(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct PostgresOptions {
    /// Where connections come from.
    pub(super) source: Source,
    /// The first URL or schema that is invalid.
    fault: Option<StoreError>,
    /// A URL of its own for the listening connection.
    listen: Option<Box<PgConnectOptions>>,
    /// Overrides the URLs.
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
    /// Creates options from a URL: `postgres://user:password@host:port/database`, with the parameters of
    /// libpq, such as `sslmode` and `sslrootcert`. Parameters of libpq that the driver does not support,
    /// such as `connect_timeout` and `channel_binding`, are ignored.
    ///
    /// An invalid URL, for example one with an unknown parameter, is refused by
    /// [`connect_with`](super::PostgresStore::connect_with). The message never shows the URL.
    pub fn new(url: &str) -> Self {
        match parse(url) {
            Ok(connect) => Self::from_source(Source::Connect(Box::new(connect))),
            Err(fault) => {
                let unused = Source::Connect(Box::new(PgConnectOptions::new_without_pgpass()));
                Self { fault: Some(fault), ..Self::from_source(unused) }
            }
        }
    }

    /// Creates options that use an existing pool. The store keeps one connection of it for appends, so the
    /// pool needs at least 2, or 3 if reads should not wait for notifications and for a rebuild of the read
    /// models. The settings of the pool are not changed, so the timeouts of statements and locks are not set on
    /// the server; the client still stops waiting after them.
    ///
    /// The connection that listens for notifications is not one of the pool. It uses the connect options that
    /// the pool has now, and runs none of its callbacks: a role or a setting that `after_connect` sets does not
    /// apply to it. That is enough to listen, which needs no privilege. If this connection can't be opened,
    /// appends of other processes are found by polling.
    ///
    /// The store can't see whether a pool has callbacks. If `after_connect` fails, the driver logs the error
    /// and tries again, and the store reports [`StoreError::Timeout`] for the operation `connect`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use aios_store::postgres::{PostgresOptions, PostgresStore};
    /// use sqlx::postgres::PgPoolOptions;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// // The pool that the rest of the program uses.
    /// let pool = PgPoolOptions::new()
    ///     .max_connections(20)
    ///     .connect("postgres://shop:password@db.example.org/shop")
    ///     .await?;
    /// let options = PostgresOptions::from_pool(pool).with_schema("aios_shop");
    /// let store = PostgresStore::connect_with(options).await?;
    /// # drop(store);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_pool(pool: PgPool) -> Self {
        Self::from_source(Source::Pool(pool))
    }

    /// The defaults.
    fn from_source(source: Source) -> Self {
        Self {
            source,
            fault: None,
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

    /// Sets the schema of all tables and functions, which is created if it does not exist. A name is a
    /// lower-case letter or `_`, followed by up to 47 lower-case letters, digits or `_`, and does not
    /// begin with `pg_`. Default `aios`.
    pub fn with_schema(mut self, name: &str) -> Self {
        match name.parse() {
            Ok(schema) => self.schema = schema,
            Err(fault) => self.refuse(fault),
        }
        self
    }

    /// Sets the encryption of every connection, including the listening one. Default: the setting of the
    /// URL, or [`Tls::Prefer`]. Not allowed with a pool that was passed in, because the pool has its own
    /// setting.
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.encryption.tls = Some(tls);
        self
    }

    /// Sets the client certificate and its key, two PEM files, for every connection. Not allowed with a
    /// pool that was passed in, the same as [`with_tls`](Self::with_tls).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_store::postgres::{PostgresOptions, Tls};
    ///
    /// let options = PostgresOptions::new("postgres://shop@db.example/shop")
    ///     .with_tls(Tls::VerifyFull(Some("/etc/tls/ca.pem".into())))
    ///     .with_client_certificate("/etc/tls/shop.pem", "/etc/tls/shop.key");
    /// # let _ = options;
    /// ```
    pub fn with_client_certificate(
        mut self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Self {
        let pair = (certificate.as_ref().to_owned(), key.as_ref().to_owned());
        self.encryption.client = Some(pair);
        self
    }

    /// Sets the connection pooler between this process and the server. Default [`Pooler::Session`].
    pub fn with_pooler(mut self, pooler: Pooler) -> Self {
        self.pooler = pooler;
        self
    }

    /// Sets the URL of the connection that listens for notifications. It has to bypass a pooler that does
    /// not keep sessions. Without such a connection, appends of other processes are found by polling.
    pub fn with_listen_url(mut self, url: &str) -> Self {
        match parse(url) {
            Ok(listen) => self.listen = Some(Box::new(listen)),
            Err(fault) => self.refuse(fault),
        }
        self
    }

    /// Sets the maximum number of connections, not counting the listening one. Values below 3 are raised
    /// to 3, so that appends, notifications and reads do not wait for each other. Default 10. Has no
    /// effect on a pool that was passed in, which needs at least 2.
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.max(3);
        self
    }

    /// Sets how long to wait for a connection, 1 ms to 24 days. Default 5 s.
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a statement may take, 1 ms to 24 days. Default 30 s. Migrations of the schema may
    /// take an hour whatever it is.
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Sets how long a statement may wait for a lock, 1 ms to 24 days. Default 10 s.
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Sets how long an append may wait in the queue and be retried, counted from the call, 1 ms to
    /// 24 days. After that it fails with [`StoreError::Timeout`] if it was not sent or it is unknown whether
    /// it is stored, and with the last error otherwise. An attempt that is in progress at that time is
    /// still awaited. Default 30 s.
    pub fn with_append_timeout(mut self, timeout: Duration) -> Self {
        self.append_timeout = timeout;
        self
    }

    /// Sets the size limit of an event: payload and metadata together, 1 to 536,870,912 bytes. Default
    /// 16 MiB. All events of an append have to fit into one message of PostgreSQL, which has less than 1 GiB,
    /// and what the read models take from them into a `jsonb`, which has less than 256 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets the clock for timeouts and polling. Default: the wall clock. Leases always expire by the
    /// clock of the server.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps the first fault.
    fn refuse(&mut self, fault: StoreError) {
        self.fault.get_or_insert(fault);
    }

    /// The name of the database in errors. It never contains the password.
    pub(super) fn database(&self) -> String {
        let options = self.connect_options();
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let host = options.get_host();
        let port = options.get_port();
        format!("postgres://{host}:{port}/{database}#{}", self.schema.name())
    }

    /// Refuses invalid URLs and schemas, options that are out of range, and options that would have no
    /// effect.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        for (name, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("append_timeout", self.append_timeout),
        ] {
            if duration < SHORTEST || duration > LONGEST {
                return Err(invalid(format!(
                    "{name} is {duration:?}; it must be between 1 ms and 24 days"
                )));
            }
        }
        if self.max_connections > MAX_CONNECTIONS {
            let connections = self.max_connections;
            let reason = format!(
                "max_connections is {connections}; the maximum of PostgreSQL is {MAX_CONNECTIONS}"
            );
            return Err(invalid(reason));
        }
        let bytes = self.max_event_bytes;
        if !(1..=LARGEST_EVENT).contains(&bytes) {
            return Err(invalid(format!(
                "max_event_bytes is {bytes}; it must be between 1 and {LARGEST_EVENT}"
            )));
        }
        self.check_pool()?;
        self.check_encryption()
    }

    /// Refuses a pool from which nothing could be read after the first append.
    fn check_pool(&self) -> Result<(), StoreError> {
        let Source::Pool(pool) = &self.source else { return Ok(()) };
        let connections = pool.options().get_max_connections();
        if connections >= FEWEST_CONNECTIONS {
            return Ok(());
        }
        Err(invalid(format!(
            "the pool has max_connections {connections}; the store keeps one connection for appends and \
             needs others, so set it to at least {FEWEST_CONNECTIONS}"
        )))
    }

    /// Refuses encryption options that a pool would ignore. A connection that is not encrypted
    /// although the program asked for it must not go unnoticed.
    fn check_encryption(&self) -> Result<(), StoreError> {
        if matches!(self.source, Source::Connect(_)) || self.encryption.is_unset() {
            return Ok(());
        }
        let reason = "encryption options have no effect on a pool that was passed in; set \
                      sslmode, sslrootcert, sslcert and sslkey in the listening URL instead";
        Err(invalid(reason.to_owned()))
    }

    /// How to connect, with the encryption applied.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        match &self.source {
            Source::Connect(options) => self.encryption.apply((**options).clone()),
            Source::Pool(pool) => (*pool.connect_options()).clone(),
        }
    }

    /// Options of the listening connection. `None` if the pooler does not support `LISTEN`.
    pub(super) fn listen_options(&self) -> Option<PgConnectOptions> {
        match &self.listen {
            Some(listen) => Some(self.encryption.apply((**listen).clone())),
            None if self.pooler.keeps_sessions() => Some(self.connect_options()),
            None => None,
        }
    }
}

/// Unlike [`PostgresOptions::new`], this refuses an invalid URL at once.
///
/// # Examples
///
/// ```
/// use aios_store::postgres::PostgresOptions;
///
/// let options = "postgres://shop:secret@db.example/shop".parse::<PostgresOptions>();
/// assert!(!format!("{options:?}").contains("secret"));
/// assert!("postgres://db.example/shop".parse::<PostgresOptions>().is_err()); // no user
/// ```
impl FromStr for PostgresOptions {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        let options = Self::new(url);
        options.check().map(|()| options)
    }
}

/// Never shows the password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("PostgresOptions");
        match &self.fault {
            Some(fault) => shown.field("fault", fault),
            None => shown.field("database", &self.database()),
        };
        shown
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
        let options = PostgresOptions::new("postgres://me:geheim@db.example:5433/orders");
        assert_eq!(options.database(), "postgres://db.example:5433/orders#aios");
        assert!(!format!("{options:?}").contains("geheim"));
        let options = PostgresOptions::new("postgres://me:geheim@host:port");
        assert!(!format!("{options:?}").contains("geheim"));
        let error = options.check().unwrap_err();
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
        assert!(!format!("{error:?}").contains("geheim"));
    }

    #[test]
    fn should_report_the_first_invalid_text_when_it_connects() {
        let options = || PostgresOptions::new("postgres://me@host/db");
        for (options, reason) in [
            (PostgresOptions::new("postgres://host:port"), "URL"),
            (options().with_schema("pg_mine").with_listen_url("x"), "pg_mine"),
            (options().with_listen_url("x").with_schema("pg_mine"), "URL"),
        ] {
            let error = options.check().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
            assert!(error.to_string().contains(reason), "{error} should name {reason}");
        }
    }

    #[test]
    fn should_refuse_limits_out_of_range() {
        let options = || PostgresOptions::new("postgres://me@host/db");
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
        let options = PostgresOptions::new("postgres://me@host/db");
        let options = options.with_tls(Tls::VerifyFull(Some("ca.pem".into())));
        let options = options.with_listen_url("postgres://me@other/db?sslmode=disable");
        for connect in [options.connect_options(), options.listen_options().unwrap()] {
            assert!(matches!(connect.get_ssl_mode(), PgSslMode::VerifyFull));
        }
    }

    #[tokio::test]
    async fn should_refuse_encryption_that_a_pool_would_ignore() {
        let options = PostgresOptions::new("postgres://me@host/db").connect_options();
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
