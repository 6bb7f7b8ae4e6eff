//! The rate limit of callers.
//!
//! The state of a caller is a single time: when its bucket will be full. A request moves it by one
//! interval; if it would be more than a period ahead, the request is refused. No task fills
//! buckets, and no timer runs.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    mem,
    sync::Arc,
    time::Duration,
};

use aios_core::clock::Clock;
use parking_lot::Mutex;

/// Maximum number of callers of one generation; two generations are in memory.
const MAX_CALLERS: usize = 65_536;
/// Longest time in which the bucket of a caller fills.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest time between two requests of a caller.
const MIN_INTERVAL: Duration = Duration::from_micros(1);

/// How many requests a caller may send: a token bucket.
///
/// A caller may send `requests` at once, and then one each time `per / requests` has passed. At least
/// the latest 65,536 callers are remembered, and at most 131,072, in about 7 MB. A caller that is
/// forgotten may send `requests` at once again.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::http::{ApiOptions, RateLimit};
///
/// # fn main() -> Result<(), aios_service::http::InvalidRateLimit> {
/// // 100 requests at once, then one every 600 ms; further ones get 429 and `Retry-After`.
/// let limit = RateLimit::new(100, Duration::from_secs(60))?;
/// let options = ApiOptions::new().with_rate_limit(limit);
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Time in which a token is added to the bucket.
    interval: Duration,
    /// Time in which an empty bucket fills.
    period: Duration,
}

/// A rate that cannot be a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate limit is at least 1 request per day and at most 1 request per microsecond, in a time of at most a day, not {requests} requests per {per:?}"
)]
#[non_exhaustive]
pub struct InvalidRateLimit {
    /// The refused number of requests.
    pub requests: u32,
    /// The refused time.
    pub per: Duration,
}

impl RateLimit {
    /// Allows each caller `requests` per `per`.
    ///
    /// # Errors
    ///
    /// [`InvalidRateLimit`] if `requests` is 0, `per` is longer than a day, or `per / requests` is
    /// shorter than 1 µs.
    pub fn new(requests: u32, per: Duration) -> Result<Self, InvalidRateLimit> {
        let interval = per.checked_div(requests).filter(|interval| *interval >= MIN_INTERVAL);
        match interval {
            Some(interval) if per <= MAX_PERIOD => {
                Ok(Self { interval, period: interval * requests })
            }
            _ => Err(InvalidRateLimit { requests, per }),
        }
    }
}

/// Applies a limit to each caller.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Monotonic time.
    clock: Arc<dyn Clock>,
    /// Random per process, so that a caller can't choose a subject that shares the bucket of
    /// another one.
    hasher: RandomState,
    /// The buckets.
    callers: Mutex<Callers>,
}

impl Limiter {
    /// A limiter that knows no caller.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, hasher: RandomState::new(), callers: Mutex::default() }
    }

    /// Takes a token from the bucket of a caller, or returns the time until there is one.
    ///
    /// With 3 requests per 3 s, the interval is 1 s and the period 3 s:
    ///
    /// ```text
    /// time       0 s   0 s   0 s   0 s      1 s   1 s
    /// full at    1     2     3     refused  4     refused
    /// wait                         1 s            1 s
    /// ```
    ///
    /// A refused request does not move the time, so a caller that keeps sending is not locked out
    /// for longer.
    pub(crate) fn admit(&self, limit: RateLimit, caller: impl Hash) -> Result<(), Duration> {
        let caller = self.hasher.hash_one(caller);
        let now = self.clock.elapsed();
        let RateLimit { interval, period } = limit;
        let mut callers = self.callers.lock();
        callers.forget(now, period);
        let full_at = callers.full_at(caller).max(now);
        let next = full_at + interval;
        let wait = next.saturating_sub(now + period);
        callers.recent.insert(caller, if wait.is_zero() { next } else { full_at });
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }
}

/// When the bucket of each caller will be full (the generic cell rate algorithm, ITU-T I.371), by the
/// hash of the caller, in two generations. A generation ends when it has lasted for the time in which
/// every bucket fills, so that a caller is forgotten only once its bucket is full, as that of a new
/// caller is; or when it has too many callers.
#[derive(Debug, Default)]
struct Callers {
    /// Callers of the current generation.
    recent: HashMap<u64, Duration>,
    /// Those of the one before, which are looked up but not added to.
    earlier: HashMap<u64, Duration>,
    /// When the current generation began.
    began_at: Duration,
}

