use aios_core::{
    event::Timestamp,
    store::{StoreError, StreamId},
};

use super::{MemoryStore, State, Stream};
use crate::retention::{REQUESTS, Retention};

impl MemoryStore {
    /// Removes finished runs that are older than the policy allows from the log and the read models,
    /// and returns the number of removed runs. [`Retention`] lists the runs that are kept. A store in
    /// memory has no archive: the events are deleted, whatever [`ExpiredEvents`](super::ExpiredEvents)
    /// says.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each batch is removed as a whole. Call again to continue.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.check()?;
        let mut total = 0;
        loop {
            let removed = self.state().expire(policy, self.0.clock.now());
            total += removed;
            if removed < u64::from(policy.batch_size) {
                return Ok(total);
            }
            self.0.clock.sleep(policy.pause).await;
        }
    }

    /// Forgets requests to the HTTP API with an `Idempotency-Key` whose last event is older than the
    /// policy allows, and returns their number; see [`Retention`].
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: all are removed at once.
    #[allow(clippy::unused_async, reason = "the same signature as in the other stores")]
    pub async fn expire_requests(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.check()?;
        let now = self.0.clock.now();
        Ok(self.state().expire_requests(policy, now))
    }
}

impl State {
    fn expire(&mut self, policy: &Retention, now: Timestamp) -> u64 {
        let (passed, before) = (self.passed(), oldest_kept(policy, now));
        let ended = self.tables.ended_before(before);
        let expired = ended.into_iter().filter_map(|run_id| {
            let stream = StreamId::of_run(&run_id).ok()?;
            let last = self.streams.get(&stream)?.positions.last()?;
            (*last <= passed && !self.tables.is_needed(&run_id)).then_some((run_id, stream))
        });
        let expired: Vec<_> = expired.take(usize::from(policy.batch_size)).collect();
        for (run_id, stream) in &expired {
            self.remove_run(run_id, stream);
        }
        expired.len().try_into().unwrap_or(u64::MAX)
    }

    /// The position up to which events can be removed: passed by every checkpoint, and before the last
    /// event of the log, because the next position is derived from it.
    fn passed(&self) -> u64 {
        let passed = self.checkpoints.values().min().copied().unwrap_or(u64::MAX);
        passed.min(self.head().saturating_sub(1))
    }

    fn expire_requests(&mut self, policy: &Retention, now: Timestamp) -> u64 {
        let (passed, before) = (self.passed(), oldest_kept(policy, now));
        let is_expired = |(id, stream): &(&StreamId, &Stream)| {
            let last = stream.positions.last().filter(|last| **last <= passed);
            let last = last.and_then(|position| self.log.get(position));
            id.as_str().starts_with(REQUESTS)
                && last.is_some_and(|recorded| recorded.event.timestamp < before)
        };
        let expired = self.streams.iter().filter(is_expired);
        let expired: Vec<_> = expired.map(|(id, _)| id.clone()).collect();
        expired.iter().for_each(|stream| self.remove_stream(stream));
        expired.len().try_into().unwrap_or(u64::MAX)
    }

    fn remove_run(&mut self, run_id: &str, stream: &StreamId) {
        self.remove_stream(stream);
        self.tables.remove_run(run_id);
        self.waits.remove(run_id);
    }

    fn remove_stream(&mut self, stream: &StreamId) {
        for position in self.streams.remove(stream).unwrap_or_default().positions {
            if let Some(recorded) = self.log.remove(&position) {
                self.ids.remove(&recorded.event.id.key());
            }
        }
    }
}

/// The oldest time that the policy keeps.
fn oldest_kept(policy: &Retention, now: Timestamp) -> Timestamp {
    let age = i64::try_from(policy.older_than.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(age))
}
