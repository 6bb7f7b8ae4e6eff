use aios_core::store::StoreError;
use sqlx::Row;

use crate::{
    postgres::{PostgresStore, connection::Statement},
    retention::{ExpiredEvents, REQUESTS, Retention},
};

const EXPIRE: &str = "SELECT {schema}.expire($1, $2, $3)";
const EXPIRE_REQUESTS: &str =
    "SELECT out_removed, out_last FROM {schema}.expire_requests($1, $2, $3)";

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
            let removed = self.expire(policy).await?;
            total += removed;
            if removed < u64::from(policy.batch_size) {
                return Ok(total);
            }
            self.0.database.clock().sleep(policy.pause).await;
        }
    }

    /// Forgets requests to the HTTP API with an `Idempotency-Key` whose last event is older than the
    /// policy allows, and returns their number; see [`Retention`]. They are deleted, not archived. One
    /// transaction examines as many requests as the policy's batch size.
    ///
    /// # Errors
    ///
    /// See [`expire_runs`](Self::expire_runs).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_requests(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.check()?;
        let (mut total, mut after) = (0, REQUESTS.to_owned());
        loop {
            let (removed, last) = self.expire_page_of_requests(policy, &after).await?;
            total += removed;
            match last {
                Some(last) => after = last,
                None => return Ok(total),
            }
            self.0.database.clock().sleep(policy.pause).await;
        }
    }

    async fn expire_page_of_requests(
        &self,
        policy: &Retention,
        after: &str,
    ) -> Result<(u64, Option<String>), StoreError> {
        let operation = "expire requests";
        let database = &self.0.database;
        let query = Statement::new(database.schema().fill(EXPIRE_REQUESTS))
            .bind(after.to_owned())
            .bind(crate::postgres::lease::micros(policy.older_than))
            .bind(i32::from(policy.batch_size));
        let result = database.fetch_once(operation, query).await;
        // Also after an error: the transaction may have committed.
        self.0.tail.clear();
        let rows = result?;
        let Some(row) = rows.first() else { return Ok((0, None)) };
        let fail = |error| database.error(operation, error);
        let removed: i64 = row.try_get(0).map_err(fail)?;
        Ok((u64::try_from(removed).unwrap_or_default(), row.try_get(1).map_err(fail)?))
    }

    async fn expire(&self, policy: &Retention) -> Result<u64, StoreError> {
        let operation = "expire runs";
        let database = &self.0.database;
        let query = Statement::new(database.schema().fill(EXPIRE))
            .bind(crate::postgres::lease::micros(policy.older_than))
            .bind(i32::from(policy.batch_size))
            .bind(policy.expired == ExpiredEvents::Archive);
        let result = database.fetch_once(operation, query).await;
        // Also after an error: the transaction may have committed.
        self.0.tail.clear();
        let rows = result?;
        let Some(row) = rows.first() else { return Ok(0) };
        let removed: i64 = row.try_get(0).map_err(|error| database.error(operation, error))?;
        Ok(u64::try_from(removed).unwrap_or_default())
    }
}
