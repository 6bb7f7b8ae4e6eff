use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use aios_core::{
    clock::{Clock, ClockExt},
    store::StoreError,
};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};

use super::{
    error::store_error,
    options::{Pooler, PostgresOptions, Source},
    schema::{MigrateError, Schema, migrate},
};

/// How much longer than the server this side waits for a statement, so that the server's own answer
/// arrives if there is one.
const GRACE: Duration = Duration::from_secs(2);

/// Statements kept prepared on each connection; this adapter has fewer.
const STATEMENTS: usize = 64;

/// A statement with its arguments.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The way to the server: connections, and a limit to every wait.
#[derive(Clone)]
pub(super) struct Database(Arc<Inner>);

struct Inner {
    pool: PgPool,
    listen: Option<PgConnectOptions>,
    schema: Schema,
    name: String,
    pooler: Pooler,
    connect_timeout: Duration,
    statement_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Database {
    /// Opens the first connection and brings the schema up to date.
    pub(super) async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        let database = Self(Arc::new(Inner {
            name: options.database(),
            listen: options.listen_options().map(quiet),
            pool: pool(&options),
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
        self.bounded("migrate the schema", self.limit(), work).await?.map_err(|error| match error {
            MigrateError::Newer { found, known } => {
                StoreError::NewerSchema { database: self.name().to_owned(), found, known }
            }
            MigrateError::Driver(error) => self.error("migrate the schema", error),
        })
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.0.schema
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(super) fn pooler(&self) -> Pooler {
        self.0.pooler
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    /// How long this side waits for a statement.
    pub(super) fn limit(&self) -> Duration {
        self.0.statement_timeout.saturating_add(GRACE)
    }

    /// How to connect for listening; `None` where that is impossible.
    pub(super) fn listen(&self) -> Option<&PgConnectOptions> {
        self.0.listen.as_ref()
    }

    pub(super) fn error(&self, operation: &'static str, error: sqlx::Error) -> StoreError {
        store_error(operation, self.name(), error)
    }

    /// A connection of the pool.
    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.bounded("connect", self.connect_timeout(), self.0.pool.acquire()).await
    }

    /// As [`acquire`](Self::acquire), with the driver's own error; `None` when the time is up.
    pub(super) async fn try_acquire(&self) -> Option<sqlx::Result<PoolConnection<Postgres>>> {
        self.within(self.connect_timeout(), self.0.pool.acquire()).await
    }

    /// Runs one statement by itself, and returns its rows.
    pub(super) async fn fetch_all(
        &self,
        operation: &'static str,
        query: Statement<'_>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.acquire().await?;
        let work = run(&mut connection, self.pooler(), query);
        let rows = self.bounded(operation, self.limit(), work).await;
        if rows.as_ref().is_err_and(|error| error.is_retryable()) {
            connection.close_on_drop();
        }
        rows
    }

    /// Gives up waiting when the time is up.
    pub(super) async fn bounded<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, StoreError> {
        match self.within(limit, work).await {
            Some(result) => result.map_err(|error| self.error(operation, error)),
            None => Err(StoreError::Timeout { operation, after: limit }),
        }
    }

    /// What the future returns; `None` when the time is up first.
    pub(super) async fn within<T>(
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

    /// Closes every connection, as soon as it is given back.
    pub(super) async fn close(&self) {
        self.0.pool.close().await;
    }
}

/// Runs one statement: in one round trip, or in a transaction of its own where a pooler would
/// otherwise prepare it on one server connection and run it on another.
pub(super) async fn run(
    connection: &mut PgConnection,
    pooler: Pooler,
    statement: Statement<'_>,
) -> sqlx::Result<Vec<PgRow>> {
    if pooler.prepares() {
        return statement.fetch_all(connection).await;
    }
    let mut transaction = connection.begin().await?;
    let rows = statement.persistent(false).fetch_all(&mut *transaction).await?;
    transaction.commit().await.map(|()| rows)
}

fn pool(options: &PostgresOptions) -> PgPool {
    match &options.source {
        Source::Pool(pool) => pool.clone(),
        Source::Connect(_) => PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.connect_timeout)
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
        ("default_transaction_isolation", "read committed".to_owned()),
    ])
}

/// Sends nothing that poolers don't know, and logs no statements unasked.
fn quiet(connect: PgConnectOptions) -> PgConnectOptions {
    connect.extra_float_digits(None).disable_statement_logging()
}
