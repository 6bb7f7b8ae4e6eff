//! Random numbers for jitter.
//!
//! They spread the attempts of many processes over time. They protect nothing, so a small generator
//! without a dependency is enough. In memory it is seeded by an option, so that a simulation draws
//! the same numbers again.

use std::sync::atomic::{AtomicU64, Ordering};

/// Random numbers for jitter: SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom
/// Number Generators", OOPSLA 2014). The same seed gives the same numbers. The state only ever
/// grows by a constant, so an atomic addition is enough to share it between threads.
#[derive(Debug)]
pub(crate) struct SplitMix64(AtomicU64);

impl SplitMix64 {
    /// Creates a generator with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Creates a generator with a random seed.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn seeded() -> Self {
        let (high, low) = aios_core::event::EventId::generate().key().as_u64_pair();
        Self::new(high ^ low)
    }

    /// Returns a number from 0 to 1.
    pub(crate) fn next(&self) -> f64 {
        // The constants are those of Vigna's `splitmix64.c`: the golden ratio, and Stafford's mix
        // 13.
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        f64::from(top) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_stay_between_zero_and_one_and_spread() {
        let rng = SplitMix64::new(7);
        let drawn: Vec<f64> = (0..1000).map(|_| rng.next()).collect();
        assert!(drawn.iter().all(|number| (0.0..=1.0).contains(number)));
        let low = drawn.iter().filter(|number| **number < 0.5).count();
        assert!((400..600).contains(&low), "{low}");
    }
}
