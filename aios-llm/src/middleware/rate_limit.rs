//! A limit of the rate of requests.
//!
//! The algorithm is the generic cell rate algorithm (ITU-T I.371), with one number as its state:
//! when the next request is due at the full rate. A request takes its place when it is made and
//! then sleeps until its time, so no queue is needed. A request that is dropped while it sleeps
//! keeps its place.
//!
//! A rejected request takes no place. Its error names a time at which it may be repeated. These times
//! are spread over the next hour at the rate, so that rejected requests are not repeated all at once. If
//! another model gets the request instead, it is not repeated, and the time is that of the next place.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
    ModelStream,
};

/// The longest time until the repetition of a rejected request. Not every request is repeated, and the
/// times of those that are not remain unused.
const HORIZON: Duration = Duration::from_secs(60 * 60);

/// The rate of requests that a provider accepts from this process. Clones share it, so that all
/// models of a provider can have one.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::middleware::Rate;
///
/// // 500 requests a minute: as many at once, then one every 120 ms.
/// let rate = Rate::new(500, Duration::from_secs(60));
/// # drop(rate);
/// ```
#[derive(Clone, Debug)]
pub struct Rate {
    /// Time between two requests at the full rate.
    interval: Duration,
    /// How much of the rate may be used in advance, as a time.
    burst: Duration,
    /// Shared by clones.
    places: Arc<Mutex<Places>>,
}

/// The content of the lock.
#[derive(Debug, Default)]
struct Places {
    /// When the next request is due at the full rate.
    due: Duration,
    /// When the next rejected request may be repeated, after those that were rejected before.
    repeat_at: Duration,
}

/// Makes the requests to a model at a rate: the time of each is fixed when it is made, and it waits
/// until then.
///
/// A request that would wait too long is rejected with `MODEL_RATE_LIMITED` and the time after which
/// it may be made again, so that an agent waits on a durable timer and [`Fallback`](super::Fallback)
/// asks another model. Waiting consumes neither an attempt nor budget. The times of rejected requests are
/// spread over the next hour at the rate.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::{
///     middleware::{Rate, RateLimit},
///     testing::ScriptedModel,
/// };
///
/// // Both models are of one provider, which counts their requests together.
/// let rate = Rate::new(60, Duration::from_secs(60));
/// let large = RateLimit::new(ScriptedModel::new([]), rate.clone());
/// let small = RateLimit::new(ScriptedModel::new([]), rate)
///     .with_longest_wait(Duration::from_secs(5));
/// # drop((large, small));
/// ```
pub struct RateLimit<M> {
    /// The wrapped model.
    model: M,
    /// Perhaps shared with other models of the provider.
    rate: Rate,
    /// Longer waits are rejected.
    longest_wait: Duration,
    /// Only its monotonic time is used.
    clock: Arc<dyn Clock>,
}

impl Rate {
    /// `requests` in each period `per` on average. All of them may come at once, and their places become
    /// free one by one, so a single period may have almost twice as many. 0 counts as 1.
    #[must_use]
    pub fn new(requests: u32, per: Duration) -> Self {
        let interval = per / requests.max(1);
        Self { interval, burst: per.saturating_sub(interval), places: Arc::default() }
    }

    /// Takes the next place. Returns how long to wait until then, or how long to stay away. One that
    /// is repeated after a rejection gets a time of its own.
    fn take(
        &self,
        now: Duration,
        longest_wait: Duration,
        is_repeated: bool,
    ) -> Result<Duration, Duration> {
        let mut places = self.places.lock();
        // Time in which no request was made is not saved up beyond `burst`.
        let next = places.due.max(now);
        let wait_for = |due: Duration| due.saturating_sub(self.burst).saturating_sub(now);
        let wait = wait_for(next);
        if wait > longest_wait {
            // The place is not taken: the request may not come back.
            if !is_repeated {
                return Err(wait_for(next).saturating_sub(longest_wait));
            }
            let repeat_at = places.repeat_at.clamp(next, next.saturating_add(HORIZON));
            places.repeat_at = repeat_at.saturating_add(self.interval);
            return Err(wait_for(repeat_at).saturating_sub(longest_wait));
        }
        places.due = next.saturating_add(self.interval);
        Ok(wait)
    }
}

impl<M: LanguageModel> RateLimit<M> {
    /// Default time that a request waits before it is rejected.
    pub const DEFAULT_LONGEST_WAIT: Duration = Duration::from_secs(10);

    /// Wraps a model.
    #[must_use]
    pub fn new(model: M, rate: Rate) -> Self {
        let longest_wait = Self::DEFAULT_LONGEST_WAIT;
        Self { model, rate, longest_wait, clock: Arc::new(SystemClock) }
    }

    /// Sets how long a request waits before it is rejected. It should be shorter than the
    /// [timeout of model calls](crate::LlmAgent::model_timeout). The default is
    /// [`DEFAULT_LONGEST_WAIT`](Self::DEFAULT_LONGEST_WAIT), 10 s.
    #[must_use]
    pub fn with_longest_wait(mut self, wait: Duration) -> Self {
        self.longest_wait = wait;
        self
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Waits for the place of a request, or rejects it.
    async fn wait(&self, request: &ModelRequest) -> Result<(), ModelError> {
        let is_repeated = !request.has_alternative;
        match self.rate.take(self.clock.elapsed(), self.longest_wait, is_repeated) {
            Ok(Duration::ZERO) => Ok(()),
            Ok(wait) => {
                self.clock.sleep(wait).await;
                Ok(())
            }
            Err(later) => {
                let reason = format!("the rate of requests to {} is reached", self.model.name());
                Err(ModelError::new(ModelErrorKind::RateLimited, reason)
                    .with_requested(false)
                    .with_retry_after(later))
            }
        }
    }
}

#[async_trait]
impl<M: LanguageModel> LanguageModel for RateLimit<M> {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn names(&self) -> Vec<&str> {
        self.model.names()
    }

    fn capabilities(&self) -> Capabilities {
        self.model.capabilities()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        self.wait(request).await?;
        self.model.complete(request).await
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.wait(request).await?;
        self.model.stream(request).await
    }
}

impl<M: LanguageModel> fmt::Debug for RateLimit<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RateLimit")
            .field("model", &self.model.name())
            .field("rate", &self.rate)
            .field("longest_wait", &self.longest_wait)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn should_space_requests_after_a_burst() {
        let rate = Rate::new(2, SECOND);
        let clone = rate.clone();
        let start = 100 * SECOND;
        assert_eq!(rate.take(start, SECOND, true), Ok(Duration::ZERO));
        assert_eq!(clone.take(start, SECOND, true), Ok(Duration::ZERO));
        assert_eq!(rate.take(start, SECOND, true), Ok(SECOND / 2));
        assert_eq!(clone.take(start, SECOND, true), Ok(SECOND));
        // A rejected request takes no place, and each comes back at another time.
        assert_eq!(rate.take(start, SECOND, true), Err(SECOND / 2));
        assert_eq!(rate.take(start, SECOND, true), Err(SECOND));
        assert_eq!(rate.take(start + SECOND / 2, SECOND, true), Ok(SECOND));
        assert_eq!(rate.take(start + SECOND, SECOND, true), Ok(SECOND));
        assert_eq!(rate.take(start + 10 * SECOND, SECOND, true), Ok(Duration::ZERO));
    }
}
