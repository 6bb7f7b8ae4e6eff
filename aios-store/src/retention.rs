//! The policy of retention, and the loop over pages that the stores share.
//!
//! Retention works in small transactions with pauses between them, because every transaction holds
//! what appends need: the writer of SQLite, the append lock of PostgreSQL, or the mutex of the
//! memory store. The batch size limits how long appends wait, and the pause lets them through.
//!
//! A run is judged and removed in the same transaction, so nothing can make it needed again in
//! between. If the process dies, what was committed stays removed, and the next call continues: no
//! progress is stored, because an expired run that is left over is found again.
//!
//! A pass goes through the runs that have ended once, in the order of their ends, however many of them are
//! kept. Only the first run of a chain is kept for the sake of a run that ended later, so a pass that removed
//! the last run of a chain is followed by another one.

use std::{mem, time::Duration};

use aios_core::{
    clock::Clock,
    event::Timestamp,
    store::{Expirable, ExpirePage, Expired, Maintenance, StoreError},
};
use async_trait::async_trait;
use uuid::Uuid;

/// Largest age of a policy: 100 years.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Longest pause of a policy: one day.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// How many runs a transaction examines at most for each run that it may remove.
const EXAMINED: u32 = 20;

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
/// - while the run that it continued as has not ended,
/// - while a checkpoint has not passed its last event,
/// - while its last event is the last event of the log.
///
/// `expire_streams` of the stores removes what is needed for a time only, with a policy of its own:
///
/// - [`Expirable::Requests`]: the answers to requests to the HTTP API with an `Idempotency-Key`. A
///   request that is repeated later is handled again, so keep them longer than clients repeat requests,
///   for example a day.
/// - [`Expirable::Outputs`]: the output streams of runs that have ended or were removed. Later readers
///   of such a stream find it empty.
///
/// They are deleted, not archived.
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
    /// Age since the end of a run, or since the last event of a stream.
    pub(crate) older_than: Duration,
    /// Applies to runs only.
    pub(crate) expired: ExpiredEvents,
    /// Runs that a transaction removes at most, or streams that it examines.
    pub(crate) batch_size: u16,
    /// Pause between two transactions, on the clock of the store.
    pub(crate) pause: Duration,
}

impl Retention {
    /// Default number of runs per transaction.
    pub const DEFAULT_BATCH_SIZE: u16 = 50;
    /// Default pause between two transactions.
    pub const DEFAULT_PAUSE: Duration = Duration::from_millis(100);

    /// Deletes runs whose last change is older than `older_than`: at most 50 runs per transaction, with
    /// pauses of 100 ms. The age is at most 100 years.
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

    /// Sets how many runs one transaction removes at most, at least 1. Default 50. It examines at most 20
    /// times as many runs. Appends wait for the transaction.
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

    /// How many runs a transaction examines at most.
    pub(crate) fn examined(&self) -> u32 {
        EXAMINED * u32::from(self.batch_size)
    }

    /// Removes the expired runs, page by page, and returns their number.
    pub(crate) async fn expire_runs(
        &self,
        store: &dyn ExpireRuns,
        clock: &dyn Clock,
    ) -> Result<u64, StoreError> {
        self.check()?;
        let (mut total, mut after, mut has_freed) = (0, None, false);
        loop {
            let page = store.expire_page(self, after).await?;
            total += page.removed;
            has_freed |= page.has_freed;
            after = page.next;
            if after.is_none() && !mem::take(&mut has_freed) {
                return Ok(total);
            }
            clock.sleep(self.pause).await;
        }
    }

    /// Removes the expired streams of a kind, page by page, and returns their number.
    ///
    /// A page is a number of examined streams, not of removed ones. A page without an expired
    /// stream is therefore not the end; the end is a page without a next name.
    pub(crate) async fn expire(
        &self,
        store: &dyn Maintenance,
        clock: &dyn Clock,
        what: Expirable,
    ) -> Result<u64, StoreError> {
        self.check()?;
        let older_than = self.older_than;
        let limit = self.batch_size;
        let mut page = ExpirePage { what, older_than, after: None, limit };
        let mut total = 0;
        loop {
            let Expired { removed, next } = store.expire(&page).await?;
            total += removed;
            if next.is_none() {
                return Ok(total);
            }
            page.after = next;
            clock.sleep(self.pause).await;
        }
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

/// A place in the order of the runs that have ended: a run with this end and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) ended_at: Timestamp,
    pub(crate) key: Uuid,
}

/// The result of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpiredRuns {
    /// Number of removed runs.
    pub(crate) removed: u64,
    /// Whether the last run of a chain was removed, which may have kept the first one.
    pub(crate) has_freed: bool,
    /// The last examined run, after which the next page begins; `None` if there are no more.
    pub(crate) next: Option<Place>,
}

/// The removal of one page of runs.
#[async_trait]
pub(crate) trait ExpireRuns: Sync {
    /// Examines the runs after a place, at most [`Retention::examined`], and removes those that have expired, at
    /// most as many as the batch size, in one transaction.
    async fn expire_page(
        &self,
        policy: &Retention,
        after: Option<Place>,
    ) -> Result<ExpiredRuns, StoreError>;
}

/// Returns the names between which those of a page of streams are, both exclusive. A range of names
/// can be read from the unique index on names; a condition with `LIKE` could not in every
/// collation.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn names(page: &ExpirePage) -> (String, String) {
    let prefix = page.what.prefix();
    // A name before the first one, such as that of another kind, begins at the first one.
    let after = page.after.as_deref().map_or(prefix, |after| after.max(prefix)).to_owned();
    // `0` is the character after `/`.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    (after, end)
}

/// The error for an option that is out of range.
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
