use std::time::Duration;

use aios_core::store::StoreError;

/// 100 years.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// A day.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// What becomes of the events of a run that is older than the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiredEvents {
    /// They are gone.
    #[default]
    Delete,
    /// They move to the table `archived_events`, which nothing else reads.
    Archive,
}

/// For how long runs that have ended are kept, and what becomes of them then.
///
/// A run that ended longer ago is taken out of the log and the read models, with its tasks. It stays
/// as long as somebody may ask for it:
///
/// - while the run that started it as a child has not ended,
/// - while it is the first one of a chain of continue-as-new, and the last one is there,
/// - while a reader with a checkpoint has not passed its last event,
/// - while its last event is the last one of the log.
///
/// Positions are never given out anew: what is gone leaves a gap. The id of a run that is gone can be
/// used again, and an append that is repeated after that is stored again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) older_than: Duration,
    pub(crate) expired: ExpiredEvents,
    pub(crate) batch_size: u16,
    pub(crate) pause: Duration,
}

impl Retention {
    /// Deletes runs whose last change is older than this, 50 at once, with pauses of 100 ms.
    pub fn new(older_than: Duration) -> Self {
        Self {
            older_than,
            expired: ExpiredEvents::default(),
            batch_size: 50,
            pause: Duration::from_millis(100),
        }
    }

    /// Sets what becomes of the events. Default [`ExpiredEvents::Delete`].
    pub fn with_expired(mut self, expired: ExpiredEvents) -> Self {
        self.expired = expired;
        self
    }

    /// Sets how many runs go in one transaction, at least 1. Appends wait while it lasts.
    pub fn with_batch_size(mut self, runs: u16) -> Self {
        self.batch_size = runs;
        self
    }

    /// Sets how long to leave the log to others between two transactions.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Refuses a policy that would take nothing out, or never end.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let invalid = |reason| Err(StoreError::InvalidConfiguration { reason });
        let (age, pause) = (self.older_than, self.pause);
        if self.batch_size == 0 {
            return invalid("batch_size of a retention is 0; it is at least 1".to_owned());
        }
        if age > OLDEST {
            return invalid(format!(
                "older_than of a retention is {age:?}; it is at most {OLDEST:?}"
            ));
        }
        if pause > LONGEST_PAUSE {
            let most = LONGEST_PAUSE;
            return invalid(format!("pause of a retention is {pause:?}; it is at most {most:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_a_policy_that_makes_no_sense() {
        let week = || Retention::new(Duration::from_secs(7 * 86_400));
        for (name, policy) in [
            ("batch_size", week().with_batch_size(0)),
            ("older_than", Retention::new(Duration::MAX)),
            ("pause", week().with_pause(Duration::MAX)),
        ] {
            let error = policy.check().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
            assert!(error.to_string().contains(name), "{error}");
        }
        week().with_batch_size(1).with_pause(Duration::ZERO).check().unwrap();
        Retention::new(Duration::ZERO).check().unwrap();
    }
}
