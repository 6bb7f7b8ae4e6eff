//! How many shards an engine hands over to make the shares equal, and when.
//!
//! - Shards are handed over only for engines that have been there for the time between two renewals. One
//!   that ends sooner causes no moves, but it may take shards that are free.
//! - An engine hands over at most [`PER_MINUTE`] shards per minute, less those that it has seen others
//!   hand over. Those that own more than their share divide what is left. An engine does not see what
//!   moves to one that is gone before its next look at the leases.
//! - Shards of engines that stop or die do not count: others take them at once.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use aios_core::store::{OwnerId, SHARDS, Shard};

use super::members::Members;

/// Shards that an engine hands over per minute, at most, less those that it sees others hand over. That is
/// enough for the share of any new engine, and for one replacement of every engine.
const PER_MINUTE: usize = SHARDS as usize;
/// The time over which moves are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// The observations of an engine: the others, and how shards moved.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The engine of each slot, and when it was seen first.
    seen: BTreeMap<u16, (OwnerId, Duration)>,
    /// The last owner of each shard.
    owners: BTreeMap<Shard, OwnerId>,
    /// The shards that moved from another engine that is still there, and when that was seen.
    others: VecDeque<(Duration, usize)>,
    /// The shards that this engine has handed over, and when. Their new owner may be gone before it is
    /// seen.
    own: VecDeque<(Duration, usize)>,
}

