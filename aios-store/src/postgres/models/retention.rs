//! Retention: the conditions are in SQL functions, and each call is one transaction.
//!
//! The function finds the candidates first, then takes the append lock and checks them again, so
//! that appends wait only for the removal. It also counts the retention runs, by which writers
//! notice that their remembered streams may be gone.
//!
//! The statements are never repeated on another connection: a repetition would remove a second
//! batch and report only that one.

use aios_core::store::{Expirable, ExpirePage, Expired, Maintenance, StoreError};
use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    postgres::{PostgresStore, connection::Statement, timestamp::PgTimestamp},
    retention::{ExpireRuns, ExpiredEvents, ExpiredRuns, Place, Retention, names},
    rows::Key,
};

/// Removes the expired ones of a page of runs.
const EXPIRE: &str = "\
    SELECT removed, has_freed, next_at, next_key FROM {schema}.expire_page($1, $2, $3, $4, $5, $6)";
/// Removes the expired ones of the named streams.
const EXPIRE_STREAMS: &str = "SELECT {schema}.expire_streams($1, $2, $3)";
/// The names of a page of streams.
const STREAMS_PAGE: &str = "\
    SELECT name FROM {schema}.streams
    WHERE {primary} AND name > $1 AND name < $2 ORDER BY name LIMIT $3";

impl PostgresStore {
    /// Removes finished runs that are older than the policy allows from the log and the read models,
    /// in small transactions, and returns the number of removed runs. [`Retention`] lists the runs that
    /// are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid. Otherwise the error that the
    /// server reports. Transactions that committed before the error stay committed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.expire_runs(self, &**self.0.database.clock()).await
    }

    /// Removes streams that are needed for a time only and whose last event is older than the policy
    /// allows, and returns their number; see [`Retention`]. One transaction examines as many streams as
    /// the policy's batch size.
    ///
    /// # Errors
    ///
    /// See [`expire_runs`](Self::expire_runs).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_streams(
        &self,
        what: Expirable,
        policy: &Retention,
    ) -> Result<u64, StoreError> {
        policy.expire(self, &**self.0.database.clock(), what).await
    }

    /// The names of a page of streams. Unlike texts in read models, names are stored unescaped.
    async fn page_of_streams(&self, page: &ExpirePage) -> Result<Vec<String>, StoreError> {
        let operation = "find old streams";
        let database = &self.0.database;
        let (after, end) = names(page);
        let query = Statement::new(database.schema().fill(STREAMS_PAGE))
            .bind(after)
            .bind(end)
            .bind(i32::from(page.limit));
        let rows = database.fetch_all(operation, query).await?;
        let names: sqlx::Result<Vec<String>> = rows.iter().map(|row| row.try_get(0)).collect();
        names.map_err(|error| database.error(operation, error))
    }

    /// Removes the expired ones of these streams, and returns their number. Passes the run that each
    /// belongs to, which the server can't derive from the name.
    async fn expire_named(&self, page: &ExpirePage, names: Vec<String>) -> Result<u64, StoreError> {
        let run = |name: &String| page.what.run_of(name).and_then(Key::of).map(|key| key.uuid);
        let runs: Vec<Option<Uuid>> = names.iter().map(run).collect();
        let query = Statement::new(self.0.database.schema().fill(EXPIRE_STREAMS))
            .bind(names)
            .bind(runs)
            .bind(crate::postgres::lease::micros(page.older_than));
        self.remove("expire streams", query, |row| unsigned(row.try_get(0)?)).await
    }

    /// Calls a function that removes streams and returns one row, and decodes the row.
    async fn remove<T: Default>(
        &self,
        operation: &'static str,
        query: Statement,
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<T, StoreError> {
        let database = &self.0.database;
        let result = database.fetch_once(operation, query).await;
        // Also after an error: the transaction may have committed.
        self.0.tail.clear();
        let rows = result?;
        let row = rows.first().map(read).transpose();
        Ok(row.map_err(|error| database.error(operation, error))?.unwrap_or_default())
    }
}

/// Decodes a row of [`EXPIRE`].
fn expired_runs(row: &PgRow) -> sqlx::Result<ExpiredRuns> {
    let (at, key): (Option<PgTimestamp>, _) = (row.try_get(2)?, row.try_get(3)?);
    let next = at.zip(key).map(|(PgTimestamp(ended_at), key)| Place { ended_at, key });
    Ok(ExpiredRuns { removed: unsigned(row.try_get(0)?)?, has_freed: row.try_get(1)?, next })
}

/// Decodes a number of removed rows.
fn unsigned(removed: i64) -> sqlx::Result<u64> {
    u64::try_from(removed).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[async_trait]
impl ExpireRuns for PostgresStore {
    async fn expire_page(
        &self,
        policy: &Retention,
        after: Option<Place>,
    ) -> Result<ExpiredRuns, StoreError> {
        let query = Statement::new(self.0.database.schema().fill(EXPIRE))
            .bind(crate::postgres::lease::micros(policy.older_than))
            .bind(i32::from(policy.batch_size))
            .bind(policy.examined().cast_signed())
            .bind(policy.expired == ExpiredEvents::Archive)
            .bind(after.map(|place| PgTimestamp(place.ended_at)))
            .bind(after.map(|place| place.key));
        self.remove("expire runs", query, expired_runs).await
    }
}

#[async_trait]
impl Maintenance for PostgresStore {
    async fn expire(&self, page: &ExpirePage) -> Result<Expired, StoreError> {
        let names = self.page_of_streams(page).await?;
        let Some(next) = names.last().cloned() else { return Ok(Expired::default()) };
        Ok(Expired { removed: self.expire_named(page, names).await?, next: Some(next) })
    }
}
