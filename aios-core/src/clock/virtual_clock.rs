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
/// Clones share the time. [`advance`](Self::advance) lets time pass. [`set`](Self::set) sets the time
/// forward or back, as an operator or a time server does, without time passing.
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
    elapsed: Duration,
    next_sleeper: u64,
    /// Those that wait until time has passed.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    /// Those that wait until it is a certain time.
    waiters: BTreeMap<(Timestamp, u64), Waker>,
}

/// When a sleep ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Elapsed(Duration),
    Time(Timestamp),
}

impl State {
    fn has_reached(&self, end: End) -> bool {
        match end {
            End::Elapsed(elapsed) => self.elapsed >= elapsed,
            End::Time(time) => self.now >= time,
        }
    }

    /// Takes the wakers of all sleeps that have ended.
    fn due(&mut self) -> Vec<Waker> {
        let later = self.sleepers.split_off(&(self.elapsed, u64::MAX));
        let slept = std::mem::replace(&mut self.sleepers, later);
        let later = self.waiters.split_off(&(self.now, u64::MAX));
        let waited = std::mem::replace(&mut self.waiters, later);
        slept.into_values().chain(waited.into_values()).collect()
    }

    /// The time that passes until the next sleep ends.
    fn next(&self) -> Option<Duration> {
        let sleeper = self.sleepers.keys().next().map(|(end, _)| end.saturating_sub(self.elapsed));
        let waiter = self.waiters.keys().next().map(|(end, _)| end.duration_since(self.now));
        sleeper.into_iter().chain(waiter).min()
    }
}

impl VirtualClock {
    /// A clock that is stopped at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let state = State {
            now,
            elapsed: now.duration_since(Timestamp::UNIX_EPOCH),
            next_sleeper: 0,
            sleepers: BTreeMap::new(),
            waiters: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Advances the time and wakes all sleepers whose deadline has passed.
    pub fn advance(&self, duration: Duration) {
        let due = {
            let mut state = self.state();
            state.now = state.now + duration;
            state.elapsed = state.elapsed.saturating_add(duration);
            state.due()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// Sets the time, forward or back. [`elapsed`](Clock::elapsed) stays, and so does the rest of every
    /// [`sleep`](Clock::sleep). A [`sleep_until`](Clock::sleep_until) ends when its time is shown.
    pub fn set(&self, now: Timestamp) {
        let due = {
            let mut state = self.state();
            state.now = now;
            state.due()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// Advances the time to the earliest deadline of all sleepers; `false` if there are none.
    pub fn advance_to_next(&self) -> bool {
        let next = self.state().next();
        if let Some(rest) = next {
            self.advance(rest);
        }
        next.is_some()
    }

    /// A sleep that ends then.
    fn sleep_to(&self, end: impl FnOnce(&State) -> End) -> BoxFuture<'static, ()> {
        let (end, number) = {
            let mut state = self.state();
            state.next_sleeper += 1;
            (end(&state), state.next_sleeper)
        };
        Box::pin(Sleep { clock: self.clone(), end, number })
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
        self.state().elapsed
    }

    /// Rounded up to microseconds: it never ends early.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let micros = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let duration = Duration::from_micros(micros);
        self.sleep_to(|state| End::Elapsed(state.elapsed.saturating_add(duration)))
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.sleep_to(|_| End::Time(deadline))
    }
}

struct Sleep {
    clock: VirtualClock,
    end: End,
    /// Distinguishes sleeps with the same end.
    number: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.has_reached(self.end) {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let replaced = match self.end {
            End::Elapsed(elapsed) => state.sleepers.insert((elapsed, self.number), waker),
            End::Time(time) => state.waiters.insert((time, self.number), waker),
        };
        // A waker may own another sleep, which takes the lock when it is dropped.
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut state = self.clock.state();
        let waker = match self.end {
            End::Elapsed(elapsed) => state.sleepers.remove(&(elapsed, self.number)),
            End::Time(time) => state.waiters.remove(&(time, self.number)),
        };
        drop(state);
        drop(waker);
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
    fn should_let_no_time_pass_when_it_is_set() {
        let clock = VirtualClock::default();
        let hour = Duration::from_secs(3600);
        let (mut sleep, mut early) = (clock.sleep(hour), clock.sleep_until(clock.now() + hour));
        assert!((&mut sleep).now_or_never().is_none() && (&mut early).now_or_never().is_none());
        clock.set(clock.now() + hour);
        assert!((&mut sleep).now_or_never().is_none() && (&mut early).now_or_never().is_some());
        assert_eq!(clock.elapsed(), Duration::ZERO);
        clock.set(Timestamp::UNIX_EPOCH);
        assert!(clock.advance_to_next() && (&mut sleep).now_or_never().is_some());
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp::UNIX_EPOCH + hour, hour));
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
