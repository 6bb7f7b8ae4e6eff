//! Metrics of the transactions and connections of a store.

use std::time::Duration;

#[cfg(feature = "postgres")]
use metrics::gauge;
use metrics::histogram;

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
