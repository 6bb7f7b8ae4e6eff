use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::Clock;
use crate::{BoxFuture, event::Timestamp};

/// A clock that is stopped until a test advances it.
///
/// Clones share the time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::{
///     clock::{Clock, VirtualClock},
///     event::Timestamp,
/// };
///
/// let clock = VirtualClock::new(Timestamp::UNIX_EPOCH);
/// let shared = clock.clone();
/// shared.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now(), Timestamp::UNIX_EPOCH + Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug)]
pub struct VirtualClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Timestamp,
    next_sleeper: u64,
    sleepers: BTreeMap<(Timestamp, u64), Waker>,
}

impl VirtualClock {
    /// A clock that is stopped at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let state = State { now, next_sleeper: 0, sleepers: BTreeMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Advances the time and wakes all sleepers whose deadline has passed.
    pub fn advance(&self, duration: Duration) {
        let due = {
            let mut state = self.state();
            state.now = state.now + duration;
            let now = state.now;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut state.sleepers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Advances the time to the earliest deadline of all sleepers; `false` if there are none.
    pub fn advance_to_next(&self) -> bool {
        let (now, next) = {
            let state = self.state();
            (state.now, state.sleepers.keys().next().map(|(deadline, _)| *deadline))
        };
        if let Some(deadline) = next {
            self.advance(deadline.duration_since(now));
        }
        next.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stopped at the Unix epoch.
impl Default for VirtualClock {
    fn default() -> Self {
        Self::new(Timestamp::UNIX_EPOCH)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.state().now
    }

    fn elapsed(&self) -> Duration {
        self.now().duration_since(Timestamp::UNIX_EPOCH)
    }

    /// Rounded up to microseconds: it never ends early.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let rest = Duration::from_nanos(999);
        self.sleep_until(self.now() + duration.saturating_add(rest))
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let sleeper = {
            let mut state = self.state();
            state.next_sleeper += 1;
            state.next_sleeper
        };
        Box::pin(Sleep { clock: self.clone(), key: (deadline, sleeper) })
    }
}

struct Sleep {
    clock: VirtualClock,
    key: (Timestamp, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.state().sleepers.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn should_wake_sleepers_when_their_time_has_come() {
        let clock = VirtualClock::default();
        let mut short = clock.sleep(Duration::from_secs(1));
        let mut long = clock.sleep(Duration::from_secs(9));
        assert!((&mut short).now_or_never().is_none() && (&mut long).now_or_never().is_none());
        assert!(clock.advance_to_next());
        assert!((&mut short).now_or_never().is_some() && (&mut long).now_or_never().is_none());
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH + Duration::from_secs(1));
    }

    #[test]
    fn should_sleep_for_parts_of_a_microsecond() {
        let clock = VirtualClock::default();
        let mut sleep = clock.sleep(Duration::from_nanos(1));
        assert!((&mut sleep).now_or_never().is_none(), "who sleeps in a loop would spin");
        assert!(clock.advance_to_next() && (&mut sleep).now_or_never().is_some());
        assert!(clock.sleep(Duration::ZERO).now_or_never().is_some());
    }

    #[test]
    fn should_forget_sleepers_that_were_dropped() {
        let clock = VirtualClock::default();
        let mut sleep = clock.sleep(Duration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_none());
        drop(sleep);
        assert!(!clock.advance_to_next());
    }
}
