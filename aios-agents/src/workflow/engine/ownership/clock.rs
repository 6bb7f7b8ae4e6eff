//! The engine's clock, which follows the clock of the store.
//!
//! ```text
//!    sent            the store reads its clock         now            elapsed time of this machine
//!     │                          │                      │
//!     └──────────────────────────┴──────────────────────┘
//!     read − sent ≥ true origin            read − now ≤ true origin
//! ```
//!
//! An answer gives a lower and an upper bound for the time at which the elapsed time was zero. The
//! highest lower bound so far is used. An upper bound below it proves that the store's clock was set
//! back, and the new lower bound takes its place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aios_core::{BoxFuture, clock::Clock, event::Timestamp, store::Lease};
use tokio::sync::watch;

/// The expiry of a lease of this length or more does not tell the store's time: the store may have
/// shortened it.
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

/// A clock that shows the time of the store, even if the machine's clock is wrong.
///
/// Timers are recorded as timestamps, and another engine may have to fire them. An engine whose
/// machine is an hour ahead would make a run wait an hour too long, even after its clock was
/// corrected. The machine's clock is used until the store has answered for the first time; from
/// then on the time advances with [`Clock::elapsed`]. It is never ahead of the store's clock, so no
/// timer fires early, and behind it by at most the latency of the fastest answer.
#[derive(Debug)]
pub(crate) struct StoreClock {
    /// Measures the elapsed time, which no correction of a wall clock changes.
    machine: Arc<dyn Clock>,
    /// The origin, to wake sleepers when it changes.
    origin: watch::Sender<Origin>,
    /// The timestamp of `origin`, in microseconds. Every run reads the time at every step, and a
    /// lock that all of them share would cost more than the read.
    micros: AtomicI64,
}

/// The time at which [`Clock::elapsed`] was zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// According to the clock of the machine.
    Machine(Timestamp),
    /// According to the clock of the store.
    Store(Timestamp),
}

impl Origin {
    /// The time, whichever clock it comes from.
    fn at(self) -> Timestamp {
        match self {
            Self::Machine(at) | Self::Store(at) => at,
        }
    }
}

impl StoreClock {
    /// Shows the time of the machine until the store has answered.
    pub(crate) fn new(machine: Arc<dyn Clock>) -> Self {
        let at = machine.now() - machine.elapsed();
        let origin = watch::Sender::new(Origin::Machine(at));
        Self { machine, origin, micros: AtomicI64::new(at.as_micros()) }
    }

    /// Learns the store's time from leases that it granted for `lease_time`. They were requested
    /// when `sent` had elapsed, so the store read its clock between then and now.
    pub(super) fn record_leases(&self, leases: &[Lease], lease_time: Duration, sent: Duration) {
        let Some(lease) = leases.first().filter(|_| lease_time < LONGEST_LEASE) else { return };
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("time of the machine") {
            return;
        }
        let read = lease.expires_at - lease_time;
        let earliest = read - self.machine.elapsed();
        let latest = read - sent;
        self.origin.send_if_modified(|origin| {
            let corrected = match *origin {
                Origin::Store(before) if before <= latest => before.max(earliest),
                // This is the first answer, or the store's clock was set back.
                _ => earliest,
            };
            self.micros.store(corrected.as_micros(), Ordering::Release);
            std::mem::replace(origin, Origin::Store(corrected)).at() != corrected
        });
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(Ordering::Acquire)) + self.machine.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.machine.sleep(duration)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let machine = Arc::clone(&self.machine);
        let mut origin = self.origin.subscribe();
        Box::pin(async move {
            loop {
                let now = origin.borrow_and_update().at() + machine.elapsed();
                let rest = deadline.duration_since(now);
                if rest.is_zero() {
                    return;
                }
                // Without a sender there are no further corrections.
                let corrected = async {
                    if origin.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    biased;
                    () = corrected => {}
                    () = machine.sleep(rest) => {}
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        clock::VirtualClock,
        store::{Epoch, OwnerId, Shard},
    };
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// The leases granted by a store whose clock shows `now`.
    fn lease(now: Timestamp) -> Vec<Lease> {
        let shard = Shard::new(1).unwrap();
        let epoch = Epoch(1);
        let owner = OwnerId::new("a");
        vec![Lease { shard, epoch, owner, expires_at: now + SECOND }]
    }

    fn clocks() -> (VirtualClock, StoreClock, Timestamp) {
        let machine = VirtualClock::new(Timestamp::UNIX_EPOCH + HOUR * 2);
        let clock = StoreClock::new(Arc::new(machine.clone()));
        let now = machine.now();
        (machine, clock, now)
    }

    #[test]
    fn should_show_the_time_of_the_store() {
        let (machine, clock, start) = clocks();
        assert_eq!(clock.now(), start);
        for now in [start - HOUR, start + HOUR] {
            clock.record_leases(&lease(now), SECOND, machine.elapsed());
            assert_eq!(clock.now(), now);
        }
        machine.advance(SECOND);
        assert_eq!(clock.now(), start + HOUR + SECOND);
    }

    #[test]
    fn should_never_be_ahead_of_the_store() {
        let (machine, clock, start) = clocks();
        // The store may have read its clock at any time of an answer that takes a second.
        let slow = |read: Timestamp| {
            let sent = machine.elapsed();
            machine.advance(SECOND);
            clock.record_leases(&lease(read), SECOND, sent);
            clock.now()
        };
        assert_eq!(slow(start), start, "no time has passed since, at least");
        assert_eq!(slow(start + SECOND * 2), start + SECOND * 2, "it was behind");
        assert_eq!(slow(start + SECOND * 5 / 2), start + SECOND * 3, "which may be right");
        assert_eq!(slow(start + SECOND * 2), start + SECOND * 2, "the store's clock was set back");
    }

    #[test]
    fn should_ignore_leases_that_show_no_time_of_the_store() {
        let (machine, clock, start) = clocks();
        clock.record_leases(&[], SECOND, machine.elapsed());
        clock.record_leases(&lease(start + HOUR), Duration::MAX, machine.elapsed());
        assert_eq!(clock.now(), start);
    }

    #[test]
    fn should_wake_a_sleeper_whose_time_has_come() {
        let (machine, clock, start) = clocks();
        let mut sleep = clock.sleep_until(start + HOUR);
        let mut late = clock.sleep_until(start + HOUR * 3);
        assert!((&mut sleep).now_or_never().is_none() && (&mut late).now_or_never().is_none());
        clock.record_leases(&lease(start + HOUR), SECOND, machine.elapsed());
        assert!((&mut sleep).now_or_never().is_some() && (&mut late).now_or_never().is_none());
        machine.advance(HOUR * 2);
        assert!((&mut late).now_or_never().is_some());
    }
}
