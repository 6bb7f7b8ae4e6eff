use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use super::Clock;
use crate::{BoxFuture, event::Timestamp};

/// Longest single sleep, so that a change of the wall clock is noticed within the hour.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The origin of elapsed time, which is arbitrary.
static START: LazyLock<Instant> = LazyLock::new(begin);

#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
fn begin() -> Instant {
    Instant::now()
}

/// The machine's wall clock, sleeping on tokio's timer.
///
/// # Panics
///
/// Sleeping outside a tokio runtime with time enabled panics, as tokio's own timer does.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn elapsed(&self) -> Duration {
        START.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let end = START.elapsed().saturating_add(duration);
        Box::pin(async move {
            tokio::time::sleep(end.saturating_sub(START.elapsed())).await;
        })
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let rest = deadline.duration_since(Timestamp::now());
                if rest.is_zero() {
                    return;
                }
                tokio::time::sleep(rest.min(LONGEST_SLEEP)).await;
            }
        })
    }
}
