//! Leases, as calls of the writer.
//!
//! The writer keeps the table of leases in memory and checks fences against it without a query. A
//! call changes that table and writes the changed rows in the same transaction. If the transaction
//! is rolled back, the table is read again.
//!
//! Only one process has the database open, so a release wakes waiting tasks through a watch
//! channel; no other process can wait.

pub(super) mod lease_rows;

use std::time::Duration;

use aios_core::store::{Lease, Leases, OwnerId, Shard, StoreError};
use async_trait::async_trait;

use self::lease_rows::save;
use super::SqliteStore;

/// Number of lease releases of a store that is closed.
pub(super) const CLOSED: u64 = u64::MAX;

#[async_trait]
impl Leases for SqliteStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let shards = shards.to_vec();
        let owner = owner.clone();
        let clock = self.clock();
        self.writer()
            .call(move |writer| {
                let acquired = writer.leases.acquire(&shards, &owner, clock.now(), time_to_live);
                save(writer.connection, acquired)
            })
            .await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let leases = leases.to_vec();
        let clock = self.clock();
        self.writer()
            .call(move |writer| {
                let renewed = writer.leases.renew(&leases, clock.now(), time_to_live);
                save(writer.connection, renewed)
            })
            .await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        let leases = leases.to_vec();
        self.writer()
            .call(move |writer| {
                let released = writer.leases.release(&leases);
                save(writer.connection, released).map(drop)
            })
            .await?;
        // A store that was closed in the meantime stays closed.
        self.releases().send_modify(|count| *count = count.saturating_add(1));
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let clock = self.clock();
        self.writer().call(move |writer| Ok(writer.leases.live(clock.now()))).await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        let mut releases = self.releases().subscribe();
        let count = releases.wait_for(|count| *count > seen).await;
        let count = count.map_err(|_| StoreError::Closed)?;
        if *count == CLOSED { Err(StoreError::Closed) } else { Ok(*count) }
    }
}
