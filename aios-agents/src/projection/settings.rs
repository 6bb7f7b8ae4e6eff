//! The options of a projection, checked when it starts.

use std::{sync::Arc, time::Duration};

use aios_core::{BoxFuture, agent::TaskError, event::Pattern, retry::RetryPolicy, store::MAX_PAGE};

use super::{DEFAULT_BATCH_SIZE, DEFAULT_LEASE_TIME};
use crate::options::{check_retry, check_span};

/// Loads a projection's own position.
pub(super) type Position =
    Arc<dyn Fn() -> BoxFuture<'static, Result<u64, TaskError>> + Send + Sync>;

/// Options of a projection.
pub(super) struct Settings {
    /// `None`: all events.
    pub(super) patterns: Option<Vec<Pattern>>,
    /// Maximum number of events of a batch.
    pub(super) batch_size: usize,
    /// Of one event, before it becomes a dead letter.
    pub(super) retry: RetryPolicy,
    /// How long another process waits after a crash.
    pub(super) lease_time: Duration,
    /// `None`: the position is kept in the runtime's store.
    pub(super) position: Option<Position>,
    /// Whether it begins at the end of the log.
    pub(super) from_end: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patterns: None,
            batch_size: DEFAULT_BATCH_SIZE,
            retry: RetryPolicy::new(),
            lease_time: DEFAULT_LEASE_TIME,
            position: None,
            from_end: false,
        }
    }
}

impl Settings {
    /// Rejects options that would never work.
    pub(super) fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_PAGE).contains(&self.batch_size) {
            return Err(format!(
                "batch_size of a projection must be 1 to {MAX_PAGE}, not {}",
                self.batch_size
            ));
        }
        check_span("lease_time of a projection", self.lease_time, Duration::from_secs(1))
            .and_then(|()| check_retry("retry of a projection", &self.retry))
    }
}
