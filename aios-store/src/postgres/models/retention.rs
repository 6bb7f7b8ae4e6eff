use aios_core::store::StoreError;
use sqlx::Row;

use crate::{
    postgres::{PostgresStore, connection::Statement},
    retention::{ExpiredEvents, Retention},
};

const EXPIRE: &str = "SELECT {schema}.expire($1, $2, $3)";

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
