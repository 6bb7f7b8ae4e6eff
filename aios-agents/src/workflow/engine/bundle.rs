use std::fmt;

use aios_core::store::Shard;

/// Bundles of a store.
const BUNDLES: u16 = 8;

/// Shards that share a mailbox. A mailbox has one reader, so one engine owns them all.
///
/// A mailbox for each shard would be more queues than a small broker bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bundle(u16);

impl Bundle {
    /// The bundle of a shard.
    pub(crate) fn of(shard: Shard) -> Self {
        Self(shard.0 % BUNDLES)
    }

    /// Its shards.
    pub(super) fn shards(self) -> impl Iterator<Item = Shard> {
        Shard::all().filter(move |shard| Self::of(*shard) == self)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..BUNDLES).map(Self)
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn should_put_each_shard_into_one_bundle() {
        let bundled: Vec<Shard> = Bundle::all().flat_map(Bundle::shards).collect();
        assert_eq!(bundled.len(), Shard::all().count());
        assert_eq!(bundled.into_iter().collect::<BTreeSet<_>>(), Shard::all().collect());
    }
}
