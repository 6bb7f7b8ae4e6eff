//! The living engines and what each of them owns, according to the leases at one moment.
//!
//! All engines read the same leases and compute the same numbers from them, without talking to each
//! other. They may read at different moments; the leases themselves then decide, because a shard has
//! one owner.

use std::collections::{BTreeMap, BTreeSet};

use aios_core::{
    event::Timestamp,
    store::{Lease, OwnerId, SHARDS, Shard},
};

use crate::workflow::engine::hosting::Host;

/// The living engines by slot number, and the owner of each shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// The engines, by slot.
    slots: BTreeMap<u16, OwnerId>,
    /// The owner of each owned shard.
    shards: BTreeMap<Shard, OwnerId>,
    /// The engine that relays the log.
    relay: Option<OwnerId>,
    /// The engines with a guest lease, by slot.
    hosts: BTreeMap<u16, Host>,
}

impl Members {
    /// Reads unexpired leases.
    pub(crate) fn of(leases: &[Lease]) -> Self {
        let mut members = Self::default();
        for lease in leases {
            let Lease { shard, owner, .. } = lease;
            if let Some(number) = shard.slot_number() {
                members.slots.insert(number, owner.clone());
            } else if *shard == Shard::RELAY {
                members.relay = Some(owner.clone());
            } else if let Some(number) = shard.guests_number() {
                members.hosts.insert(number, Host::of(lease));
            } else if shard.is_share() {
                members.shards.insert(*shard, owner.clone());
            }
        }
        members
    }

    /// The living engines.
    pub(crate) fn slots(&self) -> &BTreeMap<u16, OwnerId> {
        &self.slots
    }

    /// The engines that can take over runs.
    pub(crate) fn hosts(&self) -> &BTreeMap<u16, Host> {
        &self.hosts
    }

    /// The owners of the owned shards.
    pub(super) fn shards(&self) -> &BTreeMap<Shard, OwnerId> {
        &self.shards
    }

    /// The number of shards that an engine owns.
    pub(super) fn count(&self, owner: &OwnerId) -> usize {
        self.shards.values().filter(|other| *other == owner).count()
    }

    /// The number of engines that own more than their share.
    pub(super) fn givers(&self) -> usize {
        let engines = self.slots.iter();
        engines.filter(|(slot, owner)| self.count(owner) > self.share(**slot)).count()
    }

    /// Whether an engine relays the log.
    pub(super) fn has_relay(&self) -> bool {
        self.relay.is_some()
    }

    /// The lowest number that no engine has.
    pub(super) fn lowest_free(&self) -> u16 {
        (0..Shard::SLOTS).find(|number| !self.slots.contains_key(number)).unwrap_or_default()
    }

    /// The number of an engine, if it has one.
    pub(super) fn number_of(&self, owner: &OwnerId) -> Option<u16> {
        self.slots.iter().find(|(_, other)| *other == owner).map(|(number, _)| *number)
    }

    /// The number of the engine that owns a shard.
    pub(super) fn slot_of(&self, shard: Shard) -> Option<u16> {
        self.number_of(self.shards.get(&shard)?)
    }

    /// The number of shards that the engine of a slot should own: an equal share, rounded up or
    /// down.
    pub(super) fn share(&self, slot: u16) -> usize {
        let engines = self.slots.len().max(1);
        let rank = self.slots.range(..slot).count();
        let each = usize::from(SHARDS) / engines;
        let rest = usize::from(SHARDS) % engines;
        each + usize::from(rank < rest)
    }

    /// The shards without an owner. Each engine starts at a different shard, so that engines rarely
    /// compete for the same ones.
    pub(crate) fn free(&self, slot: u16) -> Vec<Shard> {
        let mut free: Vec<Shard> =
            Shard::all().filter(|shard| !self.shards.contains_key(shard)).collect();
        let rank = self.slots.range(..slot).count();
        let engines = self.slots.len().max(1);
        let first = free.len() * rank / engines;
        free.rotate_left(first);
        free
    }

