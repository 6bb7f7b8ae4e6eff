//! Retry policies as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A retry policy: exponential delays with a cap, jitter, and a maximum number of attempts.
///
/// The default makes 5 attempts, 1 s after the first failure, doubling up to 1 minute, with half of
/// each delay randomised.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::retry::RetryPolicy;
///
/// let policy = RetryPolicy::new()
///     .with_max_attempts(3)
///     .with_delays(Duration::from_millis(100), Duration::from_secs(10))
///     .with_jitter(0.0)
///     .with_non_retryable("CARD_DECLINED");
/// assert_eq!(policy.delay_after(2, 0.0), Some(Duration::from_millis(200)));
/// assert_eq!(policy.delay_after(3, 0.0), None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The maximum number of attempts, including the first; 0 means unlimited.
    pub max_attempts: u32,
    /// Delay after the first failure.
    pub initial_delay: Duration,
    /// The factor by which each further delay grows; below 1 counts as 1.
    pub factor: f64,
    /// Longest delay.
    pub max_delay: Duration,
    /// Share of each delay that is randomised, 0 to 1 ("equal jitter" at 0.5; Brooker, "Exponential
    /// Backoff And Jitter", AWS 2015).
    pub jitter: f64,
    /// Failure codes that end the attempts at once.
    pub non_retryable: Vec<String>,
}

/// Delays between attempts that are repeated until one succeeds: each is twice as long as the one
/// before, up to a maximum.
///
/// The default begins with 1 s and ends at 1 minute. A [`RetryPolicy`] is for attempts that end.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::retry::Backoff;
///
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
/// let second = backoff.next(backoff.initial_delay);
/// assert_eq!(second, Duration::from_secs(2));
/// assert_eq!(backoff.next(second), Duration::from_secs(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// Delay after the first failure.
    pub initial_delay: Duration,
    /// Longest delay.
    pub max_delay: Duration,
}

impl Backoff {
    /// Delays from `initial` to `max`.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial_delay: initial, max_delay: max }
    }

    /// The delay that follows `delay`: twice as long, but at most [`max_delay`](Self::max_delay).
    #[must_use]
    pub fn next(self, delay: Duration) -> Duration {
        delay.saturating_mul(2).min(self.max_delay)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }
}

/// The longest valid delay.
const LONGEST_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// An invalid retry policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct InvalidRetryPolicy {
    /// The reason.
    pub reason: String,
}

impl RetryPolicy {
    /// The default policy.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_attempts: 5,
            initial_delay: Duration::from_secs(1),
            factor: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.5,
            non_retryable: Vec::new(),
        }
    }

    /// A single attempt.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::new() }
    }

    /// The same delay every time, without jitter.
    #[must_use]
    pub fn fixed(max_attempts: u32, delay: Duration) -> Self {
        Self {
            max_attempts,
            initial_delay: delay,
            factor: 1.0,
            max_delay: delay,
            jitter: 0.0,
            ..Self::new()
        }
    }

    /// Sets the maximum number of attempts; 0 means unlimited.
    #[must_use]
    pub fn with_max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets the first and the longest delay.
    #[must_use]
    pub fn with_delays(mut self, initial: Duration, max: Duration) -> Self {
        (self.initial_delay, self.max_delay) = (initial, max);
        self
    }

    /// Sets the factor by which each further delay grows.
    #[must_use]
    pub fn with_factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Sets the share of each delay that is randomised, 0 to 1.
    #[must_use]
    pub fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// Adds a failure code that ends the attempts at once.
    #[must_use]
    pub fn with_non_retryable(mut self, code: impl Into<String>) -> Self {
        self.non_retryable.push(code.into());
        self
    }

    /// The delay after the failed attempt number `attempt` (from 1), or `None` if it was the last.
    ///
    /// `chance` is a random number from 0 to 1; the policy itself has no randomness.
    #[must_use]
    pub fn delay_after(&self, attempt: u32, chance: f64) -> Option<Duration> {
        if self.max_attempts != 0 && attempt >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        // Finite, because no delay times infinity is not a number.
        let growth = self.factor.max(1.0).powi(exponent).min(f64::MAX);
        let grown = self.initial_delay.as_secs_f64() * growth;
        let capped = grown.min(self.max_delay.as_secs_f64());
        let delay = capped * (1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Some(Duration::try_from_secs_f64(delay).unwrap_or(self.max_delay))
    }

    /// Checks that the policy is valid.
    ///
    /// # Errors
    ///
    /// [`InvalidRetryPolicy`] if a delay is longer than 100 years, the factor or the jitter is out
    /// of range, or the policy has neither a maximum number of attempts nor a delay.
    pub fn validate(&self) -> Result<(), InvalidRetryPolicy> {
        let invalid = |reason| Err(InvalidRetryPolicy { reason });
        for (name, delay) in [("initial_delay", self.initial_delay), ("max_delay", self.max_delay)]
        {
            if delay > LONGEST_DELAY {
                return invalid(format!("{name} is at most 100 years, not {delay:?}"));
            }
        }
        let has_pause = !self.initial_delay.is_zero() && !self.max_delay.is_zero();
        if self.max_attempts == 0 && !has_pause {
            return invalid("it has neither an end nor a delay".to_owned());
        }
        if !self.factor.is_finite() || !(0.0..=1.0).contains(&self.jitter) {
            let factor = self.factor;
            let jitter = self.jitter;
            return invalid(format!(
                "the factor must be finite and the jitter from 0 to 1, not {factor} and {jitter}"
            ));
        }
        Ok(())
    }

    /// Whether failures with this code may be retried.
    #[must_use]
    pub fn allows(&self, code: &str) -> bool {
        !self.non_retryable.iter().any(|refused| refused == code)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_double_up_to_the_cap_and_end() {
        let policy = RetryPolicy::new()
            .with_max_attempts(5)
            .with_delays(Duration::from_secs(1), Duration::from_secs(5));
        let delays: Vec<_> = (1..=5).map(|attempt| policy.delay_after(attempt, 0.0)).collect();
        let seconds = [Some(1), Some(2), Some(4), Some(5), None];
        assert_eq!(delays, seconds.map(|delay| delay.map(Duration::from_secs)));
    }

    #[test]
    fn should_never_exceed_the_cap_however_often_it_tries() {
        let policy = RetryPolicy::new().with_max_attempts(0);
        assert_eq!(policy.delay_after(u32::MAX, 0.0), Some(Duration::from_secs(60)));
    }

    #[test]
    fn should_never_wait_without_a_delay_however_often_it_tries() {
        let policy = RetryPolicy::new()
            .with_max_attempts(u32::MAX)
            .with_delays(Duration::ZERO, Duration::from_secs(60));
        assert!(policy.validate().is_ok());
        for attempt in [1, 1_000, 2_000, u32::MAX - 1] {
            assert_eq!(policy.delay_after(attempt, 0.0), Some(Duration::ZERO), "{attempt}");
        }
    }

    #[test]
    fn should_leave_the_jitter_share_to_chance() {
        let policy = RetryPolicy::new();
        assert_eq!(policy.delay_after(1, 1.0), Some(Duration::from_millis(500)));
    }
}
