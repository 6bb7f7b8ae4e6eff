use aios_core::store::StoreError;
use sqlx::Row;

use crate::{
    postgres::{PostgresStore, connection::Statement},
    retention::{ExpiredEvents, Retention},
};

const EXPIRE: &str = "SELECT {schema}.expire($1, $2, $3)";

impl PostgresStore {
    /// Takes runs that ended long enough ago out of the log and the read models, in small
    /// transactions, and returns how many there were. [`Retention`] says which ones stay.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] for a policy that makes no sense; what the server reports.
    /// What was done until then stays done.
    ///
    /// # Cancel safety
    ///
    /// Each transaction happens or does not; go on by calling again.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.check()?;
        let mut total = 0;
        loop {
            let gone = self.expire(policy).await?;
            total += gone;
            if gone < u64::from(policy.batch_size) {
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
        let rows = database.fetch_once(operation, query).await;
        self.0.tail.clear();
        let rows = rows?;
        let Some(row) = rows.first() else { return Ok(0) };
        let gone: i64 = row.try_get(0).map_err(|error| database.error(operation, error))?;
        Ok(u64::try_from(gone).unwrap_or_default())
    }
}
