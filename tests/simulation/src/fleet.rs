//! The engines that are there, what they own, and how shards move between them.

use std::collections::{BTreeMap, VecDeque};

use aios_core::store::{Lease, SHARDS, Shard};

use crate::{executor::Node, invariant::Invariant};

/// Shards that may move in a minute to make the shares equal.
pub const MOVES_PER_MINUTE: usize = SHARDS as usize;
/// A minute in microseconds.
const MINUTE: u64 = 60_000_000;
/// How long an engine may take to see that another one has come or gone, or to finish what it has
/// begun, in microseconds.
const MOMENT: u64 = 3_000_000;
/// How much earlier than the simulation an engine may see a lease, in microseconds.
const LATENCY: u64 = 200_000;

type Found = Option<(Invariant, String)>;

/// The engines and the owners of the shards, in a simulation in which nothing fails.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The time between two renewals, in microseconds.
    period: u64,
    /// The last owner of each shard, and whether it still has it.
    owners: BTreeMap<Shard, (Node, bool)>,
    /// The engines, and when they joined.
    members: BTreeMap<Node, u64>,
    /// The engines that are leaving or gone, with the times at which they joined and left.
    left: BTreeMap<Node, (u64, u64)>,
    /// The numbers of engines, and since when.
    counts: VecDeque<(u64, usize)>,
    /// When engines acquired shards last.
    acquired_at: BTreeMap<Node, u64>,
    /// When an engine that stays handed a shard over, and which one.
    moves: Vec<(u64, Node)>,
}

impl Fleet {
    pub fn new(lease_time: std::time::Duration) -> Self {
        let period = u64::try_from(lease_time.as_micros() / 3).unwrap_or(u64::MAX);
        Self { period, ..Self::default() }
    }

    /// The time in which a new engine gets its share: two renewals, and what runs may take to move.
    pub fn two_renewals(&self) -> std::time::Duration {
        std::time::Duration::from_micros(2 * self.period + MOMENT)
    }

    /// An engine acquired leases. Returns whether it has joined.
    pub fn acquired(&mut self, node: Node, leases: &[Lease], now: u64) -> bool {
        let mut has_joined = false;
        for lease in leases {
            if lease.shard.slot_number().is_some() && !self.left.contains_key(&node) {
                has_joined = self.members.insert(node, now).is_none();
                self.counted(now);
            }
            if lease.shard.is_share() {
                self.owners.insert(lease.shard, (node, true));
                self.acquired_at.insert(node, now);
            }
        }
        has_joined
    }

    /// An engine released leases.
    pub fn released(&mut self, node: Node, leases: &[Lease], now: u64) -> Found {
        let mut released = 0;
        for lease in leases.iter().filter(|lease| lease.shard.is_share()) {
            self.owners.insert(lease.shard, (node, false));
            released += 1;
        }
        if released == 0 || !self.members.contains_key(&node) {
            return None;
        }
        self.moves.extend(std::iter::repeat_n((now, node), released));
        // A move may take a moment.
        let recent = |at: u64| at + MINUTE > now + MOMENT;
        let moves = self.moves.iter().filter(|(at, from)| recent(*at) && *from == node).count();
        if moves > MOVES_PER_MINUTE {
            let how = format!("node {} hands over {moves} shards within a minute", node.0);
            return Some((Invariant::MovesAreBounded, how));
        }
        let (rest, most) = (self.count(node), self.most_engines(now));
        if rest < usize::from(SHARDS) / most {
            let how = format!("node {} hands over {released} shards and keeps {rest}", node.0);
            return Some((Invariant::MovesAreNeeded, how));
        }
        let joined = self.members.iter().map(|(other, joined)| (*other, *joined));
        let leaving = self.left.iter().filter(|(_, (_, left))| left + MOMENT > now);
        let leaving = leaving.map(|(other, (joined, _))| (*other, *joined));
        let share = usize::from(SHARDS).div_ceil(self.members.len().max(1));
        let needs = |other: Node| {
            let has_just_got = self.acquired_at.get(&other).is_some_and(|at| at + MOMENT > now);
            other != node && (self.count(other) < share || has_just_got)
        };
        let mut needy = joined.chain(leaving).filter(|(other, _)| needs(*other));
        if needy.any(|(_, joined)| joined + self.period <= now + LATENCY) {
            return None;
        }
        let how = format!(
            "node {} hands over {released} shards, and no engine that was there for a renewal needs one",
            node.0
        );
        Some((Invariant::BriefEnginesMoveNothing, how))
    }

    /// An engine begins to stop.
    pub fn leaves(&mut self, node: Node, now: u64) {
        // It may be about to join.
        let joined = self.members.remove(&node);
        self.left.insert(node, (joined.unwrap_or(now), now));
        if joined.is_some() {
            self.counted(now);
        }
    }

    /// Checks the share of an engine that joined at a time, if no engine has come or gone since, and if
    /// its share could move within the minute.
    pub fn check_share(&self, node: Node, joined: u64) -> Found {
        let is_stable = self.counts.back().is_some_and(|(at, _)| *at == joined);
        let (count, share) = (self.count(node), usize::from(SHARDS) / self.members.len().max(1));
        let before = self.moves_since(joined.saturating_sub(MINUTE)).saturating_sub(count);
        (is_stable && count < share && before + share <= MOVES_PER_MINUTE).then(|| {
            let how = format!("node {} has {count} of {share} shards after two renewals", node.0);
            (Invariant::SharesInTime, how)
        })
    }

    /// The largest number of engines that another one may still see.
    fn most_engines(&self, now: u64) -> usize {
        let mut most = 1;
        for (at, count) in self.counts.iter().rev() {
            most = most.max(*count);
            if at + self.period + MOMENT < now {
                break;
            }
        }
        most
    }

    fn moves_since(&self, at: u64) -> usize {
        self.moves.iter().filter(|(moved, _)| *moved > at).count()
    }

    fn count(&self, node: Node) -> usize {
        self.owners.values().filter(|owner| **owner == (node, true)).count()
    }

    fn counted(&mut self, now: u64) {
        self.counts.push_back((now, self.members.len()));
    }
}
