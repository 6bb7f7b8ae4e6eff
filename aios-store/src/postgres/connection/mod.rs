//! Connections to the server, with a time limit on every wait.
//!
//! The time limits work in layers. The server enforces `statement_timeout` and `lock_timeout` and
//! reports an error that names the reason. The client waits a little longer ([`GRACE`]) and gives
//! up by itself, because a network that swallows packets never reports anything. Every `await` on
//! the driver goes through `within`, except the return of a connection, which has a limit of its
//! own.
//!
//! A connection returns to the pool only after its statement has finished. In all other cases
//! (timeout, lost connection, dropped future) the guard closes it.
//!
//! | pooler | settings of the session | prepared statements | a statement is |
//! |---|---|---|---|
//! | `Session` | startup parameters | yes | one message |
//! | `Transaction` | those of the role | yes | one message |
//! | `TransactionUnprepared` | `SET LOCAL` in each transaction | no | a transaction of its own |
//!
//! The pool does not test connections before use, which would cost a round trip for every
//! statement. A dead connection is found by the statement that fails on it. Statements that may be
//! repeated are repeated once on a connection that answered a ping.

mod guard;
mod statement;
mod tls;
mod url;

use std::{
    borrow::Cow,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use aios_core::{clock::Clock, store::StoreError};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tracing::info;

pub use self::tls::Tls;
pub(crate) use self::{
    guard::ConnectionGuard,
    statement::{Sql, Statement},
    tls::Encryption,
    url::parse,
};
use super::{
    error::{at_server, has_lost_event, is_lost, needs_new_session, store_error},
    options::{Pooler, PostgresOptions, Source},
    schema::{MIGRATION_LIMIT, MigrateError, Schema, check_encoding, migrate, outdated, versions},
    sequences::correct_sequences,
};
use crate::{measure, schema_version::SchemaVersion};

/// How much longer than the server's statement timeout the client waits, so that an error of the server
/// arrives before the client gives up.
const GRACE: Duration = Duration::from_secs(2);

/// Time limit of the additional attempt to connect that finds out why the pool has no connection.
const PROBE: Duration = Duration::from_secs(1);

/// Name of the migration in errors.
const MIGRATE: &str = "migrate the schema";

/// Number of prepared statements that each connection caches. This adapter has fewer.
const STATEMENTS: usize = 64;

/// The connections to the server. Every wait has a time limit.
#[derive(Clone)]
pub(crate) struct Database(Arc<Inner>);

/// The state that the clones share.
struct Inner {
    /// All connections but the listening one.
    pool: PgPool,
    /// Whether `close` closes the pool.
    owns_pool: bool,
    /// Whether `close` was called. A pool that was passed in stays open, so it can't tell.
    is_closed: AtomicBool,
    /// `None` if the pooler does not support `LISTEN`.
    listen: Option<PgConnectOptions>,
    schema: Schema,
    /// Host, port, database and schema, for errors. Never a password.
    name: String,
    pooler: Pooler,
    /// The statement that begins a transaction.
    begin: Cow<'static, str>,
    /// How long to wait for a connection.
    connect_timeout: Duration,
    /// How long the server may work on a statement.
    statement_timeout: Duration,
    /// The clock of all time limits.
    clock: Arc<dyn Clock>,
}

impl Database {
    /// Opens the first connection and migrates the schema.
    pub(crate) async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let database = Self::new(options)?;
        database.migrate().await?;
        Ok(database)
    }

    /// Prepares connections without opening one.
    fn new(options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        Ok(Self(Arc::new(Inner {
            name: options.database(),
            listen: options.listen_options().map(quiet),
            pool: pool(&options),
            begin: begin(&options),
            owns_pool: matches!(options.source, Source::Connect(_)),
            is_closed: AtomicBool::new(false),
            schema: options.schema,
            pooler: options.pooler,
            connect_timeout: options.connect_timeout,
            statement_timeout: options.statement_timeout,
            clock: options.clock,
        })))
    }

    /// The versions of the schema, without a migration.
    pub(crate) async fn schema_version(
        options: PostgresOptions,
    ) -> Result<SchemaVersion, StoreError> {
        let database = Self::new(options)?;
        let mut connection = database.acquire().await?;
        let work = versions(&mut connection, database.schema());
        let found =
            database.bounded("read the version of the schema", database.limit(), work).await;
        connection.release();
        database.close().await;
        found
    }

    /// Migrates the schema if it is outdated, and corrects its sequences. Reading the version first spares the lock of
    /// migrations in the usual case.
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        self.bounded("read the encoding", self.limit(), check_encoding(&mut connection)).await?;
        let work = async { Ok(outdated(&mut connection, self.schema()).await) };
        let version = self.bounded(MIGRATE, self.limit(), work).await?;
        if let Some(version) = version.map_err(|error| self.not_migrated(error))? {
            info!(
                schema = self.schema().name(),
                version,
                server = self.name(),
                "migrating the schema, or waiting for another process that does"
            );
            let limit = MIGRATION_LIMIT.saturating_add(GRACE);
            let work = async { Ok(migrate(&mut connection, self.schema()).await) };
            let result = self.bounded(MIGRATE, limit, work).await?;
            result.map_err(|error| self.not_migrated(error))?;
        }
        let work = correct_sequences(&mut connection, self.schema());
        self.bounded("correct the sequences", self.limit(), work).await?;
        connection.release();
        Ok(())
    }

    /// Maps an error of a migration.
    fn not_migrated(&self, error: MigrateError) -> StoreError {
        match error {
            MigrateError::Newer { found, known } => {
                StoreError::NewerSchema { database: self.name().to_owned(), found, known }
            }
            MigrateError::Driver(error) => self.error(MIGRATE, error),
        }
    }

    /// The schema of all tables and functions.
    pub(crate) fn schema(&self) -> &Schema {
        &self.0.schema
    }

    /// The name of the database in errors.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// The clock of all time limits.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// The pooler between this process and the server.
    pub(crate) fn pooler(&self) -> Pooler {
        self.0.pooler
    }

    /// How long to wait for a connection.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    /// How long the client waits for a statement.
    pub(crate) fn limit(&self) -> Duration {
        self.0.statement_timeout.saturating_add(GRACE)
    }

    /// Options of the listening connection. `None` if the pooler does not support `LISTEN`.
    pub(crate) fn listen(&self) -> Option<&PgConnectOptions> {
        self.0.listen.as_ref()
    }

    /// Maps an error of the driver during `operation`.
    pub(crate) fn error(&self, operation: &'static str, error: sqlx::Error) -> StoreError {
        store_error(operation, self.name(), error)
    }

    /// Takes a connection from the pool.
    pub(crate) async fn acquire(&self) -> Result<ConnectionGuard, StoreError> {
        let connection = self.try_acquire().await;
        self.acquired(connection).await
    }

    /// Converts a result of `try_acquire`, and finds out the cause of a timeout.
    async fn acquired(
        &self,
        connection: Option<sqlx::Result<ConnectionGuard>>,
    ) -> Result<ConnectionGuard, StoreError> {
        match connection {
            None | Some(Err(sqlx::Error::PoolTimedOut)) => Err(self.connect_error().await),
            connection => {
                let connected = self.finished("connect", self.connect_timeout(), connection);
                connected.map_err(|error| at_server(self.server(), error))
            }
        }
    }

    /// Finds out why there was no connection in time. The pool retries without reporting the cause, so
    /// this makes one attempt of its own, unless all connections of the pool are in use.
    async fn connect_error(&self) -> StoreError {
        let pool = &self.0.pool;
        if pool.size() < pool.options().get_max_connections() {
            let options = pool.connect_options();
            let probe = self.within(PROBE, PgConnection::connect_with(&options)).await;
            if let Some(Err(error)) = probe {
                return at_server(self.server(), self.error("connect", error));
            }
        }
        StoreError::Timeout { operation: "connect", after: self.connect_timeout() }
    }

    /// The host and port of the server, or the folder of its socket.
    fn server(&self) -> String {
        let options = self.0.pool.connect_options();
        match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }

    /// Closes the idle connections of the pool. They may lead to a server that is gone, or is no longer the
    /// primary.
    pub(crate) fn discard_idle(&self) {
        for _ in 0..self.0.pool.num_idle() {
            let Some(mut connection) = self.0.pool.try_acquire() else { break };
            connection.close_on_drop();
        }
    }

    /// The same as [`acquire`](Self::acquire), but returns the driver's own error, and `None` after the
    /// connect timeout.
    pub(crate) async fn try_acquire(&self) -> Option<sqlx::Result<ConnectionGuard>> {
        if self.0.is_closed.load(Ordering::Acquire) {
            return Some(Err(sqlx::Error::PoolClosed));
        }
        let connection = self.within(self.connect_timeout(), self.0.pool.acquire()).await?;
        let size = self.0.pool.size();
        let idle = self.0.pool.num_idle();
        measure::connections(size, u32::try_from(idle).unwrap_or(u32::MAX));
        Some(connection.map(ConnectionGuard::new))
    }

    /// The same as [`try_acquire`](Self::try_acquire), but pings an idle connection first. Connections that
    /// were idle when the server stopped are still in the pool, and each that is silent would cost the
    /// connect timeout. So if one does not answer, all idle ones are closed, and a new one is opened.
    pub(crate) async fn acquire_alive(&self) -> Option<sqlx::Result<ConnectionGuard>> {
        if self.0.pool.num_idle() > 0
            && let Ok(mut connection) = self.try_acquire().await?
        {
            if let Some(Ok(())) = self.within(self.connect_timeout(), connection.ping()).await {
                return Some(Ok(connection));
            }
            drop(connection);
            self.discard_idle();
        }
        self.try_acquire().await
    }

    /// Runs one statement outside a transaction and returns its rows. If the connection is dead, its
    /// server is read-only or its prepared statement is outdated, the statement is repeated on another connection,
    /// so it has to be idempotent. If the
    /// log lacks an event, the server may be a former primary, so the statement is repeated on a new
    /// connection, whose answer counts.
    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        query: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut rows = self.fetch(self.acquire().await?, query.clone()).await;
        if let Some(Err(error)) = &rows
            && (is_lost(error) || needs_new_session(error))
        {
            let connection = self.acquire_alive().await;
            let connection = self.acquired(connection).await?;
            rows = self.fetch(connection, query.clone()).await;
        }
        if let Some(Err(error)) = &rows
            && has_lost_event(error)
        {
            rows = self.fetch_again(query).await;
        }
        self.finished(operation, self.limit(), rows)
    }

    /// Runs one statement outside a transaction and returns its rows. Never repeats it.
    pub(crate) async fn fetch_once(
        &self,
        operation: &'static str,
        query: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let rows = self.fetch(self.acquire().await?, query).await;
        self.finished(operation, self.limit(), rows)
    }

    /// Runs one statement on a connection, and returns `None` after the time limit. The connection
    /// is kept unless it was lost, a new one is needed, or its server lacks events.
    async fn fetch(
        &self,
        mut connection: ConnectionGuard,
        query: Statement,
    ) -> Option<sqlx::Result<Vec<PgRow>>> {
        let rows = self.within(self.limit(), self.run(&mut connection, query)).await?;
        match &rows {
            Err(error) if needs_new_session(error) || has_lost_event(error) => self.discard_idle(),
            Err(error) if is_lost(error) => {}
            _ => connection.release(),
        }
        Some(rows)
    }

    /// Runs one statement on a connection that is not of the pool, in which all connections may lead to a former
    /// primary. Returns `None` after the time limit.
    async fn fetch_again(&self, query: Statement) -> Option<sqlx::Result<Vec<PgRow>>> {
        let options = self.0.pool.connect_options();
        let connecting = PgConnection::connect_with(&options);
        let mut connection = match self.within(self.connect_timeout(), connecting).await? {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        let rows = self.within(self.limit(), self.run(&mut connection, query)).await?;
        self.within(self.connect_timeout(), connection.close()).await;
        Some(rows)
    }

    /// Runs one statement in one round trip. Behind a pooler without prepared statements it runs in a
    /// transaction of its own, because the pooler could otherwise send its parts to two server
    /// connections.
    pub(crate) async fn run(
        &self,
        connection: &mut PgConnection,
        statement: Statement,
    ) -> sqlx::Result<Vec<PgRow>> {
        if self.pooler().prepares() {
            return statement.fetch_all(connection).await;
        }
        let mut transaction = connection.begin_with(self.0.begin.clone()).await?;
        let rows = statement.persistent(false).fetch_all(&mut transaction).await?;
        transaction.commit().await.map(|()| rows)
    }

    /// Waits for `work` at most as long as `limit`.
    pub(crate) async fn bounded<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, StoreError> {
        let result = self.within(limit, work).await;
        self.finished(operation, limit, result)
    }

    /// Converts a result of [`within`](Self::within).
    fn finished<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        result: Option<sqlx::Result<T>>,
    ) -> Result<T, StoreError> {
        match result {
            Some(result) => result.map_err(|error| self.error(operation, error)),
            None => Err(StoreError::Timeout { operation, after: limit }),
        }
    }

    /// Returns the output of the future, or `None` if the time limit passes first.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut timeout = self.clock().sleep(limit);
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => timeout.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    /// The statement that begins a transaction.
    pub(crate) fn begin(&self) -> Cow<'static, str> {
        self.0.begin.clone()
    }

    /// Refuses later calls. Closes the pool, unless it was passed in: each connection is closed as soon
    /// as it is released.
    pub(crate) async fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        if self.0.owns_pool {
            self.within(self.connect_timeout(), self.0.pool.close()).await;
        }
    }
}

