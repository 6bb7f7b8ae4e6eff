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

pub use self::tls::Tls;
pub(crate) use self::{
    guard::ConnectionGuard,
    statement::{Sql, Statement},
    tls::Encryption,
    url::parse,
};
use super::{
    error::{is_lost, is_read_only, store_error},
    options::{Pooler, PostgresOptions, Source},
    schema::{MigrateError, Schema, migrate},
};

/// How much longer than the server this side waits for a statement, so that the server's own answer
/// arrives if there is one.
const GRACE: Duration = Duration::from_secs(2);

/// How long one more attempt to connect may take that only finds out the cause.
const PROBE: Duration = Duration::from_secs(1);

/// Statements kept prepared on each connection; this adapter has fewer.
const STATEMENTS: usize = 64;

/// The way to the server: connections, and a limit to every wait.
#[derive(Clone)]
pub(crate) struct Database(Arc<Inner>);

struct Inner {
    pool: PgPool,
    owns_pool: bool,
    is_closed: AtomicBool,
    listen: Option<PgConnectOptions>,
    schema: Schema,
    name: String,
    pooler: Pooler,
    /// Begins a transaction.
    begin: Cow<'static, str>,
    connect_timeout: Duration,
    statement_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Database {
    /// Opens the first connection and brings the schema up to date.
    pub(crate) async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        let database = Self(Arc::new(Inner {
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
        }));
        database.migrate().await?;
        Ok(database)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.acquire().await?;
        let work = async { Ok(migrate(&mut connection, self.schema()).await) };
        let result = self.bounded("migrate the schema", self.limit(), work).await?;
        connection.release();
        result.map_err(|error| match error {
            MigrateError::Newer { found, known } => {
                StoreError::NewerSchema { database: self.name().to_owned(), found, known }
            }
            MigrateError::Driver(error) => self.error("migrate the schema", error),
        })
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.0.schema
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(crate) fn pooler(&self) -> Pooler {
        self.0.pooler
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    /// How long this side waits for a statement.
    pub(crate) fn limit(&self) -> Duration {
        self.0.statement_timeout.saturating_add(GRACE)
    }

    /// How to connect for listening; `None` where that is impossible.
    pub(crate) fn listen(&self) -> Option<&PgConnectOptions> {
        self.0.listen.as_ref()
    }

    pub(crate) fn error(&self, operation: &'static str, error: sqlx::Error) -> StoreError {
        store_error(operation, self.name(), error)
    }

    /// A connection of the pool.
    pub(crate) async fn acquire(&self) -> Result<ConnectionGuard, StoreError> {
        let connection = self.try_acquire().await;
        self.connected(connection).await
    }

    async fn connected(
        &self,
        connection: Option<sqlx::Result<ConnectionGuard>>,
    ) -> Result<ConnectionGuard, StoreError> {
        match connection {
            None | Some(Err(sqlx::Error::PoolTimedOut)) => Err(self.unreachable().await),
            connection => self.answer("connect", self.connect_timeout(), connection),
        }
    }

    /// Why there was no connection in time. The pool, which tries again and again, does not say, so
    /// that one more is tried, unless the pool is full and others keep its connections.
    async fn unreachable(&self) -> StoreError {
        let pool = &self.0.pool;
        if pool.size() < pool.options().get_max_connections() {
            let options = pool.connect_options();
            let probe = self.within(PROBE, PgConnection::connect_with(&options)).await;
            if let Some(Err(error)) = probe {
                return self.error("connect", error);
            }
        }
        StoreError::Timeout { operation: "connect", after: self.connect_timeout() }
    }

    /// Closes the connections that nobody uses: they may lead to a server that is not the right one
    /// any more.
    pub(crate) fn discard_idle(&self) {
        for _ in 0..self.0.pool.num_idle() {
            let Some(mut connection) = self.0.pool.try_acquire() else { break };
            connection.close_on_drop();
        }
    }

    /// As [`acquire`](Self::acquire), with the driver's own error; `None` when the time is up.
    pub(crate) async fn try_acquire(&self) -> Option<sqlx::Result<ConnectionGuard>> {
        if self.0.is_closed.load(Ordering::Acquire) {
            return Some(Err(sqlx::Error::PoolClosed));
        }
        let connection = self.within(self.connect_timeout(), self.0.pool.acquire()).await?;
        Some(connection.map(ConnectionGuard::new))
    }

    /// As [`try_acquire`](Self::try_acquire), a connection that answers. Those that were idle when the
    /// server went away are still in the pool, and are used up here.
    pub(crate) async fn acquire_alive(&self) -> Option<sqlx::Result<ConnectionGuard>> {
        for _ in 0..self.0.pool.num_idle() {
            let Ok(mut connection) = self.try_acquire().await? else { break };
            if let Some(Ok(())) = self.within(self.connect_timeout(), connection.ping()).await {
                return Some(Ok(connection));
            }
        }
        self.try_acquire().await
    }

    /// Runs one statement by itself, and returns its rows. If the connection turns out to be dead,
    /// or to lead to a server that only reads, it is run on another one, so that it must do no harm to
    /// run it twice.
    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        query: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut rows = self.fetch(self.acquire().await?, query.clone()).await;
        if let Some(Err(error)) = &rows
            && (is_lost(error) || is_read_only(error))
        {
            let connection = self.acquire_alive().await;
            let connection = self.connected(connection).await?;
            rows = self.fetch(connection, query).await;
        }
        self.answer(operation, self.limit(), rows)
    }

    /// Runs one statement by itself, once, and returns its rows.
    pub(crate) async fn fetch_once(
        &self,
        operation: &'static str,
        query: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let rows = self.fetch(self.acquire().await?, query).await;
        self.answer(operation, self.limit(), rows)
    }

    async fn fetch(
        &self,
        mut connection: ConnectionGuard,
        query: Statement,
    ) -> Option<sqlx::Result<Vec<PgRow>>> {
        let rows = self.within(self.limit(), self.run(&mut connection, query)).await?;
        match &rows {
            Err(error) if is_read_only(error) => self.discard_idle(),
            Err(error) if is_lost(error) => {}
            _ => connection.release(),
        }
        Some(rows)
    }

    /// Runs one statement: in one round trip, or in a transaction of its own where a pooler would
    /// otherwise prepare it on one server connection and run it on another.
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

    /// Gives up waiting when the time is up.
    pub(crate) async fn bounded<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, StoreError> {
        let result = self.within(limit, work).await;
        self.answer(operation, limit, result)
    }

    fn answer<T>(
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

    /// What the future returns; `None` when the time is up first.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut alarm = self.clock().sleep(limit);
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    /// Begins a transaction, where nobody else began one.
    pub(crate) fn begin(&self) -> Cow<'static, str> {
        self.0.begin.clone()
    }

    /// Refuses later calls, and closes every connection of its own, as soon as it is given back.
    pub(crate) async fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        if self.0.owns_pool {
            self.within(self.connect_timeout(), self.0.pool.close()).await;
        }
    }
}

/// Begins a transaction; with the limits in the same round trip where no session keeps them.
fn begin(options: &PostgresOptions) -> Cow<'static, str> {
    if options.pooler.keeps_sessions() {
        return "BEGIN".into();
    }
    let (statement, lock) = (options.statement_timeout, options.lock_timeout);
    let sql = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
        statement.as_millis(),
        lock.as_millis()
    );
    sql.into()
}

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

/// The settings of each session, where there are sessions.
fn session(connect: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let connect = quiet(connect).statement_cache_capacity(STATEMENTS);
    if !options.pooler.keeps_sessions() {
        return connect;
    }
    connect.options([
        ("statement_timeout", options.statement_timeout.as_millis().to_string()),
        ("lock_timeout", options.lock_timeout.as_millis().to_string()),
        // The driver leaves it to its user to escape spaces.
        ("default_transaction_isolation", r"read\ committed".to_owned()),
    ])
}

/// Sends nothing that poolers don't know, and logs no statements unasked.
fn quiet(connect: PgConnectOptions) -> PgConnectOptions {
    connect.extra_float_digits(None).disable_statement_logging()
}