impl Moves {
    /// Notes the engines and the owners of the shards at some time, for the engine of this owner.
    pub(super) fn observe(&mut self, members: &Members, own: &OwnerId, now: Duration) {
        let engines = members.slots();
        self.seen.retain(|slot, (owner, _)| engines.get(slot) == Some(owner));
        for (slot, owner) in engines {
            self.seen.entry(*slot).or_insert_with(|| (owner.clone(), now));
        }
        let mut moved = 0;
        for (shard, owner) in members.shards() {
            let before = self.owners.insert(*shard, owner.clone());
            let is_of_other = |before: OwnerId| {
                before != *owner && before != *own && members.number_of(&before).is_some()
            };
            moved += usize::from(before.is_some_and(is_of_other));
        }
        if moved > 0 {
            self.others.push_back((now, moved));
        }
        for moves in [&mut self.others, &mut self.own] {
            while moves.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
                moves.pop_front();
            }
        }
    }

    /// This engine begins to hand over some shards.
    pub(super) fn begun(&mut self, shards: usize, now: Duration) {
        self.own.push_back((now, shards));
    }

    /// Some shards of the last hand-over stay.
    pub(super) fn stayed(&mut self, shards: usize) {
        if let Some((_, moved)) = self.own.back_mut() {
            *moved = moved.saturating_sub(shards);
        }
    }

    /// The number of shards that an engine with this surplus may hand over.
    pub(super) fn allowed(
        &self,
        members: &Members,
        surplus: usize,
        now: Duration,
        period: Duration,
    ) -> usize {
        #[cfg(feature = "simulation")]
        if let Some(allowed) = self.planted(members, surplus, now, period) {
            return allowed;
        }
        let givers = members.givers().max(1);
        let left = self.left().div_ceil(givers);
        let lacking = self.lacking(members, now, period).div_ceil(givers);
        surplus.min(left).min(lacking)
    }

    /// When the next engine has been there for long enough to get shards.
    pub(super) fn next(&self, now: Duration, period: Duration) -> Option<Duration> {
        self.seen.values().map(|(_, seen)| *seen + period).filter(|at| *at > now).min()
    }

    /// The shards that may still move in this minute.
    fn left(&self) -> usize {
        let recent: usize = self.others.iter().chain(&self.own).map(|(_, moved)| moved).sum();
        PER_MINUTE.saturating_sub(recent)
    }

    /// The shards that engines lack which have been there for a period, beyond those that are free.
    fn lacking(&self, members: &Members, now: Duration, period: Duration) -> usize {
        let engines = self.seen.iter().filter(|(_, (_, seen))| *seen + period <= now);
        let lacking = engines
            .map(|(slot, (owner, _))| members.share(*slot).saturating_sub(members.count(owner)));
        let free = usize::from(SHARDS).saturating_sub(members.shards().len());
        lacking.sum::<usize>().saturating_sub(free)
    }

    /// The number under a planted fault.
    #[cfg(feature = "simulation")]
    fn planted(
        &self,
        members: &Members,
        surplus: usize,
        now: Duration,
        period: Duration,
    ) -> Option<usize> {
        use aios_core::simulation::plants;
        let lacking = self.lacking(members, now, period);
        if plants("a surplus is kept") {
            return Some(0);
        }
        if plants("a surplus is handed over late") {
            return Some(surplus.min(self.lacking(members, now, period * 6)));
        }
        if plants("moves are not bounded") {
            return Some(surplus.min(lacking));
        }
        if plants("more than the surplus is handed over") && lacking > 0 {
            return Some(surplus + 1);
        }
        plants("shards move at once").then_some(surplus)
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Timestamp,
        store::{Epoch, Lease},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PERIOD: Duration = Duration::from_secs(3);

    fn lease(shard: Shard, owner: &str) -> Lease {
        let expires_at = Timestamp::UNIX_EPOCH;
        Lease { shard, epoch: Epoch(1), owner: OwnerId::new(owner), expires_at }
    }

    /// Engines in the order of their slots, each with a number of shards.
    fn members(engines: &[(&str, u16)]) -> Members {
        let mut leases = Vec::new();
        let mut shards = Shard::all();
        for (slot, (name, count)) in (0..).zip(engines) {
            leases.push(lease(Shard::slot(slot), name));
            leases.extend(shards.by_ref().take((*count).into()).map(|shard| lease(shard, name)));
        }
        Members::of(&leases)
    }

    /// Observes as an engine without shards.
    fn observe(moves: &mut Moves, members: &Members, now: Duration) {
        moves.observe(members, &OwnerId::new("observer"), now);
    }

    fn surplus(members: &Members, slot: u16, owner: &str) -> usize {
        members.count(&OwnerId::new(owner)).saturating_sub(members.share(slot))
    }

    #[test]
    fn should_give_a_new_engine_its_share_after_one_period() {
        let alone = members(&[("a", 64)]);
        let joined = members(&[("a", 64), ("b", 0)]);
        let mut moves = Moves::default();
        observe(&mut moves, &alone, SECOND);
        observe(&mut moves, &joined, SECOND * 2);
        let allowed = |now| moves.allowed(&joined, surplus(&joined, 0, "a"), now, PERIOD);
        assert_eq!((allowed(SECOND * 2), allowed(SECOND * 4)), (0, 0));
        assert_eq!(moves.next(SECOND * 4, PERIOD), Some(SECOND * 5));
        assert_eq!(allowed(SECOND * 5), 32);
    }

    #[test]
    fn should_move_nothing_for_an_engine_that_comes_and_goes() {
        let alone = members(&[("a", 32), ("b", 32)]);
        let mut moves = Moves::default();
        observe(&mut moves, &alone, SECOND);
        for number in 2..20_u32 {
            let name = format!("c{number}");
            let joined = members(&[("a", 32), ("b", 32), (&name, 0)]);
            let now = SECOND * number * 2;
            observe(&mut moves, &joined, now);
            assert_eq!(moves.allowed(&joined, surplus(&joined, 0, "a"), now, PERIOD), 0);
        }
    }

    /// One that comes and goes does not keep another one from its share.
    #[test]
    fn should_give_a_new_engine_its_share_while_another_one_comes_and_goes() {
        let mut moves = Moves::default();
        observe(&mut moves, &members(&[("a", 32), ("b", 32), ("c", 0)]), SECOND);
        let joined = members(&[("a", 32), ("b", 32), ("c", 0), ("d", 0)]);
        observe(&mut moves, &joined, SECOND * 4);
        let allowed =
            |slot, name| moves.allowed(&joined, surplus(&joined, slot, name), SECOND * 4, PERIOD);
        assert_eq!((allowed(0, "a"), allowed(1, "b")), (8, 8), "the share of the third");
    }

    #[test]
    fn should_bound_the_moves_of_all_engines_per_minute() {
        let mut moves = Moves::default();
        let (one, other) = (members(&[("a", 64), ("b", 0)]), members(&[("a", 32), ("b", 32)]));
        observe(&mut moves, &one, SECOND);
        observe(&mut moves, &other, SECOND * 2);
        observe(&mut moves, &one, SECOND * 3);
        assert_eq!(moves.allowed(&one, 32, SECOND * 10, PERIOD), 0, "all of them have moved");
        observe(&mut moves, &one, SECOND * 62);
        assert_eq!(moves.allowed(&one, 32, SECOND * 62, PERIOD), 32, "the first are a minute ago");
    }

    /// The new owner may be gone before it is seen, so an engine counts what it hands over itself.
    #[test]
    fn should_count_what_it_hands_over() {
        let mut moves = Moves::default();
        let joined = members(&[("a", 64), ("b", 0)]);
        observe(&mut moves, &joined, SECOND);
        moves.begun(32, SECOND * 4);
        moves.begun(32, SECOND * 5);
        assert_eq!(moves.allowed(&joined, 32, SECOND * 6, PERIOD), 0);
        moves.stayed(10);
        assert_eq!(moves.allowed(&joined, 32, SECOND * 6, PERIOD), 10);
    }

    #[test]
    fn should_not_count_the_shards_of_an_engine_that_stopped() {
        let mut moves = Moves::default();
        observe(&mut moves, &members(&[("a", 32), ("b", 32)]), SECOND);
        observe(&mut moves, &members(&[("a", 64)]), SECOND * 2);
        assert_eq!(moves.left(), PER_MINUTE);
        observe(&mut moves, &members(&[("a", 32), ("c", 32)]), SECOND * 3);
        assert_eq!(moves.left(), PER_MINUTE - 32);
    }

    #[test]
    fn should_leave_free_shards_to_those_that_lack_some() {
        let mut moves = Moves::default();
        let members = members(&[("a", 32), ("b", 0)]);
        observe(&mut moves, &members, SECOND);
        assert_eq!(moves.allowed(&members, 0, SECOND * 10, PERIOD), 0);
        assert_eq!(moves.lacking(&members, SECOND * 10, PERIOD), 0);
    }

    /// A rolling replacement of three engines, one after the other.
    #[test]
    fn should_move_each_shard_once_while_all_engines_are_replaced() {
        let mut moves = Moves::default();
        observe(&mut moves, &members(&[("a", 22), ("b", 21), ("c", 21)]), SECOND);
        for (place, now) in [(0, 2), (1, 12), (2, 22)] {
            let mut engines = [("a", 32), ("b", 32), ("c", 32)];
            if let Some(new) = engines.get_mut(place) {
                *new = ("new", 0);
            }
            let joined = members(&engines);
            observe(&mut moves, &joined, SECOND * now);
            let later = SECOND * now + PERIOD;
            let given: usize = (0..3_u16)
                .zip(engines)
                .map(|(slot, (name, _))| {
                    moves.allowed(&joined, surplus(&joined, slot, name), later, PERIOD)
                })
                .sum();
            assert!((21..=22).contains(&given), "{given}");
        }
    }
}
