use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use aios_core::{clock::Clock, retry::Backoff};

/// Waits longer after each consecutive failure, with up to half of each delay randomised. Never
/// gives up.
pub(crate) struct BackoffTimer {
    backoff: Backoff,
    delay: Duration,
}

impl BackoffTimer {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, delay: backoff.initial_delay }
    }

    /// Sleeps, and doubles the delay for the next failure.
    pub(crate) async fn wait(&mut self, clock: &dyn Clock) {
        let delay = self.delay.mul_f64(1.0 - jitter() / 2.0);
        self.delay = self.backoff.next(self.delay);
        clock.sleep(delay).await;
    }

    /// Resets the delay after a success.
    pub(crate) fn reset(&mut self) {
        self.delay = self.backoff.initial_delay;
    }
}

/// Returns a random number from 0 to 1 that spreads retries. Not suitable for anything else. The
/// standard library seeds its hashers from the system's randomness.
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
    fn should_draw_from_zero_to_one_and_not_repeat() {
        let draws: Vec<_> = (0..100).map(|_| jitter()).collect();
        assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)));
        assert!(draws.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
