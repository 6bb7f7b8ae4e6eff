//! The pauses of loops that retry without end: subscriptions, publishes and factories.
//!
//! Each loop owns one timer. It calls `wait` after a failure and `reset` after a success. A part of
//! each pause is random, so that processes that lost the same server do not return to it at the
//! same moment.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use aios_core::{clock::Clock, retry::Backoff};

/// Waits longer after each consecutive failure, with up to half of each delay randomised. Never
/// gives up.
pub(crate) struct BackoffTimer {
    /// Longest and first pause; `next` doubles a pause up to the longest.
    backoff: Backoff,
    /// The pause of the next failure, before the random part is taken off.
    delay: Duration,
}

impl BackoffTimer {
    /// A timer whose first pause is the initial delay.
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, delay: backoff.initial_delay }
    }

    /// Sleeps, and doubles the delay for the next failure.
    pub(crate) async fn wait(&mut self, clock: &dyn Clock) {
        // Between half of the delay and all of it.
        let delay = self.delay.mul_f64(1.0 - jitter() / 2.0);
        self.delay = self.backoff.next(self.delay);
        clock.sleep(delay).await;
    }

    /// Resets the delay after a success.
    pub(crate) fn reset(&mut self) {
        self.delay = self.backoff.initial_delay;
    }
}

/// Returns a random number from 0 to 1 that spreads retries. Not suitable for anything else: it is a
/// hash of the standard library, which seeds its hashers from the randomness of the system.
pub(crate) fn jitter() -> f64 {
    #[cfg(feature = "simulation")]
    if let Some(simulation) = aios_core::simulation::current() {
        return simulation.chance();
    }
    let bits = RandomState::new().hash_one(0_u8) >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_draw_different_numbers_from_zero_to_one() {
        let draws: Vec<_> = (0..100).map(|_| jitter()).collect();
        assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)));
        assert!(draws.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
