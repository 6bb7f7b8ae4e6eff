//! The rows of the table of leases.
//!
//! An epoch is stored as the signed integer with the same bits. Rows are replaced and never deleted,
//! because a shard without a row would begin with epoch 1 again.

use aios_core::{
    event::Timestamp,
    store::{Epoch, Lease, OwnerId, Shard},
};
use rusqlite::{Connection, types::Type};

use crate::leases::LeaseTable;

/// Writes leases, replacing the earlier ones of their shards, and returns them.
pub(crate) fn save(connection: &Connection, leases: Vec<Lease>) -> rusqlite::Result<Vec<Lease>> {
    let sql = "REPLACE INTO leases (shard, epoch, owner, expires_at) VALUES (?1, ?2, ?3, ?4)";
    let mut replace = connection.prepare_cached(sql)?;
    for lease in &leases {
        let epoch = lease.epoch.0.cast_signed();
        let expires_at = lease.expires_at.as_micros();
        replace.execute((lease.shard.number(), epoch, lease.owner.as_str(), expires_at))?;
    }
    Ok(leases)
}

/// Expires every lease. The process that opens the database holds its lock, so every earlier owner is
/// dead.
pub(crate) fn expire_all(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE leases SET expires_at = ?1 WHERE expires_at > ?1";
    connection.execute(sql, [Timestamp::UNIX_EPOCH.as_micros()]).map(drop)
}

/// Reads all leases, expired ones too, because they hold the last epochs.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<LeaseTable> {
    let sql = "SELECT shard, epoch, owner, expires_at FROM leases";
    connection.prepare_cached(sql)?.query_map([], lease)?.collect()
}

/// Decodes a row.
fn lease(row: &rusqlite::Row<'_>) -> rusqlite::Result<Lease> {
    let epoch: i64 = row.get(1)?;
    let owner: String = row.get(2)?;
    let shard = Shard::try_from(row.get::<_, u16>(0)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, Box::new(error))
    })?;
    Ok(Lease {
        shard,
        epoch: Epoch(epoch.cast_unsigned()),
        owner: OwnerId::new(owner),
        expires_at: Timestamp::from_micros(row.get(3)?),
    })
}
