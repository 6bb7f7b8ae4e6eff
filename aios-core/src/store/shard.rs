use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of shards that runs are spread over, fixed when a database is created.
pub const SHARDS: u16 = 64;

/// The shard of the engine with number 0.
const FIRST_SLOT: u16 = 1024;

/// The shard of the guests of the engine with number 0.
const FIRST_GUESTS: u16 = FIRST_SLOT + Shard::SLOTS;

/// The number after that of the last guests.
const AFTER_GUESTS: u16 = FIRST_GUESTS + Shard::SLOTS;

/// The shard of the projection with number 0.
const FIRST_PROJECTION: u16 = 4096;

/// A fixed share of the runs, owned by one engine at a time, or something else that has one owner:
/// the relay, the number of an engine, the runs of its guests, a projection.
///
/// # Examples
///
/// ```
/// use aios_core::store::{SHARDS, Shard};
///
/// let shard = Shard::of("welcome-ada");
/// assert!(shard.is_share() && shard.number() < SHARDS);
/// assert_eq!(Shard::new(shard.number()), Some(shard));
/// assert_eq!(Shard::new(SHARDS), None);
/// assert!(!Shard::RELAY.is_share());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Shard(u16);

/// A number that no [`Shard`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no shard has the number {number}")]
#[non_exhaustive]
pub struct InvalidShard {
    /// The number.
    pub number: u16,
}

impl Shard {
    /// The lease of the relay, whose owner publishes the log to the broker. It has no runs.
    pub const RELAY: Self = Self(u16::MAX);

    /// The shard with this number, as stored: a share of the runs below [`SHARDS`], or one of the
    /// others. `None` if no shard has it.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            0..SHARDS | FIRST_SLOT..AFTER_GUESTS | FIRST_PROJECTION.. => Some(Self(number)),
            _ => None,
        }
    }

    /// The number of this shard, as stored.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The maximum number of engines that can be alive at the same time.
    pub const SLOTS: u16 = 1024;

    /// Not a share of the runs: its owner is the engine with this number, from 0 to
    /// [`SLOTS`](Self::SLOTS) - 1. Each live engine owns one.
    #[must_use]
    pub const fn slot(number: u16) -> Self {
        Self(FIRST_SLOT + number % Self::SLOTS)
    }

    /// The number of an engine, if this is a slot.
    #[must_use]
    pub fn slot_number(self) -> Option<u16> {
        self.0.checked_sub(FIRST_SLOT).filter(|number| *number < Self::SLOTS)
    }

    /// Not a share of the runs: its owner advances the runs that were moved to the engine with this
    /// number, because the owners of their shards have no code for them.
    #[must_use]
    pub const fn guests(number: u16) -> Self {
        Self(FIRST_GUESTS + number % Self::SLOTS)
    }

    /// The number of the engine whose guests this represents, if it does.
    #[must_use]
    pub fn guests_number(self) -> Option<u16> {
        self.0.checked_sub(FIRST_GUESTS).filter(|number| *number < Self::SLOTS)
    }

    /// Not a share of the runs: its owner runs the projection with this number. `None` if the
    /// number is too large.
    #[must_use]
    pub fn projection(number: u64) -> Option<Self> {
        let number = FIRST_PROJECTION.checked_add(number.try_into().ok()?)?;
        Some(Self(number)).filter(|shard| *shard != Self::RELAY)
    }

    /// Whether this is a share of the runs.
    #[must_use]
    pub fn is_share(self) -> bool {
        self.0 < SHARDS
    }

    /// The shard that owns this key: FNV-1a of the key, modulo [`SHARDS`].
    ///
    /// The function is part of the stored format (Fowler, Noll, Vo; RFC 9923 gives the constants).
    #[must_use]
    pub fn of(key: &str) -> Self {
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(u16::try_from(hash % u64::from(SHARDS)).unwrap_or_default())
    }

    /// Every share of the runs.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }
}

impl TryFrom<u16> for Shard {
    type Error = InvalidShard;

    fn try_from(number: u16) -> Result<Self, InvalidShard> {
        Self::new(number).ok_or(InvalidShard { number })
    }
}

impl From<Shard> for u16 {
    fn from(shard: Shard) -> Self {
        shard.number()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Counts the owners of a shard: 1, 2, 3 … Each take-over increments it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run belongs to the shard derived from its id, in every version and in every process.
    #[test]
    fn should_hash_keys_as_it_always_did() {
        for (key, shard) in
            [("", 37), ("a", 12), ("run-1", 28), ("release-7", 26), ("bestellung-ä✓", 57)]
        {
            assert_eq!(Shard::of(key), Shard(shard), "{key:?}");
        }
    }

    #[test]
    fn should_distinguish_slots_from_shares_of_the_runs() {
        for number in [0, 1, Shard::SLOTS - 1] {
            assert_eq!(Shard::slot(number).slot_number(), Some(number));
            assert_eq!(Shard::guests(number).guests_number(), Some(number));
            assert_eq!(Shard::slot(number).guests_number(), None);
            assert_eq!(Shard::guests(number).slot_number(), None);
            assert!(!Shard::slot(number).is_share() && !Shard::guests(number).is_share());
        }
        assert!(Shard::all().all(|shard| shard.is_share() && shard.slot_number().is_none()));
        assert_eq!((Shard::RELAY.slot_number(), Shard::RELAY.is_share()), (None, false));
        assert_eq!(Shard::RELAY.guests_number(), None);
        for projection in [0, 1, 60_000] {
            let projection = Shard::projection(projection).unwrap();
            assert!(!projection.is_share() && projection != Shard::RELAY);
            assert_eq!((projection.slot_number(), projection.guests_number()), (None, None));
        }
        let last = u64::from(u16::MAX - 4096);
        assert_eq!((Shard::projection(last), Shard::projection(u64::MAX)), (None, None));
    }

    #[test]
    fn should_know_the_numbers_that_shards_have() {
        for shard in Shard::all().chain([
            Shard::RELAY,
            Shard::slot(0),
            Shard::slot(Shard::SLOTS - 1),
            Shard::guests(0),
            Shard::guests(Shard::SLOTS - 1),
            Shard::projection(0).unwrap(),
        ]) {
            assert_eq!(Shard::new(shard.number()), Some(shard));
        }
        for number in [SHARDS, 1023, 3072, 4095] {
            assert_eq!(Shard::new(number), None, "{number}");
            assert!(serde_json::from_str::<Shard>(&number.to_string()).is_err());
        }
    }

    #[test]
    fn should_spread_keys_over_all_shards() {
        let mut counts = [0_u32; SHARDS as usize];
        for key in 0..6400 {
            counts[usize::from(Shard::of(&format!("run-{key}")).0)] += 1;
        }
        assert!(counts.iter().all(|count| (40..=180).contains(count)), "{counts:?}");
    }
}
