//! A circuit breaker around a model.
//!
//! Unlike the one around agents, it has no probe: when the time is over, all requests are made
//! again. The number of failures stays, so the first failure opens it again. A success closes it
//! and forgets the failures. So does an error that is the caller's, such as an invalid request: the
//! provider has answered.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
    ModelStream, StreamEvent,
};

/// Rejects requests for a while after several failures in a row, with `MODEL_CIRCUIT_OPEN`.
///
/// After that, requests are made again; the next failure rejects them again. Only failures of the
/// provider count: rate limits, overload, timeouts, lost connections, malformed responses and errors
/// of the server. A stream counts when it ends, and fails if it ends without the whole response. A
/// request that is dropped counts if its [timeout](crate::model::ModelRequest::timeout) is almost over by
/// then, unless it is a stream whose last piece has just arrived.
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
    /// Perhaps shared with other models of the provider.
    circuit: Circuit,
    /// Only its monotonic time is used.
    clock: Arc<dyn Clock>,
}

/// The failures of a provider, as this process has seen them. Clones share them, so that all models
/// of a provider can have one: a failure of any of them counts, and all are rejected while it is
/// open.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::{
///     middleware::{Circuit, CircuitBreaker},
///     testing::ScriptedModel,
/// };
///
/// let circuit = Circuit::new(5, Duration::from_secs(30));
/// let large = CircuitBreaker::with_circuit(ScriptedModel::new([]), circuit.clone());
/// let small = CircuitBreaker::with_circuit(ScriptedModel::new([]), circuit);
/// # drop((large, small));
/// ```
#[derive(Clone, Debug)]
pub struct Circuit {
    /// Failures in a row that open it.
    failures: u32,
    /// How long requests are rejected.
    open_for: Duration,
    /// Changes with each end of a request. Shared by clones.
    state: Arc<Mutex<State>>,
}

/// The content of the lock.
#[derive(Debug, Default)]
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
        Self::with_circuit(model, Circuit::new(failures, open_for))
    }

    /// Wraps a model with a circuit that other models of its provider may share.
    #[must_use]
    pub fn with_circuit(model: M, circuit: Circuit) -> Self {
        Self { model, circuit, clock: Arc::new(SystemClock) }
    }

    /// Sets the clock. The default is the system clock. Models that share a circuit need the same one.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Begins a request. Rejects it while the circuit is open, with the time after which it may be made.
    fn begin(&self, request: &ModelRequest) -> Result<Waiting, ModelError> {
        let now = self.clock.elapsed();
        let state = self.circuit.state.lock();
        if let Some(until) = state.open_until.filter(|until| *until > now) {
            let name = self.model.name();
            let reason = format!("the circuit of {name} has {} failures in a row", state.failed);
            let error = ModelError::new(ModelErrorKind::CircuitOpen, reason);
            return Err(error.with_retry_after(until.saturating_sub(now)));
        }
        drop(state);
        Ok(Waiting::new(self.circuit.clone(), Arc::clone(&self.clock), request))
    }
}

impl Circuit {
    /// A circuit that opens for `open_for` after `failures` consecutive failures; 0 counts as 1.
    #[must_use]
    pub fn new(failures: u32, open_for: Duration) -> Self {
        Self { failures: failures.max(1), open_for, state: Arc::default() }
    }

    /// Counts a success or a failure.
    fn count(&self, is_failure: bool, now: Duration) {
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

/// Whether an error is a failure of the provider.
fn is_failure(error: &ModelError) -> bool {
    matches!(
        error.kind(),
        ModelErrorKind::RateLimited
            | ModelErrorKind::Overloaded
            | ModelErrorKind::Timeout
            | ModelErrorKind::Unavailable
            | ModelErrorKind::InvalidResponse
            | ModelErrorKind::Backend
    )
}

/// A request that has not ended. If it is dropped, it is so because of its timeout, or because the caller
/// does not need the answer any more, which says nothing about the model.
struct Waiting {
    /// Counts it.
    circuit: Circuit,
    /// That of the wrapper.
    clock: Arc<dyn Clock>,
    /// A tenth of its timeout.
    tenth: Option<Duration>,
    /// When its timeout is almost over: timers are not exact.
    late: Option<Duration>,
    /// Whether it was counted.
    is_over: bool,
}

impl Waiting {
    /// A request that begins.
    fn new(circuit: Circuit, clock: Arc<dyn Clock>, request: &ModelRequest) -> Self {
        let tenth = request.timeout.map(|timeout| timeout / 10);
        let late = request
            .timeout
            .zip(tenth)
            .map(|(timeout, tenth)| clock.elapsed().saturating_add(timeout.saturating_sub(tenth)));
        Self { circuit, clock, tenth, late, is_over: false }
    }

    /// Counts the end of the request, once.
    fn end(&mut self, is_failure: bool) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.circuit.count(is_failure, self.clock.elapsed());
        }
    }

    /// Takes note of a piece of a stream, or of its end.
    fn piece(&mut self, piece: Option<&Result<StreamEvent, ModelError>>) {
        match piece {
            Some(Ok(StreamEvent::Finished(_))) => self.end(false),
            Some(Ok(_)) => {
                let soon = self.tenth.map(|it| self.clock.elapsed().saturating_add(it));
                self.late = self.late.max(soon);
            }
            Some(Err(error)) => self.end(is_failure(error)),
            // It was cut off.
            None => self.end(true),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.late.is_some_and(|late| late <= self.clock.elapsed()) {
            self.end(true);
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
        let mut waiting = self.begin(request)?;
        let ended = self.model.complete(request).await;
        waiting.end(ended.as_ref().is_err_and(is_failure));
        ended
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut waiting = self.begin(request)?;
        let begun = self.model.stream(request).await;
        let pieces = begun.inspect_err(|error| waiting.end(is_failure(error)))?;
        let counted = stream::unfold((pieces, waiting), |(mut pieces, mut waiting)| async move {
            let piece = pieces.next().await;
            waiting.piece(piece.as_ref());
            Some((piece?, (pieces, waiting)))
        });
        Ok(Box::pin(counted))
    }
}

impl<M: LanguageModel> fmt::Debug for CircuitBreaker<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CircuitBreaker")
            .field("model", &self.model.name())
            .field("failures", &self.circuit.failures)
            .field("open_for", &self.circuit.open_for)
            .finish_non_exhaustive()
    }
}
