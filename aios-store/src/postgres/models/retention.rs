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
use sqlx::Row;
use uuid::Uuid;

use crate::{
    postgres::{PostgresStore, connection::Statement},
    retention::{ExpiredEvents, Retention, names},
    rows::Key,
};

/// Removes a batch of runs.
const EXPIRE: &str = "SELECT {schema}.expire($1, $2, $3)";
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
        policy.check()?;
        let mut total = 0;
        loop {
            let removed = self.expire_batch(policy).await?;
            total += removed;
            // Not before: the first run of a chain expires once the last one is removed.
            if removed == 0 {
                return Ok(total);
            }
            if removed >= u64::from(policy.batch_size) {
                self.0.database.clock().sleep(policy.pause).await;
            }
        }
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

    /// Removes the expired ones of these streams. Passes the run that each belongs to, which the
    /// server can't derive from the name.
    async fn expire_named(&self, page: &ExpirePage, names: Vec<String>) -> Result<u64, StoreError> {
        let run = |name: &String| page.what.run_of(name).and_then(Key::of).map(|key| key.uuid);
        let runs: Vec<Option<Uuid>> = names.iter().map(run).collect();
        let database = &self.0.database;
        let query = Statement::new(database.schema().fill(EXPIRE_STREAMS))
            .bind(names)
            .bind(runs)
            .bind(crate::postgres::lease::micros(page.older_than));
        self.remove("expire streams", query).await
    }

    /// Removes a batch of expired runs.
    async fn expire_batch(&self, policy: &Retention) -> Result<u64, StoreError> {
        let query = Statement::new(self.0.database.schema().fill(EXPIRE))
            .bind(crate::postgres::lease::micros(policy.older_than))
            .bind(i32::from(policy.batch_size))
            .bind(policy.expired == ExpiredEvents::Archive);
        self.remove("expire runs", query).await
    }

    /// Calls a function that removes streams and returns the number of what it removed.
    async fn remove(&self, operation: &'static str, query: Statement) -> Result<u64, StoreError> {
        let database = &self.0.database;
        let result = database.fetch_once(operation, query).await;
        // Also after an error: the transaction may have committed.
        self.0.tail.clear();
        let rows = result?;
        let Some(row) = rows.first() else { return Ok(0) };
        let removed: i64 = row.try_get(0).map_err(|error| database.error(operation, error))?;
        Ok(u64::try_from(removed).unwrap_or_default())
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
