use aios_core::{
    event::Timestamp,
    store::{StoreError, StreamId},
};

use super::{MemoryStore, State};
use crate::retention::Retention;

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
}

impl State {
    fn expire(&mut self, policy: &Retention, now: Timestamp) -> u64 {
        // The last event of the log stays, because the next position is derived from it.
        let passed = self.checkpoints.values().min().copied().unwrap_or(u64::MAX);
        let passed = passed.min(self.head().saturating_sub(1));
        let age = i64::try_from(policy.older_than.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(now.as_micros().saturating_sub(age));
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

    fn remove_run(&mut self, run_id: &str, stream: &StreamId) {
        for position in self.streams.remove(stream).unwrap_or_default().positions {
            if let Some(recorded) = self.log.remove(&position) {
                self.ids.remove(&recorded.event.id.key());
            }
        }
        self.tables.remove_run(run_id);
        self.waits.remove(run_id);
    }
}
