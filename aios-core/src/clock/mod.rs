//! Time as a dependency, so that tests run in virtual time.

#[cfg(feature = "tokio")]
mod system;
mod virtual_clock;

use std::{fmt::Debug, time::Duration};

#[cfg(feature = "tokio")]
pub use self::system::SystemClock;
pub use self::virtual_clock::VirtualClock;
use crate::{BoxFuture, event::Timestamp, forward::forward};

/// Provides the time, and sleeps.
///
/// # Examples
///
/// Code that takes the clock as a parameter is tested without waiting:
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::clock::{Clock, VirtualClock};
///
/// /// Whether something that was seen at this time is overdue.
/// fn is_overdue(clock: &dyn Clock, seen: aios_core::event::Timestamp) -> bool {
///     clock.now().duration_since(seen) > Duration::from_secs(30)
/// }
///
/// let clock = VirtualClock::default();
/// let seen = clock.now();
/// assert!(!is_overdue(&clock, seen));
/// clock.advance(Duration::from_secs(31));
/// assert!(is_overdue(&clock, seen));
/// ```
pub trait Clock: Debug + Send + Sync + 'static {
    /// The current time. It may be set forward or back.
    fn now(&self) -> Timestamp;

    /// The time since a fixed point, for measuring durations. It is monotonic.
    fn elapsed(&self) -> Duration;

    /// Completes as soon as [`elapsed`](Self::elapsed) has grown by `duration`. Changes of the wall
    /// clock have no effect.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Completes as soon as [`now`](Self::now) is at or past `deadline`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()>;
}

forward!(Clock {
    fn now() -> Timestamp;
    fn elapsed() -> Duration;
    fn sleep(duration: Duration) -> BoxFuture<'static, ()>;
    fn sleep_until(deadline: Timestamp) -> BoxFuture<'static, ()>;
});
