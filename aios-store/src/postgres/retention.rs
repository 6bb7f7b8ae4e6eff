use std::time::Duration;

use aios_core::{clock::ClockExt, store::StoreError};
use sqlx::Row;

use super::PostgresStore;

const EXPIRE: &str = "SELECT {schema}.expire($1, $2, $3)";

/// What becomes of the events of a run that is older than the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expired {
    /// They are gone.
    #[default]
    Delete,
    /// They move to the table `archived_events`, which nothing else reads.
    Archive,
}

/// For how long finished runs are kept, and what becomes of them then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    older_than: Duration,
    expired: Expired,
    runs_at_once: u16,
    pause: Duration,
}

impl Retention {
    /// Deletes runs whose last change is older than this, 50 at once, with pauses of 100 ms.
    pub fn new(older_than: Duration) -> Self {
        Self {
            older_than,
            expired: Expired::default(),
            runs_at_once: 50,
            pause: Duration::from_millis(100),
        }
    }

    /// Sets what becomes of the events. Default [`Expired::Delete`].
    pub fn with_expired(mut self, expired: Expired) -> Self {
        self.expired = expired;
        self
    }

    /// Sets how many runs go in one transaction, at least 1. Appends wait while it lasts.
    pub fn with_runs_at_once(mut self, runs: u16) -> Self {
        self.runs_at_once = runs.max(1);
        self
    }

    /// Sets how long to leave the log to others between two transactions.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

impl PostgresStore {
    /// Takes finished runs that are older than the policy out of the log and the read models, in
    /// small transactions, and returns how many there were.
    ///
    /// Positions are never given out anew: what is gone leaves a gap, and the last event of the log
    /// stays. So do runs with events that a reader with a checkpoint has not passed yet, so that no
    /// subscription misses anything. A run whose journal is gone is unknown: its id can be used
    /// again, and an append that is repeated after that is stored again.
    ///
    /// # Errors
    ///
    /// What the server reports; what was done until then stays done.
    ///
    /// # Cancel safety
    ///
    /// Each transaction happens or does not; go on by calling again.
    pub async fn retain(&self, policy: &Retention) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let gone = self.expire(policy).await?;
            total += gone;
            if gone < u64::from(policy.runs_at_once) {
                return Ok(total);
            }
            self.0.database.clock().sleep(policy.pause).await;
        }
    }

    async fn expire(&self, policy: &Retention) -> Result<u64, StoreError> {
        let operation = "expire runs";
        let database = &self.0.database;
        let query = sqlx::query(database.schema().fill(EXPIRE))
            .bind(super::lease::micros(policy.older_than))
            .bind(i32::from(policy.runs_at_once))
            .bind(policy.expired == Expired::Archive);
        let rows = database.fetch_once(operation, query).await;
        self.0.tail.clear();
        let rows = rows?;
        let Some(row) = rows.first() else { return Ok(0) };
        let gone: i64 = row.try_get(0).map_err(|error| database.error(operation, error))?;
        Ok(u64::try_from(gone).unwrap_or_default())
    }
}