    /// The mailboxes that the engine of a slot reads: its own, and those of dead engines down to
    /// the next living engine. The first engine also reads those above the last living one, up to
    /// the highest that was ever opened.
    pub(crate) fn mailboxes(&self, slot: u16, opened: u16) -> BTreeSet<u16> {
        let mut mailboxes = BTreeSet::from([slot]);
        let is_dead = |number: &u16| !self.slots.contains_key(number) && *number != slot;
        mailboxes.extend((0..slot).rev().take_while(is_dead));
        let is_first = self.slots.range(..slot).next().is_none();
        if is_first {
            mailboxes.extend((slot..opened.max(slot)).rev().take_while(is_dead));
        }
        mailboxes
    }
}

/// The next expiry of a lease that is held by another engine than this one, or by a projection.
pub(super) fn next_expiry(leases: &[Lease], engine: &OwnerId) -> Option<Timestamp> {
    let others = leases.iter().filter(|lease| Host::of(lease).engine() != engine.as_str());
    others.map(|lease| lease.expires_at).min()
}

#[cfg(test)]
mod tests {
    use aios_core::store::Epoch;

    use super::*;

    fn lease(shard: Shard, owner: &str) -> Lease {
        let expires_at = Timestamp::UNIX_EPOCH;
        Lease { shard, epoch: Epoch(1), owner: OwnerId::new(owner), expires_at }
    }

    fn members(slots: &[u16]) -> Members {
        let leases: Vec<Lease> =
            slots.iter().map(|slot| lease(Shard::slot(*slot), &slot.to_string())).collect();
        Members::of(&leases)
    }

    #[test]
    fn should_share_the_shards_evenly() {
        for slots in [&[0][..], &[0, 1], &[0, 1, 2], &[1, 4, 7, 9, 12], &[3]] {
            let members = members(slots);
            let shares: Vec<usize> = slots.iter().map(|slot| members.share(*slot)).collect();
            assert_eq!(shares.iter().sum::<usize>(), usize::from(SHARDS));
            let least = shares.iter().min().unwrap();
            let most = shares.iter().max().unwrap();
            assert!(most - least <= 1, "{shares:?}");
        }
    }

    #[test]
    fn should_let_one_engine_read_each_mailbox() {
        for slots in [&[0][..], &[0, 2], &[1], &[1, 4, 5], &[6], &[0, 7], &[7]] {
            let members = members(slots);
            let mut read: Vec<u16> =
                slots.iter().flat_map(|slot| members.mailboxes(*slot, 8)).collect();
            read.sort_unstable();
            assert_eq!(read, (0..8).collect::<Vec<_>>(), "{slots:?}");
            assert!(slots.iter().all(|slot| members.mailboxes(*slot, 8).contains(slot)));
        }
    }

    #[test]
    fn should_give_a_new_engine_the_lowest_free_number() {
        assert_eq!(members(&[]).lowest_free(), 0);
        assert_eq!(members(&[0, 1, 3]).lowest_free(), 2);
    }

    #[test]
    fn should_find_the_engine_that_owns_a_shard() {
        let leases = [
            lease(Shard::slot(3), "a"),
            lease(Shard::new(7).unwrap(), "a"),
            lease(Shard::new(8).unwrap(), "gone"),
            lease(Shard::RELAY, "a"),
        ];
        let members = Members::of(&leases);
        assert_eq!(members.slot_of(Shard::new(7).unwrap()), Some(3));
        assert_eq!(
            (members.slot_of(Shard::new(8).unwrap()), members.slot_of(Shard::new(9).unwrap())),
            (None, None)
        );
        assert!(members.has_relay());
        assert_eq!(members.free(3).len(), usize::from(SHARDS) - 2);
    }

    #[test]
    fn should_start_each_engine_at_another_free_shard() {
        let members = members(&[0, 1]);
        assert_eq!(
            (members.free(0)[0], members.free(1)[0]),
            (Shard::new(0).unwrap(), Shard::new(32).unwrap())
        );
    }
}