/// The statement that begins a transaction. If no session keeps the timeouts, they are set in the same
/// round trip.
fn begin(options: &PostgresOptions) -> Cow<'static, str> {
    if options.pooler.keeps_sessions() {
        return "BEGIN".into();
    }
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
        options.statement_timeout.as_millis(),
        options.lock_timeout.as_millis()
    )
    .into()
}

/// The pool. It opens connections when they are needed, and waits longer than this module does, so
/// that the time limit of this module applies.
fn pool(options: &PostgresOptions) -> PgPool {
    match &options.source {
        Source::Pool(pool) => pool.clone(),
        Source::Connect(_) => PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.connect_timeout.saturating_add(GRACE))
            .test_before_acquire(false)
            .connect_lazy_with(session(options.connect_options(), options)),
    }
}

/// Adds the settings of the session, if the pooler keeps sessions.
fn session(connect: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let connect = quiet(connect).statement_cache_capacity(STATEMENTS);
    if !options.pooler.keeps_sessions() {
        return connect;
    }
    connect.options([
        ("statement_timeout", options.statement_timeout.as_millis().to_string()),
        ("lock_timeout", options.lock_timeout.as_millis().to_string()),
        // The driver does not escape spaces.
        ("default_transaction_isolation", r"read\ committed".to_owned()),
    ])
}

/// Leaves out a startup parameter that poolers refuse, and disables the logging of statements.
///
/// The log of statements would hold payloads.
fn quiet(connect: PgConnectOptions) -> PgConnectOptions {
    connect.extra_float_digits(None).disable_statement_logging()
}
