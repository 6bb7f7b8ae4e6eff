use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use aios_core::{clock::Clock, retry::RetryPolicy};

/// Waits longer after each consecutive failure. Never gives up.
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    /// Uses the delays of `policy` without its limit on attempts.
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self { policy: policy.clone().with_max_attempts(0), failures: 0 }
    }

    /// Counts a failure and sleeps.
    pub(crate) async fn wait(&mut self, clock: &dyn Clock) {
        self.failures = self.failures.saturating_add(1);
        let delay = self.policy.delay_after(self.failures, jitter());
        clock.sleep(delay.unwrap_or(Duration::ZERO)).await;
    }

    /// Resets the delay after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
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
