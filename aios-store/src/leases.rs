//! The rules of leases, as a table in memory. An adapter that stores leases elsewhere saves the
//! leases that a method returns.
//!
//! The memory store and SQLite use this table. PostgreSQL has the same rules in its function
//! `acquire` and in the statements of its module `lease`; the conformance suite runs the same cases
//! against all of them.
//!
//! | the shard is | its last owner acquires | its last owner renews | another owner acquires |
//! |---|---|---|---|
//! | never leased | – | – | epoch 1 |
//! | held | same epoch, later expiry | same epoch, later expiry | refused |
//! | expired or released | same epoch | same epoch | epoch + 1 |
//!
//! The epoch is what makes a lease safe. It grows whenever the owner changes, and an append under a
//! fence is refused if the epoch of the shard differs. Expiry is only a hint for others that they
//! may take the shard: an owner that is late, but that was not replaced, has lost nothing and can
//! still renew and append. A release therefore only sets the expiry into the past, and no method
//! removes a row: a shard that began again with epoch 1 would let an append of an old owner pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aios_core::{
    event::Timestamp,
    store::{Epoch, Fence, Lease, OwnerId, Shard, StoreError},
};

/// Every lease that was ever taken. Expired leases are kept, because they hold the last epoch.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable(BTreeMap<Shard, Lease>);

impl LeaseTable {
    /// Takes the shards that are free, that are expired, or that the owner already holds.
    pub(crate) fn acquire(
        &mut self,
        shards: &[Shard],
        owner: &OwnerId,
        now: Timestamp,
        time_to_live: Duration,
    ) -> Vec<Lease> {
        let shards: BTreeSet<Shard> = shards.iter().copied().collect();
        let expires_at = now + time_to_live;
        shards.into_iter().filter_map(|shard| self.take(shard, owner, now, expires_at)).collect()
    }

    /// Takes one shard, or returns `None` if another owner holds it. The same owner keeps its
    /// epoch, even after its lease has expired, so that its appends in flight stay valid.
    fn take(
        &mut self,
        shard: Shard,
        owner: &OwnerId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Option<Lease> {
        let epoch = match self.0.get(&shard) {
            None => Epoch(1),
            Some(held) if held.owner == *owner => held.epoch,
            Some(held) if held.expires_at <= now => Epoch(held.epoch.0.saturating_add(1)),
            Some(_) => return None,
        };
        let lease = Lease { shard, epoch, owner: owner.clone(), expires_at };
        self.0.insert(shard, lease.clone());
        Some(lease)
    }

    /// Extends the leases that their owner still holds, and returns them.
    pub(crate) fn renew(
        &mut self,
        leases: &[Lease],
        now: Timestamp,
        time_to_live: Duration,
    ) -> Vec<Lease> {
        self.set_expiry(leases, now + time_to_live)
    }

    /// Expires the leases that their owner still holds, and returns them.
    pub(crate) fn release(&mut self, leases: &[Lease]) -> Vec<Lease> {
        self.set_expiry(leases, Timestamp::UNIX_EPOCH)
    }

    /// Sets the expiry of the leases that their owner still holds. The others are left out of the
    /// result, which is how a caller learns that it lost them.
    fn set_expiry(&mut self, leases: &[Lease], expires_at: Timestamp) -> Vec<Lease> {
        let mut changed = Vec::with_capacity(leases.len());
        for lease in leases {
            let held = self.0.get_mut(&lease.shard);
            if let Some(held) = held.filter(|held| is_same(held, lease)) {
                held.expires_at = expires_at;
                changed.push(held.clone());
            }
        }
        changed
    }

    /// Returns the leases that have not expired.
    pub(crate) fn live(&self, now: Timestamp) -> Vec<Lease> {
        self.0.values().filter(|lease| lease.expires_at > now).cloned().collect()
    }

    /// Checks that no other owner took the shard since the fence was issued.
    ///
    /// The expiry does not matter here; see the module. Fails for a shard that was never leased.
    pub(crate) fn check(&self, fence: Option<Fence>) -> Result<(), StoreError> {
        let Some(Fence { shard, epoch }) = fence else { return Ok(()) };
        match self.0.get(&shard) {
            Some(held) if held.epoch == epoch => Ok(()),
            _ => Err(StoreError::Fenced { shard, epoch }),
        }
    }
}

/// Whether a lease is the one that the table has, whatever its expiry.
fn is_same(held: &Lease, claimed: &Lease) -> bool {
    held.owner == claimed.owner && held.epoch == claimed.epoch
}

impl FromIterator<Lease> for LeaseTable {
    fn from_iter<I: IntoIterator<Item = Lease>>(leases: I) -> Self {
        Self(leases.into_iter().map(|lease| (lease.shard, lease)).collect())
    }
}
