//! Leases, by the rules of `LeaseTable`, under the same lock as appends.
//!
//! An append checks its fence in the critical section in which it is stored. After `acquire` has
//! returned, no append under the earlier epoch can therefore be stored.

use std::time::Duration;

use aios_core::store::{Lease, Leases, OwnerId, Shard, StoreError};
use async_trait::async_trait;

use super::MemoryStore;

#[async_trait]
impl Leases for MemoryStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().leases.acquire(shards, owner, now, time_to_live))
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().leases.renew(leases, now, time_to_live))
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.0.state.lock().leases.release(leases);
        self.0.releases.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        Ok(self.0.state.lock().leases.live(self.0.clock.now()))
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        let mut releases = self.0.releases.subscribe();
        let count = releases.wait_for(|count| *count > seen).await;
        count.map(|count| *count).map_err(|_| StoreError::Closed)
    }
}
