//! A limit of the rate at which tasks begin, across all agents that share it.
//!
//! The algorithm is that of the crate `governor`; waiting is done here, on the injected clock. One
//! task at a time sleeps and holds the turn. The others queue at the lock of the turn, which is
//! fair, so tasks begin in the order in which they came. A task that is dropped gives up its place.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::Payload,
};
use governor::{
    Quota, RateLimiter, clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::sync::Mutex;

use super::{Middleware, unless_cancelled};
use crate::{agent::AgentError, options::check_span};

/// One limit for all tasks, in memory, on the clock of the layer.
type Limiter = RateLimiter<NotKeyed, InMemoryState, Governed, NoOpMiddleware<Nanos>>;

/// Limits the rate at which tasks begin. Further tasks wait in FIFO order.
///
/// Up to `tasks` tasks may begin at once, then one each time `per / tasks` has passed (the generic
/// cell rate algorithm, ITU-T I.371). The wait counts towards the task's timeout. A task that is
/// cancelled while it waits does not begin.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::middleware::RateLimit;
/// use aios_core::clock::SystemClock;
///
/// # fn main() -> Result<(), aios_agents::agent::AgentError> {
/// let limit = RateLimit::new(Arc::new(SystemClock), 100, Duration::from_secs(60))?;
/// # drop(limit);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<Inner>);

/// Shared by all clones.
#[derive(Debug)]
struct Inner {
    /// The clock that waiting tasks sleep on.
    clock: Arc<dyn Clock>,
    limiter: Limiter,
    /// Held by the first waiting task, so that only one sleeps.
    turn: Mutex<()>,
}

impl Inner {
    /// Waits until the task may begin.
    async fn turn(&self) {
        let _turn = self.turn.lock().await;
        while let Err(early) = self.limiter.check() {
            // The clock of the limiter, in its own unit.
            let now = clock::Clock::now(self.limiter.clock());
            self.clock.sleep(early.wait_time_from(now)).await;
        }
    }
}

impl RateLimit {
    /// Lets at most `tasks` tasks begin per `per`.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidConfiguration`] if `tasks` is 0, `per / tasks` is less than a
    /// nanosecond, or `per` is longer than 100 years.
    pub fn new(clock: Arc<dyn Clock>, tasks: u32, per: Duration) -> Result<Self, AgentError> {
        check_span("the period of a rate limit", per, Duration::ZERO)
            .map_err(|reason| AgentError::InvalidConfiguration { reason })?;
        let quota = NonZeroU32::new(tasks).and_then(|burst| {
            Quota::with_period(per / tasks).map(|quota| quota.allow_burst(burst))
        });
        let Some(quota) = quota else {
            let reason = format!("invalid rate of {tasks} tasks per {per:?}");
            return Err(AgentError::InvalidConfiguration { reason });
        };
        let limiter = RateLimiter::direct_with_clock(quota, Governed(Arc::clone(&clock)));
        Ok(Self(Arc::new(Inner { clock, limiter, turn: Mutex::new(()) })))
    }
}

impl Middleware for RateLimit {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        // The next task may take its turn while this one runs.
        unless_cancelled(context, self.0.turn()).await?;
        agent.process_task(context, parameters).await
    }
}

/// Adapts the monotonic time of a [`Clock`] to the limiter: a clock that is set changes no rate.
#[derive(Clone, Debug)]
struct Governed(Arc<dyn Clock>);

impl clock::Clock for Governed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX).into()
    }
}
