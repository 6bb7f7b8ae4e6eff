//! Metrics of the transactions and connections of a store.
//!
//! They are recorded through the `metrics` facade, which discards them while the program has not
//! installed a recorder. The names are part of the documented metrics; the alert rules and the
//! dashboard in `deploy/` use them.

use std::time::Duration;

#[cfg(feature = "postgres")]
use metrics::gauge;
use metrics::{counter, histogram};

/// Shows that no commit has failed yet, so that a rule over an increase sees the first one that does.
pub(crate) fn opened() {
    counter!("aios_store_commits_failed_total").increment(0);
}

/// Counts an attempt to commit that failed because of the database, whether or not it is repeated and a
/// caller still waits for it.
pub(crate) fn commit_failed() {
    counter!("aios_store_commits_failed_total").increment(1);
}

/// Reports a committed transaction of this many appends. With SQLite, a call counts as one append.
pub(crate) fn committed(appends: usize, took: Duration) {
    let appends = u32::try_from(appends).unwrap_or(u32::MAX);
    histogram!("aios_store_commit_appends").record(f64::from(appends));
    histogram!("aios_store_commit_seconds").record(took.as_secs_f64());
}

/// Reports the connections of a pool, when one is taken.
#[cfg(feature = "postgres")]
pub(crate) fn connections(open: u32, idle: u32) {
    gauge!("aios_store_connections", "state" => "idle").set(f64::from(idle));
    gauge!("aios_store_connections", "state" => "used").set(f64::from(open.saturating_sub(idle)));
}
