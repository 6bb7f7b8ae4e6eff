use aios_core::{
    event::Timestamp,
    store::{StoreError, StreamId},
};

use super::{MemoryStore, State};
use crate::retention::Retention;

impl MemoryStore {
    /// Takes runs that ended long enough ago out of the log and the read models, and returns how many
    /// there were. [`Retention`] says which ones stay. There is no archive: they are gone.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] for a policy that makes no sense.
    ///
    /// # Cancel safety
    ///
    /// What was done until then stays done; go on by calling again.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.check()?;
        let mut total = 0;
        loop {
            let gone = self.state().expire(policy, self.0.clock.now());
            total += gone;
            if gone < u64::from(policy.batch_size) {
                return Ok(total);
            }
            self.0.clock.sleep(policy.pause).await;
        }
    }
}

impl State {
    fn expire(&mut self, policy: &Retention, now: Timestamp) -> u64 {
        let passed = self.checkpoints.values().min().copied().unwrap_or(u64::MAX);
        let passed = passed.min(self.head().saturating_sub(1));
        let age = i64::try_from(policy.older_than.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(now.as_micros().saturating_sub(age));
        let ended = self.tables.ended_before(before);
        let gone = ended.into_iter().filter_map(|run_id| {
            let stream = StreamId::of_run(&run_id).ok()?;
            let last = self.streams.get(&stream)?.positions.last()?;
            (*last <= passed && !self.tables.is_wanted(&run_id)).then_some((run_id, stream))
        });
        let gone: Vec<_> = gone.take(usize::from(policy.batch_size)).collect();
        for (run_id, stream) in &gone {
            self.take_out(run_id, stream);
        }
        gone.len().try_into().unwrap_or(u64::MAX)
    }

    fn take_out(&mut self, run_id: &str, stream: &StreamId) {
        for position in self.streams.remove(stream).unwrap_or_default().positions {
            if let Some(recorded) = self.log.remove(&position) {
                self.ids.remove(&recorded.event.id.key());
            }
        }
        self.tables.take_out(run_id);
        self.waits.remove(run_id);
    }
}
