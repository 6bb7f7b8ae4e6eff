use std::time::Duration;

use aios_core::store::StoreError;

/// Largest age of a policy: 100 years.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Prefix of the streams of requests to the HTTP API.
pub(crate) const REQUESTS: &str = "system/requests/";
/// Longest pause of a policy: one day.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// How the events of an expired run are removed from the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiredEvents {
    /// The events are deleted.
    #[default]
    Delete,
    /// The events are moved to the table `archived_events`, which aios never reads.
    Archive,
}

/// How long finished runs are kept, and how they are removed.
///
/// A run that ended longer ago than the policy allows is removed from the log and the read models,
/// together with its tasks. A run is kept as long as it may still be needed:
///
/// - while its parent run has not ended,
/// - while it is the first run of a continue-as-new chain whose last run exists,
/// - while a checkpoint has not passed its last event,
/// - while its last event is the last event of the log.
///
/// The same policy applies to requests to the HTTP API with an `Idempotency-Key`, whose answers are kept
/// in the log: `expire_requests` of the stores forgets those that are older. A request that is repeated
/// later is handled again, so keep them longer than clients repeat requests, for example a day.
///
/// Positions are never reused: a removed event leaves a gap. The id of a removed run can be used again.
/// Repeating an append to a removed run stores its events again.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_store::{ExpiredEvents, Retention, memory::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_core::store::StoreError> {
/// let policy = Retention::new(Duration::from_secs(30 * 24 * 3600))
///     .with_expired(ExpiredEvents::Delete)
///     .with_batch_size(20);
/// assert_eq!(MemoryStore::new().expire_runs(&policy).await?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) older_than: Duration,
    pub(crate) expired: ExpiredEvents,
    pub(crate) batch_size: u16,
    pub(crate) pause: Duration,
}

impl Retention {
    /// Default number of runs per transaction.
    pub const DEFAULT_BATCH_SIZE: u16 = 50;
    /// Default pause between two transactions.
    pub const DEFAULT_PAUSE: Duration = Duration::from_millis(100);

    /// Deletes runs whose last change is older than `older_than`: 50 runs per transaction, with pauses
    /// of 100 ms. The age is at most 100 years.
    pub fn new(older_than: Duration) -> Self {
        Self {
            older_than,
            expired: ExpiredEvents::default(),
            batch_size: Self::DEFAULT_BATCH_SIZE,
            pause: Self::DEFAULT_PAUSE,
        }
    }

    /// Sets whether events are deleted or archived. Default [`ExpiredEvents::Delete`].
    pub fn with_expired(mut self, expired: ExpiredEvents) -> Self {
        self.expired = expired;
        self
    }

    /// Sets how many runs one transaction removes, at least 1. Default 50. Appends wait for the
    /// transaction.
    pub fn with_batch_size(mut self, runs: u16) -> Self {
        self.batch_size = runs;
        self
    }

    /// Sets the pause between two transactions, during which appends proceed; at most one day.
    /// Default 100 ms.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Refuses a policy that would remove nothing or would never finish.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.batch_size == 0 {
            return Err(invalid("the retention's batch_size is 0; the minimum is 1".to_owned()));
        }
        let age = self.older_than;
        if age > OLDEST {
            return Err(invalid(format!(
                "the retention's older_than is {age:?}; the maximum is {OLDEST:?}"
            )));
        }
        let pause = self.pause;
        if pause > LONGEST_PAUSE {
            return Err(invalid(format!(
                "the retention's pause is {pause:?}; the maximum is {LONGEST_PAUSE:?}"
            )));
        }
        Ok(())
    }
}

fn invalid(reason: String) -> StoreError {
    StoreError::InvalidConfiguration { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_an_invalid_policy() {
        let week = Retention::new(Duration::from_secs(7 * 86_400));
        for (name, policy) in [
            ("batch_size", week.clone().with_batch_size(0)),
            ("older_than", Retention::new(Duration::MAX)),
            ("pause", week.clone().with_pause(Duration::MAX)),
        ] {
            let error = policy.check().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
            assert!(error.to_string().contains(name), "{error}");
        }
        week.with_batch_size(1).with_pause(Duration::ZERO).check().unwrap();
        Retention::new(Duration::ZERO).check().unwrap();
    }
}