impl Callers {
    /// Begins a new generation if the current one is over or full.
    fn forget(&mut self, now: Duration, period: Duration) {
        let is_over = now.saturating_sub(self.began_at) >= period;
        if is_over || self.recent.len() >= MAX_CALLERS {
            self.earlier = mem::take(&mut self.recent);
            self.began_at = now;
        }
    }

    /// When the bucket of a caller is full; the past for an unknown one.
    fn full_at(&self, caller: u64) -> Duration {
        let known = self.recent.get(&caller).or_else(|| self.earlier.get(&caller));
        known.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use aios_core::clock::VirtualClock;

    use super::*;

    /// A limiter with one limit.
    struct Limited {
        limit: RateLimit,
        limiter: Limiter,
    }

    impl Limited {
        fn admit(&self, subject: &str) -> Result<(), Duration> {
            self.limiter.admit(self.limit, subject)
        }
    }

    fn limiter(requests: u32, per: Duration) -> (VirtualClock, Limited) {
        let clock = VirtualClock::default();
        let limit = RateLimit::new(requests, per).unwrap();
        (clock.clone(), Limited { limit, limiter: Limiter::new(Arc::new(clock)) })
    }

    #[test]
    fn should_allow_a_burst_and_then_the_rate() {
        let (clock, limiter) = limiter(3, Duration::from_secs(30));
        for _ in 0..3 {
            assert_eq!(limiter.admit("ada"), Ok(()));
        }
        assert_eq!(limiter.admit("ada"), Err(Duration::from_secs(10)));
        assert_eq!(limiter.admit("grace"), Ok(()));
        clock.advance(Duration::from_secs(9));
        assert_eq!(limiter.admit("ada"), Err(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.admit("ada"), Ok(()));
        assert_eq!(limiter.admit("ada"), Err(Duration::from_secs(10)));
        clock.advance(Duration::from_secs(1000));
        for _ in 0..3 {
            assert_eq!(limiter.admit("ada"), Ok(()));
        }
        assert!(limiter.admit("ada").is_err(), "a bucket holds no more than the burst");
    }

    #[test]
    fn should_remember_a_caller_until_its_bucket_is_full() {
        let (clock, limiter) = limiter(1, Duration::from_secs(10));
        for _ in 0..100 {
            assert_eq!(limiter.admit("ada"), Ok(()));
            for second in 1..=9 {
                clock.advance(Duration::from_secs(1));
                assert_eq!(limiter.admit("ada"), Err(Duration::from_secs(10 - second)));
            }
            clock.advance(Duration::from_secs(1));
        }
    }

    #[test]
    fn should_remember_a_bounded_number_of_callers() {
        let (clock, limiter) = limiter(1, Duration::from_secs(10));
        for number in 0..3 * MAX_CALLERS {
            limiter.admit(&number.to_string()).unwrap();
        }
        let held = |limited: &Limited| {
            let callers = limited.limiter.callers.lock();
            callers.recent.len() + callers.earlier.len()
        };
        assert!(held(&limiter) <= 2 * MAX_CALLERS);
        assert!(limiter.admit(&(3 * MAX_CALLERS - 1).to_string()).is_err(), "the latest is known");
        for _ in 0..2 {
            clock.advance(Duration::from_secs(10));
            limiter.admit("ada").unwrap();
        }
        assert!(held(&limiter) <= 2, "callers with a full bucket are forgotten");
    }

    #[test]
    fn should_refuse_invalid_rates() {
        for (requests, per) in [
            (0, Duration::from_secs(1)),
            (1, Duration::ZERO),
            (1001, Duration::from_millis(1)),
            (1, Duration::from_secs(86_401)),
        ] {
            let expected = Err(InvalidRateLimit { requests, per });
            assert_eq!(RateLimit::new(requests, per), expected);
        }
        assert!(RateLimit::new(1000, Duration::from_millis(1)).is_ok());
        assert!(RateLimit::new(1, Duration::from_secs(86_400)).is_ok());
    }
}
