use std::time::Duration;

use aios_core::{
    event::Timestamp,
    store::{Epoch, Lease, Leases, OwnerId, Shard, StoreError},
};
use async_trait::async_trait;
use rusqlite::Connection;

use super::{SqliteStore, writer::Writer};
use crate::leases::LeaseTable;

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
                writer.save(acquired)
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
                writer.save(renewed)
            })
            .await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        let leases = leases.to_vec();
        self.writer()
            .call(move |writer| {
                let released = writer.leases.release(&leases);
                writer.save(released).map(drop)
            })
            .await?;
        self.releases().send_modify(|count| *count += 1);
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let clock = self.clock();
        self.writer().call(move |writer| Ok(writer.leases.live(clock.now()))).await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        let mut releases = self.releases().subscribe();
        let count = releases.wait_for(|count| *count > seen).await;
        count.map(|count| *count).map_err(|_| StoreError::Closed)
    }
}

impl Writer<'_> {
    fn save(&self, leases: Vec<Lease>) -> rusqlite::Result<Vec<Lease>> {
        let sql = "REPLACE INTO leases (shard, epoch, owner, expires_at) VALUES (?1, ?2, ?3, ?4)";
        let mut replace = self.connection.prepare_cached(sql)?;
        for lease in &leases {
            let epoch = lease.epoch.0.cast_signed();
            let expires_at = lease.expires_at.as_micros();
            replace.execute((lease.shard.0, epoch, lease.owner.as_str(), expires_at))?;
        }
        Ok(leases)
    }
}

/// Expires every lease. The process that opens the database holds its lock, so every earlier owner is
/// dead.
pub(super) fn expire_all(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE leases SET expires_at = ?1 WHERE expires_at > ?1";
    connection.execute(sql, [Timestamp::UNIX_EPOCH.as_micros()]).map(drop)
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<LeaseTable> {
    let sql = "SELECT shard, epoch, owner, expires_at FROM leases";
    connection.prepare_cached(sql)?.query_map([], lease)?.collect()
}

fn lease(row: &rusqlite::Row<'_>) -> rusqlite::Result<Lease> {
    let epoch: i64 = row.get(1)?;
    let owner: String = row.get(2)?;
    Ok(Lease {
        shard: Shard(row.get(0)?),
        epoch: Epoch(epoch.cast_unsigned()),
        owner: OwnerId::new(owner),
        expires_at: Timestamp::from_micros(row.get(3)?),
    })
}
