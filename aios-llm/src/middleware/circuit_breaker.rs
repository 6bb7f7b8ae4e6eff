//! A circuit breaker around a model.
//!
//! Unlike the one around agents, it has no probe: when the time is over, all requests are made
//! again. The number of failures stays, so the first failure opens it again. A success closes it
//! and forgets the failures. So does an error that is the caller's, such as an invalid request: the
//! provider has answered.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
    ModelStream,
};

/// Rejects requests for a while after several failures in a row, with `MODEL_CIRCUIT_OPEN`.
///
/// After that, requests are made again; the next failure rejects them again. Only failures of the
/// provider count: rate limits, overload, timeouts, lost connections, malformed responses and errors
/// of the server. A stream counts when it begins.
///
/// # Examples
///
/// With [`Fallback`](super::Fallback), another model answers while the first one is down:
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::{
///     LanguageModel, ModelError, ModelRequest, ModelResponse,
///     middleware::{CircuitBreaker, Fallback},
///     model::ModelErrorKind,
///     testing::ScriptedModel,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_llm::ModelError> {
/// let down = ScriptedModel::with_results([Err(ModelError::new(ModelErrorKind::Overloaded, "busy"))]);
/// let guarded = CircuitBreaker::new(down, 1, Duration::from_secs(30));
/// let reserve = ["one", "two"].map(ModelResponse::text);
/// let model = Fallback::new(guarded).or(ScriptedModel::new(reserve));
///
/// let request = ModelRequest::new("Hi");
/// assert_eq!(model.complete(&request).await?.output_text(), "one");
/// // The first model is not asked again for 30 s.
/// assert_eq!(model.complete(&request).await?.output_text(), "two");
/// # Ok(())
/// # }
/// ```
pub struct CircuitBreaker<M> {
    /// The wrapped model.
    model: M,
    /// Failures in a row that open it.
    failures: u32,
    /// How long requests are rejected.
    open_for: Duration,
    /// Only its monotonic time is used.
    clock: Arc<dyn Clock>,
    /// Not shared: each wrapper has its own.
    state: Mutex<State>,
}

/// The content of the lock.
#[derive(Default)]
struct State {
    /// Failures in a row.
    failed: u32,
    /// When requests are made again; in the past if it is closed.
    open_until: Option<Duration>,
}

impl<M: LanguageModel> CircuitBreaker<M> {
    /// Wraps a model, and rejects requests for `open_for` after `failures` consecutive failures; 0
    /// counts as 1.
    #[must_use]
    pub fn new(model: M, failures: u32, open_for: Duration) -> Self {
        Self {
            model,
            failures: failures.max(1),
            open_for,
            clock: Arc::new(SystemClock),
            state: Mutex::default(),
        }
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Rejects a request while the circuit is open, with the time after which it may be made.
    fn check(&self) -> Result<(), ModelError> {
        let now = self.clock.elapsed();
        let state = self.state.lock();
        let Some(until) = state.open_until.filter(|until| *until > now) else { return Ok(()) };
        let reason = format!("{} failed {} times in a row", self.model.name(), state.failed);
        let error = ModelError::new(ModelErrorKind::CircuitOpen, reason);
        Err(error.with_retry_after(until.saturating_sub(now)))
    }

    /// Counts the end of a request.
    fn record<T>(&self, ended: &Result<T, ModelError>) {
        let is_failure = ended.as_ref().is_err_and(|error| {
            matches!(
                error.kind(),
                ModelErrorKind::RateLimited
                    | ModelErrorKind::Overloaded
                    | ModelErrorKind::Timeout
                    | ModelErrorKind::Unavailable
                    | ModelErrorKind::InvalidResponse
                    | ModelErrorKind::Backend
            )
        });
        let now = self.clock.elapsed();
        let mut state = self.state.lock();
        if !is_failure {
            *state = State::default();
            return;
        }
        state.failed = state.failed.saturating_add(1);
        if state.failed >= self.failures {
            state.open_until = Some(now.saturating_add(self.open_for));
        }
    }
}

#[async_trait]
impl<M: LanguageModel> LanguageModel for CircuitBreaker<M> {
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
        self.check()?;
        let ended = self.model.complete(request).await;
        self.record(&ended);
        ended
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.check()?;
        let begun = self.model.stream(request).await;
        self.record(&begun);
        begun
    }
}

impl<M: LanguageModel> fmt::Debug for CircuitBreaker<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CircuitBreaker")
            .field("model", &self.model.name())
            .field("failures", &self.failures)
            .field("open_for", &self.open_for)
            .finish_non_exhaustive()
    }
}
